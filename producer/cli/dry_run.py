"""Says what recording an input would do, or did: counts, rejected rows, the first images. Writes nothing."""

import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from db.intake import NewRow, known_paths
from db.session import Sessions, read
from db.views.status import progress
from producer.cli.flags.options import exit_code
from producer.cli.flags.redo import foretell
from producer.cli.progress import Meter
from producer.cli.projection import projected, projected_addition
from producer.runs.load import Recorded, Rehearsed, auto_chunk_size, check, rehearse
from producer.runs.plan import asked_rows
from producer.runs.request import RunRequest
from producer.sources.selection import told_left_out
from producer.sources.source import RowSource
from workers.cli import base
from workers.cli.base import counted, say
from workers.cli.opening import look_into
from workers.errors import Unreachable, printable
from workers.inference.reading import location

FIRST_PATHS = 3  # shown so that the user can check where the images are looked for
FIRST_KINDS, MOST_KINDS = 5, 1000  # of bad rows that are shown, and that are told apart
_VALUES = re.compile(r"'[^']*'|\d+")  # what differs in the reasons of bad rows of one kind
SLICE_ROWS = 1000  # that are looked up in the run together
MOST_HASHES = 1_000_000  # of rows that are remembered to know repeated ones, in some 70 MB


def report_dry_run(
    source: RowSource,
    request: RunRequest,
    url: str,
    flags: dict[str, Any],
    fit: Callable[[Sessions, RunRequest], RunRequest] = lambda sessions, request: request,
    run_file: Path | None = None,
) -> int:
    """Read all rows and say what recording them would do; return the exit code. Needs no broker, database or model.

    It also says which columns are read, where the first images are, what is left out, and what the run, or a prompt
    that is added to it, will cost if the database of `url` is there and has a run of the same model. What the command
    itself would refuse is refused; `fit` is called first, as the command does. A database that cannot be reached is
    a warning. `run_file` is that of `open_database`.
    """
    prompts, redone, seen = _rehearsed(source, request, url, flags, fit, run_file)
    wanted, rows = asked_rows(source, source.survey(), request)
    seen.read(request, wanted, rows)
    rejected, price = seen.rejected.total(), flags["gpu_hour_price"]
    size = request.chunk_size or auto_chunk_size(wanted, 1)
    facts = {
        "run": request.name,
        "images": wanted,
        "chunks": -(-(wanted - rejected) // size),
        "queued": 0,
        "already_done": seen.ended,
        "duplicates": seen.duplicates,
        "rejected": rejected,
        "cancelled": 0,
        "redone": redone,
        "new": seen.new,
    }
    adding = projected_addition(url, request, price)
    told_cost, cost = adding.told, adding.cost
    work = adding.images if request.change else seen.to_compute + redone
    if work and not request.change:
        told_cost, cost = projected(url, request.frozen, len(prompts), work, price)
    if flags["json"]:
        left_out = [asdict(reason) for reason in source.left_out]
        more = {"first": seen.first, "left_out": left_out, **source.named_columns, "cost": cost}
        base.print_json(facts | {"dry_run": True} | more | {"adding": adding.images, "prompts": list(prompts)})
    else:
        shown = json.dumps(prompts, ensure_ascii=False)
        record = "record" if seen.new else "record nothing new of"
        click.echo(f"would {record} {told(facts, Recorded(0, seen.new, 0), source.kind)}; prompts: {shown}")
        _tell_rows(source, seen)
        if flags["redo"]:
            click.echo(f"would compute {counted(redone, 'image')} again (--redo {flags['redo']})")
        if told_cost:
            click.echo(told_cost)
        elif price is not None and work:
            say("no run of this model was measured here: run a part of it first, such as --limit 100 --run try")
    return exit_code(rejected, wanted, flags["max_failures"], flags["exit_zero"])


def _rehearsed(
    source: RowSource,
    request: RunRequest,
    url: str,
    flags: dict[str, Any],
    fit: Callable[[Sessions, RunRequest], RunRequest],
    run_file: Path | None,
) -> "tuple[tuple[str, ...], int, _Seen]":
    """The prompts that the run would have, how many of its images --redo takes, and what will be seen of the rows.

    Raises what the command itself would raise before it begins.
    """
    try:
        sessions = look_into(url, run_file)
    except Unreachable as error:
        say(f"warning: {error}; not compared with runs that are there")
        check(request, source.survey())
        return request.change.applied(request.prompts), 0, _Seen(source, None, Rehearsed(()))
    there = rehearse(sessions, source, request if sessions is None else fit(sessions, request))
    return there.prompts, foretell(sessions, request.name, flags), _Seen(source, sessions, there)


class _Seen:
    """What recording the rows of a source would add to the run that `there` tells of."""

    def __init__(self, source: RowSource, sessions: Sessions | None, there: Rehearsed) -> None:
        self._source, self._sessions, self._there = source, sessions, there
        self.rejected: Counter[str] = Counter()  # bad rows by the reason of the first one of their kind
        self._reasons: dict[str, str] = {}  # kind -> the reason of its first row
        self.first: list[str] = []  # the absolute paths of the first good rows
        self.new = 0  # rows that the run does not have, good or bad
        self.duplicates = 0  # rows that repeat one of the first million different ones
        self.to_compute = 0  # images that are new to the run, and those that it has not computed yet
        self.ended = 0  # images of the run that are done or failed
        self._hashes: set[int] = set()  # of good rows
        if sessions is not None and there.goes_on is not None:
            images = read(sessions, progress, there.goes_on).images
            self.to_compute, self.ended = images.pending, images.ended

    def read(self, request: RunRequest, wanted: int, rows: Iterator[NewRow]) -> None:
        """Read the rows, which are `wanted`."""
        done = 0
        with Meter(f"checking {request.name}", "rows") as meter:
            while slice_ := list(itertools.islice(rows, SLICE_ROWS)):
                self._look(slice_)
                done += len(slice_)
                meter.tell(done, wanted)

    def _look(self, rows: Sequence[NewRow]) -> None:
        known = self._known({row.path for row in rows})
        for row in rows:
            is_new = row.path not in known
            self.new += is_new
            if row.rejected:
                self._reject(row.rejected[1])
                continue
            if len(self.first) < FIRST_PATHS:
                self.first.append(location.absolute(location.place(self._source.root, row.path)))
            of_row = hash((row.path, row.prompts, row.boxes))
            if of_row in self._hashes:
                self.duplicates += 1
                continue
            if len(self._hashes) < MOST_HASHES:
                self._hashes.add(of_row)
            self.to_compute += is_new

    def _reject(self, reason: str) -> None:
        """Count a bad row. `reason` begins with its place; of one kind are those that differ in numbers and quotes."""
        kind = _VALUES.sub("", reason.partition(": ")[2])
        if kind not in self._reasons and len(self._reasons) == MOST_KINDS:
            kind = next(iter(self._reasons))
        self.rejected[self._reasons.setdefault(kind, reason)] += 1

    def _known(self, paths: set[str]) -> set[str]:
        """Which of these paths are rows of the run."""
        if self._sessions is None or self._there.goes_on is None:
            return set()
        return paths if self._there.is_unchanged else read(self._sessions, known_paths, self._there.goes_on, paths)


def _tell_rows(source: RowSource, seen: _Seen) -> None:
    for name, column in source.named_columns.items():
        click.echo(f"  {name.replace('_', ' ')}: {printable(column)}")
    for path in seen.first:
        click.echo(f"  image: {location.shown(path)}")
    if source.left_out:
        say(f"  left out: {told_left_out(source.left_out)}")
    kinds = list(seen.rejected.items())
    for reason, count in kinds[:FIRST_KINDS]:
        say(f"  rejected: {reason}" + (f" ({count:,} such rows)" if count > 1 else ""))
    if others := sum(count for _, count in kinds[FIRST_KINDS:]):
        say(f"  ... and {counted(others, 'row')} for other reasons")


def told(facts: dict[str, Any], recorded: Recorded, kind: str) -> str:
    """For people, such as `run faces: 10,000 images in 40 chunks, 40 queued now, 3 duplicate`."""
    parts = [f"{counted(facts['images'], 'image')} in {counted(facts['chunks'], 'chunk')}"]
    words = {"queued": "queued now", "already_done": "already done", "duplicates": "duplicate"}
    words |= {"rejected": "rejected", "cancelled": "cancelled"}
    parts += [f"{facts[key]:,} {word}" for key, word in words.items() if facts[key]]
    if recorded.new_rows != facts["images"]:
        parts.append(f"{recorded.new_rows:,} new")
    if recorded.gone_rows:
        parts.append(f"{recorded.gone_rows:,} no longer in the {kind} (left out of exports)")
    return f"run {facts['run']}: {', '.join(parts)}"
