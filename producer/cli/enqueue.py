"""`sam3-enqueue`: records a run from a source and rings its first chunks. Declares the flags only."""

from typing import Any

import click

from producer.cli.flags.options import exit_flags, json_flag, price_flag, run_flags, stop_flag, turn_flags
from producer.cli.flags.param_types import SourcePlace
from producer.cli.flags.redo import redo_flag
from workers.cli import base


@base.command("sam3-enqueue")
@click.option(
    "--csv",
    "--source",
    required=True,
    type=SourcePlace(),
    help="CSV, JSON Lines, Parquet or list of image paths, gzipped or not; a folder; a pattern in quotes; "
    "all of these in a bucket too, such as s3://bucket/folder.",
)
@run_flags
@turn_flags
@stop_flag
@redo_flag
@click.option("--dry-run", is_flag=True, help="Read and check everything, record and queue nothing.")
@price_flag
@exit_flags
@json_flag
def main(csv: str, dry_run: bool, **flags: Any) -> int:
    """Record a run of image paths and queue it for the workers.

    The same command again continues: rows already recorded are not queued twice, new ones are added.
    """
    from producer.cli import recording

    return recording.enqueue(csv, dry_run, flags)
