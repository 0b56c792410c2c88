"""How fast rows come into the database, how memory and time grow with them, and what a large run costs afterwards.

Run as `python -m benchmarks.enqueue [--rows N] [--database sqlite|postgresql]`. The bare load is the least that anyone
could write: csv.reader and one executemany (COPY on PostgreSQL) into the same table with the same indexes and keys, in
one transaction, without checking anything. Every load has a process of its own, for its memory, and a database of its
own, and they take turns. PostgreSQL runs on this machine without fsync. No model takes part: a few chunks are claimed
and committed as a worker does, and three statements finish the others.
"""

import csv
import os
import random
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import psycopg
from sqlalchemy import Engine, event, text
from sqlalchemy.engine import make_url

from benchmarks.timing import Row, as_rows, table
from db import claims, doorbells, intake, presence
from db.chunks import add_chunks
from db.claims import Claim
from db.migrate import upgrade
from db.outcomes import ImageDone
from db.session import NO_TIME_LIMITS, Sessions, connect, reading, write
from db.values import FoundInstance, Frozen, PromptResult, Source
from producer.results.status import Standing
from producer.runs.load import record
from producer.runs.request import RunRequest
from producer.sources.text.csv_source import CsvSource
from tests.postgresql import serve
from workers.fleet.processes import this_process
from workers.fleet.valkey import BundledBroker

SEED = 3
FOLDER_IMAGES = 1000  # files of one folder, listed in no order
DUPLICATES = 100  # one row in so many repeats an earlier one
REJECTED = 1000  # one row in so many is bad
FAILED = 100  # one image in so many failed
MODEL = "tiny"
FROZEN = Frozen(MODEL, 0.5, 0.5, 0.3, "library", "exif")
REQUEST = RunRequest("large", ("person",), FROZEN)
REPEATS = 3
CHUNKS_WORKED = 8  # whose claims and commits are timed
BARE_COLUMNS = "image (run_id, row, load, path, cells, state, chunk_id)"
BATCH = 8  # images of one commit
RLE = bytes(1500)  # about what a portrait's mask takes


@dataclass(frozen=True)
class Load:
    """One measured load: wall and processor seconds of its process, and its peak memory over that of its start."""

    seconds: float
    cpu_seconds: float
    megabytes: float


@dataclass(frozen=True)
class Growth:
    """Ours against the bare load of as many rows; medians of interleaved repeats, each with the lowest and highest."""

    database: str
    rows: int
    rows_per_second: float
    bare_rows_per_second: float
    ratio: float  # of the bare load's rate
    ratio_low: float
    ratio_high: float
    megabytes: float  # over the memory before the load, the most of all repeats
    microseconds_per_row: float
    cpu: float  # microseconds of our process a row, whatever else the machine does: medians
    bare_cpu: float


@dataclass(frozen=True)
class Aftermath:
    """What a run of so many rows costs once it is loaded. Statements are those that one call sends."""

    database: str
    rows: int
    claim_ms: float
    claim_statements: int
    commit_ms: float
    commit_statements: int
    status_ms: float  # the queries of sam3-status on the finished run, the first time
    again_seconds: float  # the same sam3-enqueue on the finished run, with the start of Python


@click.command()
@click.option("--rows", default=1_000_000, show_default=True, help="The largest size; smaller ones are measured too.")
@click.option("--database", type=click.Choice(["sqlite", "postgresql"]), multiple=True, help="Default: both.")
@click.option("--repeats", default=REPEATS, show_default=True)
def main(rows: int, database: tuple[str, ...], repeats: int) -> None:
    sizes = [size for size in (10_000, 100_000) if size < rows] + [rows]
    for kind in database or ("sqlite", "postgresql"):
        growth, aftermath = measure(kind, sizes, repeats)
        print(table(growth_rows(growth)), table(as_rows(aftermath)), sep="\n\n", end="\n\n", flush=True)


def measure(kind: str, sizes: list[int], repeats: int = REPEATS) -> tuple[list[Growth], list[Aftermath]]:
    """Both tables of one database."""
    growth, aftermath = [], []
    with tempfile.TemporaryDirectory() as folder, databases(kind, Path(folder)) as fresh:
        for size in sizes:
            table = Path(folder) / f"{size}.csv"
            write_csv(table, size)
            loads: dict[Callable[[str, Path], Load], list[Load]] = {ours: [], bare: []}
            for repeat in range(repeats):
                for load in loads:
                    with fresh() as url:
                        loads[load].append(alone(load, url, table))
                        if load is ours and repeat == repeats - 1:
                            aftermath.append(alone(after, url, table))
            growth.append(compared(kind, size, loads[ours], loads[bare]))
    return growth, aftermath


def compared(kind: str, rows: int, mine: list[Load], others: list[Load]) -> Growth:
    ratios = [other.seconds / one.seconds for one, other in zip(mine, others, strict=True)]
    seconds = statistics.median(one.seconds for one in mine)
    return Growth(
        database=kind,
        rows=rows,
        rows_per_second=rows / seconds,
        bare_rows_per_second=rows / statistics.median(other.seconds for other in others),
        ratio=statistics.median(ratios),
        ratio_low=min(ratios),
        ratio_high=max(ratios),
        megabytes=max(one.megabytes for one in mine),
        microseconds_per_row=1e6 * seconds / rows,
        cpu=1e6 / rows * statistics.median(one.cpu_seconds for one in mine),
        bare_cpu=1e6 / rows * statistics.median(other.cpu_seconds for other in others),
    )


def growth_rows(growth: list[Growth]) -> list[Row]:
    """As a table shows them."""
    return [
        {
            "database": one.database,
            "rows": one.rows,
            "rows a second": one.rows_per_second,
            "bare load": one.bare_rows_per_second,
            "ratio": f"{one.ratio:.2f} ({one.ratio_low:.2f} to {one.ratio_high:.2f})",
            "MB over the start": one.megabytes,
            "µs a row": one.microseconds_per_row,
            "CPU, µs a row": one.cpu,
            "bare load's CPU": one.bare_cpu,
        }
        for one in growth
    ]


def alone(work: Callable[[str, Path], Any], url: str, table: Path) -> Any:
    """The answer of `work(url, table)` in a new Python process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(work, url, table).result()


@contextmanager
def databases(kind: str, folder: Path) -> Iterator[Callable[[], Any]]:
    """A function that makes a context with the URL of an empty database with our tables."""

    @contextmanager
    def sqlite() -> Iterator[str]:
        with tempfile.TemporaryDirectory(dir=folder) as own:
            yield made(f"sqlite:///{own}/sam3.db")

    if kind == "sqlite":
        yield sqlite
        return
    with serve() as server:

        @contextmanager
        def postgresql() -> Iterator[str]:
            with psycopg.connect(server.url, autocommit=True) as admin:
                admin.execute("CREATE DATABASE bench")
                try:
                    yield made(make_url(server.url).set(database="bench").render_as_string(hide_password=False))
                finally:
                    admin.execute("DROP DATABASE bench WITH (FORCE)")
                    admin.execute("CHECKPOINT")  # or the next one writes our pages

        yield postgresql


def made(url: str) -> str:
    sessions = connect(url)
    upgrade(sessions)
    sessions.kw["bind"].dispose()
    return url


def write_csv(table: Path, rows: int) -> None:
    """Folder by folder, as a directory lists its files, with some repeated and some bad rows."""
    chance = random.Random(SEED)
    with table.open("w") as file:
        file.write("path,label\n")
        paths: list[str] = []
        for row in range(rows):
            if row % REJECTED == REJECTED - 1:
                path = "https://example.com/a.jpg"
            elif row % DUPLICATES == DUPLICATES - 1:
                path = chance.choice(paths)
            else:
                path = f"images/{row // FOLDER_IMAGES:05}/{chance.getrandbits(64):016x}.jpg"
                if len(paths) < 100_000:
                    paths.append(path)
            file.write(f"{path},person {chance.randrange(1000)}\n")


def ours(url: str, table: Path) -> Load:
    return measured(lambda sessions: record(sessions, CsvSource(table), REQUEST, lambda done, total: None), url)


def bare(url: str, table: Path) -> Load:
    def load(sessions: Sessions) -> None:
        source = Source(str(table), "path", ("path", "label"), "/", False, False)
        run_id = write(sessions, intake.create_run, "bare", source, FROZEN, ["person"], 256)
        [chunk_id] = write(sessions, add_chunks, run_id, [0])
        with sessions.begin() as session, table.open(newline="") as file:
            driver: Any = session.connection().connection.driver_connection
            reader = csv.reader(file)
            next(reader)
            rows = (
                (run_id, row, 1, path, label, "pending", chunk_id) for row, (path, label) in enumerate(reader, start=1)
            )
            if isinstance(driver, sqlite3.Connection):
                driver.executemany(f"INSERT INTO {BARE_COLUMNS} VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
                return
            session.execute(NO_TIME_LIMITS)
            with driver.cursor() as cursor, cursor.copy(f"COPY {BARE_COLUMNS} FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)

    return measured(load, url)


def measured(load: Callable[[Sessions], object], url: str) -> Load:
    sessions = connect(url)
    with reading(sessions):
        pass  # connected, and everything imported
    base = memory("VmRSS")
    began, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    load(sessions)
    seconds, uses = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    cpu = uses.ru_utime + uses.ru_stime - used.ru_utime - used.ru_stime
    return Load(seconds, cpu, memory("VmHWM") - base)


def memory(key: str) -> float:
    """Megabytes of this process: VmRSS now, VmHWM at most so far."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1000
    raise LookupError(key)


def after(url: str, table: Path) -> Aftermath:
    """Work on the loaded run: a few chunks as a worker does, the others at one stroke; then look at it."""
    sessions = connect(url)
    with reading(sessions) as session:
        run = intake.find_run(session, REQUEST.name)
    assert run is not None
    worker = write(sessions, presence.register, "gpu0@bench", this_process())
    claimed: list[tuple[float, int]] = []  # seconds, and statements
    commits: list[tuple[float, int]] = []
    for rung in write(sessions, doorbells.ring_pending, run.id, CHUNKS_WORKED):
        claim, seconds, statements = timed(sessions, claims.claim, run.id, rung.chunk_id, worker)
        claimed.append((seconds, statements))
        commits += [timed(sessions, claims.commit, claim, batch)[1:] for batch in found(claim)]
    finish(sessions, run.id)
    began = time.perf_counter()
    Standing(sessions, run.id)
    status = time.perf_counter() - began
    sessions.kw["bind"].dispose()
    return Aftermath(
        database=make_url(url).get_backend_name(),
        rows=run.source_rows,
        claim_ms=1000 * statistics.median(seconds for seconds, _ in claimed),
        claim_statements=max(count for _, count in claimed),
        commit_ms=1000 * statistics.median(seconds for seconds, _ in commits),
        commit_statements=max(count for _, count in commits),
        status_ms=1000 * status,
        again_seconds=again(url, table),
    )


def timed(sessions: Sessions, work: Callable[..., Any], *args: Any) -> tuple[Any, float, int]:
    """The answer of one transaction, its seconds and the number of its statements."""
    statements: list[str] = []
    engine: Engine = sessions.kw["bind"]

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    began = time.perf_counter()
    answer = write(sessions, work, *args)
    seconds = time.perf_counter() - began
    event.remove(engine, "before_cursor_execute", note)
    return answer, seconds, len(statements)


def found(claim: Claim) -> Iterator[list[ImageDone]]:
    """One mask in every image, batch by batch."""
    mask = FoundInstance(0.9, (0.0, 0.0, 9.0, 9.0), 81, RLE)
    for first in range(0, len(claim.images), BATCH):
        yield [
            ImageDone(image.id, 1024, 1024, (PromptResult(image.prompt_ids[0], 0.9, False, (mask,)),))
            for image in claim.images[first : first + BATCH]
        ]


def finish(sessions: Sessions, run_id: int) -> None:
    """All pending images done, some of them failed, without results: nothing here reads those."""
    pending = "run_id = :run AND state = 'pending'"
    with sessions.begin() as session:
        if session.get_bind().dialect.name == "postgresql":
            session.execute(NO_TIME_LIMITS)  # nothing of ours updates so many rows at once
        for statement in (
            "UPDATE image SET state = 'failed', error_class = 'truncated', error = 'its end is missing'"
            f" WHERE {pending} AND row % {FAILED} = 0",
            f"UPDATE image SET state = 'done', width = 1024, height = 1024 WHERE {pending}",
            "UPDATE chunk SET state = 'done', lease_until = NULL, segmented = images WHERE run_id = :run",
            "UPDATE run SET state = 'done', started_at = created_at, finished_at = created_at + 1 WHERE id = :run",
        ):
            session.execute(text(statement), {"run": run_id})


def again(url: str, table: Path) -> float:
    """Seconds of the whole command on a run that is loaded and finished."""
    with tempfile.TemporaryDirectory() as folder:
        broker = BundledBroker(Path(folder))
        broker.start()
        command = "from producer.cli.enqueue import main; main()"
        flags = ["--csv", str(table), "--run", REQUEST.name, "--prompt", "person", "--model", MODEL]
        environment = os.environ | {"SAM3_DATABASE_URL": url, "SAM3_BROKER_URL": broker.url}
        began = time.perf_counter()
        try:
            subprocess.run([sys.executable, "-c", command, *flags], env=environment, check=True, capture_output=True)
        finally:
            broker.stop()
        return time.perf_counter() - began


if __name__ == "__main__":
    main()
