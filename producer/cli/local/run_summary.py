"""Ends a sam3-run: writes its files, and says what they hold and what to do next. Starts no node."""

import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import click

from producer.cli.exported import telling_how_to_go_on
from producer.cli.flags.options import exit_code
from producer.cli.flags.redo import without_redo
from producer.cli.found import Found
from producer.cli.local.run_results import write_files
from producer.cli.run_folder import COMMAND
from producer.results.files.targets import free_file
from producer.results.status import Standing, duration, told_errors, told_warnings
from producer.sources import place
from producer.sources.source import RowSource
from workers.cli import base
from workers.cli.base import counted, say
from workers.errors import UsageError, printable


@dataclass(frozen=True)
class Spent:
    """How long this command took, and how many images had ended before it started."""

    seconds: float
    images_before: int


def finish(
    found: Found,
    flags: dict[str, Any],
    asked: signal.Signals | None,
    spent: Spent,
    source: RowSource,
) -> int:
    """Write files and summary if the run is over, else say how to go on; return the exit code.

    `asked` is the signal that stopped the command, if one did: then nothing is written, which could take hours.
    """
    standing = Standing(found.sessions, found.run_id)
    if asked is not None or not standing.over:
        _tell_unfinished(standing)
        return 1 if asked is None else 128 + asked
    with telling_how_to_go_on(found, None):
        written = write_files(found, flags["select"], flags["also"], force=flags["force"])
    if flags["json"]:
        facts = {
            "seconds": round(spent.seconds, 1),
            "files": written.files,
            "refused": written.refused,
            "left_out": [asdict(reason) for reason in source.left_out],
        }
        base.print_json(standing.as_json() | facts)
    else:
        summarise(standing, spent, written.files, source.place)
        _tell_next(standing, found, flags["also"])
    total = standing.progress.images.total
    failures = exit_code(standing.shortfall, total, flags["max_failures"], flags["exit_zero"])
    return max(failures, 0 if written.whole else 1, UsageError.exit_code if written.refused else 0)


def _tell_unfinished(standing: Standing) -> None:
    """Say how far the run is, why it is paused if it is, and how it goes on."""
    paused = f", paused {standing.progress.paused}" if standing.progress.paused else ""
    cause = f"; likely {standing.cause.told}" if standing.cause else ""
    say(standing.one_line(waiting=False) + paused + cause)
    retries = "; with --retry-failed it tries the failed images first" if cause and standing.worth_a_retry else ""
    say(f"Next: the same command again goes on from here{retries}")


def _tell_next(standing: Standing, found: Found, also: Sequence[str]) -> None:
    """Say which command the user of a run that is over may want next. `also` are the formats that it wrote."""
    if standing.worth_a_retry:
        given = [argument for argument in without_redo(sys.argv[1:]) if argument != "--retry-failed"]
        say(f"Next: {shlex.join([COMMAND, *given, '--retry-failed'])}")
    elif not standing.progress.images.ended:
        say("Next: the same command with --dry-run says why rows are rejected; correct them, then run it again")
    elif "coco" not in also:
        say(f"Next: sam3-export {found.argument} --format coco -o {free_file(f'{found.folder}/coco', '.json')}")


def summarise(standing: Standing, spent: Spent, written: dict[str, str], source: str) -> None:
    """Print the numbers of a run that is over, and its files."""
    progress, images = standing.progress, standing.progress.images
    now = images.ended - spent.images_before
    speed = f" ({now / spent.seconds:.1f} images/s)" if spent.seconds > 1 else ""
    some = f"{counted(now, 'image')} of " if spent.images_before or images.cancelled else ""
    rows = counted(images.total - images.gone, "image")
    worked = f"{some}{rows} in {duration(spent.seconds)}{speed}"
    if now <= 0:
        worked = rows + ("" if images.cancelled else ", nothing left to do")
    cancelled = f"cancelled with {counted(images.cancelled, 'image')} to go; " if images.cancelled else ""
    click.echo(f"run {progress.run}: {cancelled}{worked}")
    parts = [f"{images.segmented:,} segmented", f"{images.empty:,} empty"]
    parts += [
        f"{getattr(images, name):,} {name}"
        for name in ("failed", "cancelled", "duplicate", "rejected")
        if getattr(images, name)
    ]
    click.echo(f"  {', '.join(parts)}; {counted(progress.instances, 'instance')}{standing.told_capped()}")
    if images.gone:
        gone = f"{counted(images.gone, 'row')} no longer in {printable(place.name(source))}"
        click.echo(f"  gone: {gone}, so not in the results; what was found in them before is counted above")
    if standing.errors:
        click.echo(f"  errors: {told_errors(standing.errors)}")
    if standing.warnings:
        click.echo(f"  warnings: {told_warnings(standing.warnings)}")
    width = max(8, *map(len, written))
    for name, path in written.items():
        click.echo(f"  {name:<{width}} {path}")
