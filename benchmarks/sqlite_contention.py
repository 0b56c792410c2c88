"""Eight processes commit to SQLite, alone and beside an enqueue of 200,000 rows: do they keep half of their rate?

Run as `python -m benchmarks.sqlite_contention`. Committers never wait for a model, so this is harder than life:
a real worker commits a few times a second. Prints commits a second, the ratio, and how many commits met an error.
"""

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path

import click

from benchmarks.timing import Row, table
from db import claims, doorbells, intake, presence
from db.intake import NewRow
from db.migrate import ensure_schema
from db.outcomes import ImageDone
from db.session import Sessions, connect, write
from db.values import FoundInstance, Frozen, PromptResult, Source
from producer.runs.load import record
from producer.runs.request import RunRequest
from producer.sources.text.csv_source import CsvSource
from workers.fleet.processes import this_process

COMMITTERS = 8
BATCH = 8  # images of one commit
CHUNKS = 20  # of each committer: enough for a minute
INSTANCES = 3  # of each image
RLE = os.urandom(1500)  # about what a portrait's mask takes
FROZEN = Frozen("fake", 0.5, 0.5, 0.3, "library", "exif")


@click.command()
@click.option("--rows", default=200_000, show_default=True)
@click.option("--seconds", default=15.0, show_default=True, help="Length of the measurement without an enqueue.")
def main(rows: int, seconds: float) -> None:
    print(table(compare(rows, seconds)))


def compare(rows: int = 200_000, seconds: float = 15.0) -> list[Row]:
    """Two rows: the committers alone, and beside an enqueue of so many rows."""
    with tempfile.TemporaryDirectory() as folder:
        alone = measure(Path(folder) / "alone", lambda sessions: time.sleep(seconds))
        beside = measure(Path(folder) / "beside", lambda sessions: enqueue(sessions, Path(folder), rows))
    kept = beside["commits a second"] / alone["commits a second"]
    return [
        {"eight committers": "alone"} | alone | {"kept": 1.0},
        {"eight committers": "beside"} | beside | {"kept": kept},
    ]


def measure(folder: Path, meanwhile: Callable[[Sessions], object]) -> dict[str, float]:
    """Commits a second of all committers to a new file while `meanwhile(sessions)` runs."""
    folder.mkdir()
    return committing(f"sqlite:///{folder / 'sam3.db'}", meanwhile)


def committing(url: str, meanwhile: Callable[[Sessions], object], chunks: int = CHUNKS) -> dict[str, float]:
    """The same, to an empty database, where each committer has so many chunks of a thousand images."""
    sessions = connect(url)
    ensure_schema(sessions)
    run_id = make_run(sessions, chunks * COMMITTERS)
    ready, stop = multiprocessing.Barrier(COMMITTERS + 1), multiprocessing.Event()
    counts: Queue[tuple[int, int, float]] = multiprocessing.Queue()
    processes = [
        multiprocessing.Process(target=commit_on_and_on, args=(url, run_id, number, (ready, stop), counts))
        for number in range(COMMITTERS)
    ]
    for process in processes:
        process.start()
    ready.wait()
    began = time.monotonic()
    meanwhile(sessions)
    took = time.monotonic() - began
    stop.set()
    told = [counts.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    sessions.kw["bind"].dispose()
    return {
        "seconds": round(took, 1),
        "commits a second": round(sum(commits for commits, _, _ in told) / took, 1),
        "errors": sum(errors for _, errors, _ in told),
        "longest commit, seconds": round(max(longest for _, _, longest in told), 2),
    }


def make_run(sessions: Sessions, chunks: int) -> int:
    """A run with so many chunks of a thousand images each, more than will be needed."""
    source = Source("/none.csv", "path", ("path",), "/", False, False)
    run_id = write(sessions, intake.create_run, "busy", source, FROZEN, ["person"], 1000)
    for slice_ in range(chunks):
        rows = [NewRow(f"{slice_}/{number}.jpg") for number in range(1000)]
        write(sessions, intake.add_rows, run_id, slice_ * 1000, rows)
    write(sessions, intake.finish_load, run_id, None)
    write(sessions, doorbells.ring_pending, run_id, chunks)
    return run_id


def commit_on_and_on(
    url: str, run_id: int, number: int, signals: tuple[Barrier, Event], counts: "Queue[tuple[int, int, float]]"
) -> None:
    ready, stop = signals
    sessions = connect(url)
    worker = write(sessions, presence.register, f"gpu{number}@bench", this_process())
    write(sessions, presence.report, worker, state="running")
    commits, errors, longest = 0, 0, 0.0
    ready.wait()
    chunk_id = number + 1
    while not stop.is_set() and (claim := write(sessions, claims.claim, run_id, chunk_id, worker)):
        for first in range(0, len(claim.images), BATCH):
            outcomes = [
                ImageDone(image.id, 1024, 1024, (PromptResult(image.prompt_ids[0], 0.9, False, masks()),))
                for image in claim.images[first : first + BATCH]
            ]
            began = time.monotonic()
            try:
                write(sessions, claims.commit, claim, outcomes)
                commits += 1
            except Exception as error:
                print(f"committer {number}: {error}")
                errors += 1
            longest = max(longest, time.monotonic() - began)
            if stop.is_set():
                break
        chunk_id += COMMITTERS
    counts.put((commits, errors, longest))


def masks() -> tuple[FoundInstance, ...]:
    return tuple(FoundInstance(0.9, (0.0, 0.0, 9.0, 9.0), 81, RLE) for _ in range(INSTANCES))


def enqueue(sessions: Sessions, folder: Path, rows: int) -> None:
    csv = folder / "images.csv"
    csv.write_text("path\n" + "".join(f"images/{number:08}.jpg\n" for number in range(rows)))
    record(sessions, CsvSource(csv), RunRequest("large", ("person",), FROZEN), lambda read, of: None)


if __name__ == "__main__":
    main()
