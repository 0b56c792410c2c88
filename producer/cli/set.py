"""`sam3-set`: changes what may be changed of a run at any time: priority, share of the workers, budgets."""

from typing import Any

import click

from producer.cli.completion import complete_run
from producer.cli.flags.options import json_flag, steered, stop_flag, turn_flags
from workers.cli import base
from workers.errors import UsageError


@base.command("sam3-set")
@click.argument("run", shell_complete=complete_run)
@turn_flags
@stop_flag
@json_flag
def main(run: str, json: bool, **flags: Any) -> int:
    """Change a run while it goes on. What is in hand is finished first."""
    from functools import partial

    from db.session import read, write
    from db.steering import steer
    from db.views.status import progress
    from producer.cli.found import find_run
    from producer.cli.ring import ring
    from producer.stopping import STOPPING

    changes = steered(flags, "priority", "share")
    found = find_run(run, *STOPPING)
    if not changes:
        raise UsageError(f"say what to change, such as sam3-set {found.argument} --priority 5")
    write(found.sessions, partial(steer, **changes), found.run_id)
    ring(found)
    now = read(found.sessions, progress, found.run_id)
    if json:
        facts = {"priority": now.priority, "share": now.share, "stop_after": list(now.stop_after)}
        base.print_json({"run": found.name} | facts)
    else:
        stops = f", stops after {' or '.join(now.stop_after)}" if now.stop_after else ""
        click.echo(f"run {found.name}: priority {now.priority}, share {now.share:g}{stops}")
    return 0
