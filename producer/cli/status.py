"""`sam3-status`: shows all runs, or one; once, live, or until they are over. Declares the flags only."""

from typing import Any

import click
from click.core import ParameterSource

from producer.cli.completion import complete_run
from producer.cli.flags.choice_flags import OTHERS, Threshold, choice_flags
from producer.cli.flags.options import exit_flags, json_flag, price_flag
from workers.cli import base
from workers.errors import UsageError


@base.command("sam3-status")
@click.argument("run", required=False, shell_complete=complete_run)
@click.option("--watch", is_flag=True, help="Keep showing it until the run is over; without RUN, until all are.")
@click.option("--wait", is_flag=True, help="Print nothing until the run is over; without RUN, until all are.")
@click.option("--errors", is_flag=True, help="List every kind of error, not only the five most frequent.")
@click.option(
    "--at",
    type=Threshold(),
    multiple=True,
    metavar="THRESHOLDS",
    help="What other thresholds would find, such as 0.4 or person=0.7,hat=0.4; repeatable, to compare.",
)
@choice_flags
@price_flag
@exit_flags
@json_flag
def main(run: str | None, **flags: Any) -> int:
    """Show how far a run is; without RUN, all runs. It asks the database only, so it works while the broker is down.

    If the run is over, the exit code is 1 if images failed or were cancelled, or rows were rejected. Without RUN it is
    1 after --wait or --watch if that is so for any run.

    With --at it counts which instances each choice would find, by class, and how many images would be empty. Nothing is
    computed again, and nothing changes: --at 0.4 --at 0.6 --nms 0.7 shows two choices with the same other flags.
    """
    chosen = {name: flags.pop(name) for name in OTHERS}
    if thresholds := flags.pop("at"):
        if run is None or flags["watch"] or flags["wait"]:
            raise UsageError("--at: give one RUN, without --watch and --wait")
        from producer.cli import at

        return at.show(run, thresholds, chosen, json=flags["json"])
    context = click.get_current_context()
    for name in OTHERS:  # a variable or a configuration file may mean other commands
        if context.get_parameter_source(name) == ParameterSource.COMMANDLINE:
            raise UsageError(f"--{name.replace('_', '-')}: it goes with --at, such as --at 0.5")
    from producer.cli import standing

    watch, wait, price = flags.pop("watch"), flags.pop("wait"), flags.pop("gpu_hour_price")
    return standing.show(run, watch, wait, price=price, **flags)
