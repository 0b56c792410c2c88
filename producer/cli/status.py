"""`sam3-status`: shows all runs, or one; once, live, or until they are over. Declares the flags only."""

from typing import Any

import click

from producer.cli.completion import complete_run
from producer.cli.options import exit_flags, json_flag, price_flag
from workers.cli import base


@base.command("sam3-status")
@click.argument("run", required=False, shell_complete=complete_run)
@click.option("--watch", is_flag=True, help="Keep showing it until the run is over; without RUN, until all are.")
@click.option("--wait", is_flag=True, help="Print nothing until the run is over; without RUN, until all are.")
@click.option("--errors", is_flag=True, help="List every kind of error, not only the five most frequent.")
@price_flag
@exit_flags
@json_flag
def main(
    run: str | None, watch: bool, wait: bool, errors: bool, json: bool, gpu_hour_price: float | None, **code: Any
) -> int:
    """Show how far a run is; without RUN, all runs. It asks the database only, so it works while the broker is down.

    If the run is over, the exit code is 1 if images failed or were cancelled, or rows were rejected. Without RUN it is
    1 after --wait or --watch if that is so for any run.
    """
    from producer.cli import standing

    return standing.show(run, watch, wait, errors=errors, json=json, price=gpu_hour_price, **code)
