"""`sam3-run`: a whole run on this machine in one command. Declares the flags only."""

from pathlib import Path
from typing import Any

import click

from producer.cli.flags.options import (
    exit_flags,
    force_flag,
    json_flag,
    price_flag,
    run_flags,
    stop_flag,
)
from producer.cli.flags.param_types import OUTPUT_FOLDER, STATE_FOLDER, SourcePlace
from producer.cli.flags.redo import redo_flag
from producer.results.format_names import MODULES
from sam3_start import QuickImports
from workers.cli import base
from workers.cli.commands import worker_flags

ALWAYS = ("csv", "png")  # these are written without being asked for


@base.command("sam3-run")
@click.argument("source", type=SourcePlace())
@click.option("-o", "--output", required=True, type=OUTPUT_FOLDER, help="Result folder.")
@run_flags
@stop_flag
@redo_flag
@worker_flags
@click.option("--state-dir", type=STATE_FOLDER, help="Folder for database, logs and broker instead of -o.")
@click.option("--dry-run", is_flag=True, help="Say what would be done and write nothing, not even a folder.")
@click.option("--retry-failed", is_flag=True, help="Also try failed images again.")
@click.option(
    "--select",
    type=click.Choice(["union", "best", "largest"]),
    default="union",
    help="What a png mask holds: all instances together, the one of the best score, or the largest.",
)
@click.option(
    "--also",
    type=click.Choice([name for name in MODULES if name not in ALWAYS]),
    multiple=True,
    help="Write this format too, as sam3-export does; may be given several times.",
)
@force_flag
@price_flag
@exit_flags
@json_flag
def main(source: str, output: Path, **flags: Any) -> int:
    """Segment SOURCE on this machine; results go to the output folder.

    SOURCE is a folder of images, a pattern in quotes such as 'photos/**/*.jpg', or a CSV, JSON Lines, Parquet or list
    of paths, gzipped or not; or one of these in a bucket, such as s3://bucket/folder.

    The same command again goes on where it stopped. Masks and preview.jpg are written while it works, results.csv at
    the end.
    """
    with QuickImports():
        from producer.cli.local import run_here

    return run_here.run(source, output, flags)
