"""`sam3-export`: writes a run's results to files. Declares the flags only; needs no GPU and no broker."""

from pathlib import Path
from typing import Any

import click

from producer.cli.completion import complete_run
from producer.cli.flags.choice_flags import Threshold, choice_flags
from producer.cli.flags.format_flags import format_flags
from producer.cli.flags.options import force_flag, json_flag
from producer.cli.flags.param_types import ExportOutput
from producer.results.format_names import MODULES
from workers.cli import base


@base.command("sam3-export")
@click.argument("run", shell_complete=complete_run)
@click.option("--format", type=click.Choice(tuple(MODULES)), required=True, help="What to write.")
@click.option(
    "-o",
    "--output",
    required=True,
    type=ExportOutput(),
    help="A file, s3://bucket/key, or - for standard output; for png, cutout, labelme, webdataset, yolo-seg a folder, "
    "or s3://bucket/folder.",
)
@click.option(
    "--threshold",
    type=Threshold(),
    multiple=True,
    metavar="[CLASS=]SCORE",
    help="Another score threshold, for all classes or for one (person=0.7), down to the run's score floor; repeatable.",
)
@choice_flags
@click.option(
    "--only",
    type=click.Choice(["segmented", "empty", "failed", "capped"]),
    multiple=True,
    help="Only rows with this sam3_status, or with a capped result; may be given several times.",
)
@click.option(
    "--rows",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Only the rows that this file lists: in each line the path of an image, or the number of a row.",
)
@format_flags
@click.option("--all", is_flag=True, help="Also rows that the source no longer has, at the end.")
@click.option("--partial", is_flag=True, help="Export what there is so far, although the run is not over.")
@click.option(
    "--jobs",
    type=click.IntRange(1, 64),
    metavar="N",
    help="Processes that draw (default: one for each core, up to 16).",
)
@force_flag
@json_flag
def main(run: str, format: str, output: Path | str, **flags: Any) -> int:
    """Write a run's results. The mask threshold is frozen in the masks; the score threshold can be chosen again.

    csv is the input with added columns; with --masks it names each mask that is in that folder and was made from the
    same instances, and ends with 1 if it leaves cells blank. jsonl and parquet are the input with nested results. coco
    has every instance as RLE, coco-results is what COCO's evaluation takes. png has one mask for each image and class,
    in folders like those of the input (--select: all instances together, the best, or the largest); masks that exist
    already stay, so that the same command goes on where it was stopped. Without --partial, a run that is not over is
    not exported.
    """
    from producer.cli import exported

    return exported.write(run, format, output, flags)
