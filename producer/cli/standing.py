"""Shows how far runs are, for `sam3-status`: once, live, or until they are over. Declares no flags."""

import functools
import time
from collections.abc import Callable
from typing import Any, TypeVar

import click
from rich.live import Live
from sqlalchemy.exc import DBAPIError

from db.refusals import passes
from db.session import describe_failure
from producer.cli.console import console
from producer.cli.flags.options import exit_code
from producer.cli.found import Found, find_run
from producer.cli.run_folder import go_on, is_at_work
from producer.results.files.targets import free_file
from producer.results.status import AllRuns, Standing
from workers.cli import base, opening
from workers.cli.base import say

Shown = TypeVar("Shown", Standing, AllRuns)

WATCH_SECONDS = 1.0
LINE_SECONDS = 10.0  # between two lines, if there is no terminal


def show(
    run: str | None, watch: bool, wait: bool, *, errors: bool, json: bool, price: float | None, **code: Any
) -> int:
    """Show the run, or all runs; return the exit code of the command. `code` are the flags for `exit_code`."""
    awaited = functools.partial(until_over, watch=watch and not json, wait=wait or watch, errors=errors)
    if run is None:
        return all_runs(awaited, json, price, ask_code=wait or watch, **code)
    found = find_run(run)
    standing = awaited(lambda: standing_of(found, price), found.settings.database_url)
    if json:
        base.print_json(standing.as_json())
    else:
        console().print(standing.table(errors=errors))
        next_step(standing, found)
    # Failed images decide the exit code only when the run is over. Before that, the user asks how far it is.
    return exit_code(standing.shortfall, standing.progress.images.total, **code) if standing.over else 0


def standing_of(found: Found, price: float | None = None) -> Standing:
    """The run's standing. For a sam3-run folder it also says whether a sam3-run is working there now."""
    if found.folder is None:
        return Standing(found.sessions, found.run_id, price=price)
    starting = is_at_work(found.settings.state_dir)
    begin = "its nodes are starting" if starting else "the same sam3-run command goes on"
    return Standing(found.sessions, found.run_id, begin, starting=starting, price=price)


def all_runs(
    awaited: Callable[[Callable[[], AllRuns], str], AllRuns],
    json: bool,
    price: float | None,
    *,
    ask_code: bool,
    **code: Any,
) -> int:
    """Show all runs. If `ask_code`, return the highest exit code of any run, else 0."""
    url = base.settings().database_url
    sessions = opening.open_database(url)
    runs = awaited(lambda: AllRuns(sessions, price), url)
    if json:
        base.print_json(runs.as_json())
    for standing in runs.standings if not json else ():
        click.echo(f"{standing.shown_state:<10} {standing.one_line()}")
    if not json and not runs.standings:
        say("no runs yet; begin with sam3-enqueue --csv FILE --prompt TEXT")
    codes = [exit_code(standing.shortfall, standing.progress.images.total, **code) for standing in runs.standings]
    return max(codes, default=0) if ask_code else 0


def until_over(read: Callable[[], Shown], url: str, *, watch: bool, wait: bool, errors: bool) -> Shown:
    """Return `read()`. With `wait` repeat it until it is over, and wait for the database of `url`, too."""
    if wait:
        read = functools.partial(until_answered, read, url)
    if watch:
        follow(read, errors)
    shown, told = read(), set[str]()
    while wait and not shown.over:
        for pause in shown.pauses():
            if pause not in told:
                say(pause)
        told = set(shown.pauses())
        time.sleep(WATCH_SECONDS)
        shown = read()
    return shown


def until_answered(read: Callable[[], Shown], url: str) -> Shown:
    """Return `read()`, repeated for as long as the database is away.

    `read` itself waits for a short time, so an error of it means that the database will be away for longer.
    """
    told = ""
    while True:
        try:
            shown = read()
        except DBAPIError as error:
            if not passes(error):
                raise
            if (reason := describe_failure(error, url)) != told:
                say(f"waiting for the database: {reason}")
            told = reason
            time.sleep(WATCH_SECONDS)
        else:
            if told:
                say("the database answers again")
            return shown


def follow(read: Callable[[], Shown], errors: bool) -> None:
    """Show the standing until the run is over: in place on a terminal, else a line every `LINE_SECONDS`."""
    screen = console(stderr=True)
    standing = read()
    if not screen.is_terminal:
        next_line = 0.0
        while not standing.over:
            if time.monotonic() >= next_line:
                next_line = time.monotonic() + LINE_SECONDS
                for line in standing.lines():
                    say(line)
            time.sleep(WATCH_SECONDS)
            standing = read()
        return
    with Live(standing.table(errors=errors), console=screen, transient=True) as live:
        while not standing.over:
            time.sleep(WATCH_SECONDS)
            standing = read()
            live.update(standing.table(errors=errors))


def next_step(standing: Standing, found: Found) -> None:
    """If the run is over, or a budget has paused it, say which command the user may want next."""
    run = found.argument
    if standing.cause:
        _go_on(standing, found)
    elif standing.over and standing.worth_a_retry:
        say(f"Next: sam3-retry {run}")
    elif standing.over:
        say(f"Next: sam3-export {run} --format csv -o {free_file(f'{standing.progress.run}-results', '.csv')}")


def _go_on(standing: Standing, found: Found) -> None:
    """Say how a run goes on that a budget has paused, and before that how its failed images are tried again."""
    failed = standing.progress.images.failed and standing.worth_a_retry
    if standing.cause is not None and (threshold := standing.cause.threshold) is not None:
        file = free_file(f"{standing.progress.run}-low", ".csv")
        low = f"--partial --format csv --threshold {threshold:g} -o {file}"
        say(f"To look at lower scores: sam3-export {found.argument} {low}")
    if found.folder is not None:
        say(f"Next: {go_on(found.folder)}{' --retry-failed' if failed else ''}")
        return
    if failed:
        say(f"When that is mended: sam3-retry {found.argument}")
    say(f"Next: sam3-resume {found.argument}")
