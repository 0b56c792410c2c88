"""`sam3-status`: all runs, or one; once, live, or until it is over."""

import time
from collections.abc import Callable
from typing import Any

import click
from rich.console import Console
from rich.live import Live

from db import views
from db.session import reading
from producer.cli.options import exit_code, exit_flags, find_run, json_flag
from producer.status import Standing
from workers import edge
from workers.edge import say

WATCH_SECONDS = 1.0
LINE_SECONDS = 10.0  # where there is no terminal


@edge.command("sam3-status")
@click.argument("run", required=False)
@click.option("--watch", is_flag=True, help="Keep showing it until the run is over.")
@click.option("--wait", is_flag=True, help="Print nothing until the run is over.")
@click.option("--errors", is_flag=True, help="List every kind of error, not only the five most frequent.")
@exit_flags
@json_flag
def main(run: str | None, watch: bool, wait: bool, errors: bool, json: bool, **code: Any) -> int:
    """Show how far a run is; without RUN, all runs. SQL is the truth: this works while the broker is down."""
    if run is None:
        return all_runs(json)
    found = find_run(run)
    begin = "start sam3-worker" if found.folder is None else "the same sam3-run command goes on"

    def read() -> Standing:
        return Standing(found.sessions, found.run_id, begin)

    if watch and not json:
        follow(read, errors)
    elif watch or wait:
        while not read().over:
            time.sleep(WATCH_SECONDS)
    standing = read()
    if json:
        edge.print_json(standing.as_json())
    else:
        Console().print(standing.table(errors=errors))
        next_step(standing, found.argument)
    images = standing.progress.images
    # Whether images failed is the answer only of a run that is over; before, the question was how far it is.
    return exit_code(images.failed + images.rejected, images.total, **code) if standing.over else 0


def all_runs(json: bool) -> int:
    sessions = edge.open_database(edge.settings().database_url)
    with reading(sessions) as session:
        ids = views.run_ids(session)
    standings = [Standing(sessions, run_id) for run_id in ids]
    if json:
        edge.print_json({"runs": [standing.as_json() for standing in standings]})
        return 0
    for standing in standings:
        click.echo(f"{standing.progress.state:<10} {standing.one_line()}")
    if not standings:
        say("no runs yet; begin with sam3-enqueue --csv images.csv --prompt person")
    return 0


def follow(read: Callable[[], Standing], errors: bool) -> None:
    """Show the standing until the run is over: in place on a terminal, a line now and then elsewhere."""
    console = Console(stderr=True)
    standing = read()
    if not console.is_terminal:
        next_line = 0.0
        while not standing.over:
            if time.monotonic() >= next_line:
                next_line = time.monotonic() + LINE_SECONDS
                say(standing.one_line())
            time.sleep(WATCH_SECONDS)
            standing = read()
        return
    with Live(standing.table(errors=errors), console=console, transient=True) as live:
        while not standing.over:
            time.sleep(WATCH_SECONDS)
            standing = read()
            live.update(standing.table(errors=errors))


def next_step(standing: Standing, run: str) -> None:
    images = standing.progress.images
    if standing.over and images.failed + images.cancelled:
        say(f"Next: sam3-retry {run}")
    elif standing.over:
        say(f"Next: sam3-export {run} --format csv -o {standing.progress.run}.csv")
