"""How long retry, cancel and delete of a whole run take, and how that grows with its rows.

Run as `python -m benchmarks.operate [--rows N] [--database sqlite|postgresql]`. Each size has a database of its own,
and each command a process of its own: what is timed is the work of the command, without the start of Python. All of
the run's images failed and are retried; then they are pending and are cancelled; then each gets a result with one mask
and the run is deleted. A second run has chunks of a single image, which are cancelled: as many chunks as 100 million
images have. PostgreSQL runs on this machine without fsync. No worker is busy: beside one slices are smaller, and the
database is left alone half of the time.
"""

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
from sqlalchemy import text

from benchmarks.enqueue import FROZEN, alone, databases, write_csv
from benchmarks.timing import Row, table
from db.runs import RetryFilter, run_id_of
from db.session import NO_TIME_LIMITS, Sessions, connect, read
from producer.runs.load import record
from producer.runs.operate import cancel, delete, retry
from producer.runs.request import RunRequest
from producer.sources.text.csv_source import CsvSource

REQUEST = RunRequest("large", ("person",), FROZEN, chunk_size=256)
SINGLES = replace(REQUEST, name="singles", chunk_size=1)
MOST_CHUNKS = 390_625  # of 256 images, in 100 million
MASK_BYTES = 100

FAILED = (
    "UPDATE image SET state = 'failed', error_class = 'missing', error = 'no file there' WHERE state = 'pending'",
    "UPDATE chunk SET state = 'done', failed = images",
    "UPDATE run SET state = 'done', finished_at = created_at",
)
FOUND = (
    "INSERT INTO result (image_id, prompt_id, fence, presence, instances, capped)"
    " SELECT id, 1, 1, 0.9, 1, false FROM image WHERE chunk_id IS NOT NULL",
    "INSERT INTO instance (image_id, prompt_id, rank, score, x1, y1, x2, y2, area, rle)"
    " SELECT image_id, prompt_id, 0, 0.9, 0, 0, 9, 9, 81, :rle FROM result",
)


NAMES = (REQUEST.name, SINGLES.name)


@dataclass(frozen=True)
class Operation:
    """One command on one run."""

    database: str
    command: str
    rows: int  # that it handled
    seconds: float


@click.command()
@click.option("--rows", default=1_000_000, show_default=True, help="The largest size; smaller ones are measured too.")
@click.option("--database", type=click.Choice(["sqlite", "postgresql"]), multiple=True, help="Default: both.")
def main(rows: int, database: tuple[str, ...]) -> None:
    sizes = [size for size in (10_000, 100_000) if size < rows] + [rows]
    for kind in database or ("sqlite", "postgresql"):
        print(table(operation_rows(measure(kind, sizes))), end="\n\n", flush=True)


def measure(kind: str, sizes: list[int]) -> list[Operation]:
    """Every command at every size, in one kind of database."""
    measured: list[Operation] = []
    with tempfile.TemporaryDirectory() as folder, databases(kind, Path(folder)) as fresh:
        for size in sizes:
            source = Path(folder) / f"{size}.csv"
            write_csv(source, size)
            with fresh() as url:
                measured += [Operation(kind, name, *alone(step, url, source)) for name, step in STEPS.items()]
            write_csv(source, min(size, MOST_CHUNKS))
            with fresh() as url:
                measured.append(Operation(kind, "cancel, a chunk an image", *alone(cancel_singles, url, source)))
    return measured


def retry_all(url: str, source: Path) -> tuple[int, float]:
    return timed(url, partial(load, source=source, request=REQUEST, then=FAILED), partial(retry, which=RetryFilter()))


def cancel_all(url: str, source: Path) -> tuple[int, float]:
    return timed(url, lambda sessions: None, cancel)


def delete_all(url: str, source: Path) -> tuple[int, float]:
    return timed(url, partial(execute, statements=FOUND), delete)


def cancel_singles(url: str, source: Path) -> tuple[int, float]:
    return timed(url, partial(load, source=source, request=SINGLES), cancel)


STEPS = {"retry": retry_all, "cancel": cancel_all, "delete": delete_all}


def timed(url: str, prepare: Callable[[Sessions], None], command: Callable[[Sessions, int], int]) -> tuple[int, float]:
    """How many rows the command handled, and its seconds."""
    sessions = connect(url)
    prepare(sessions)
    run_id = read(sessions, lambda session: next(filter(None, (run_id_of(session, name) for name in NAMES))))
    began = time.perf_counter()
    rows = command(sessions, run_id)
    seconds = time.perf_counter() - began
    sessions.kw["bind"].dispose()
    return rows, seconds


def load(sessions: Sessions, source: Path, request: RunRequest, then: tuple[str, ...] = ()) -> None:
    record(sessions, CsvSource(source), request, lambda done, total: None)
    execute(sessions, then)


def execute(sessions: Sessions, statements: tuple[str, ...]) -> None:
    with sessions.begin() as session:
        if session.get_bind().dialect.name == "postgresql":
            session.execute(NO_TIME_LIMITS)  # nothing of ours changes so many rows at once
        for statement in statements:
            session.execute(text(statement), {"rle": bytes(MASK_BYTES)} if ":rle" in statement else {})


def growth(measured: list[Operation], one: Operation) -> float | None:
    """The exponent by which time grows with rows, from the next smaller size: 1 is linear, 2 quadratic."""
    same = [other for other in measured if (other.database, other.command) == (one.database, one.command)]
    smaller = [other for other in same if other.rows < one.rows]
    if not smaller:
        return None
    before = max(smaller, key=lambda other: other.rows)
    return math.log(one.seconds / before.seconds) / math.log(one.rows / before.rows)


def operation_rows(measured: list[Operation]) -> list[Row]:
    """As a table shows them."""
    rows: list[Row] = []
    for one in measured:
        exponent: Any = growth(measured, one)
        rows.append(
            {
                "database": one.database,
                "command": one.command,
                "rows": one.rows,
                "seconds": one.seconds,
                "rows a second": one.rows / one.seconds,
                "time grows with rows to the power of": "" if exponent is None else f"{exponent:.2f}",
            }
        )
    return rows


if __name__ == "__main__":
    main()
