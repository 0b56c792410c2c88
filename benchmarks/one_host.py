"""Eight simulated GPUs on one host: is it decoding and masks, or the commits, that cannot keep up with them first?

Run as `python -m benchmarks.one_host`. The devices are simulated, each a wait; files, decoding, masks, databases and
all that a node does with a chunk are real, a process for each node. Left out are Celery, its broker, and what a host
does to launch a real GPU's kernels. PostgreSQL runs on this machine without fsync.
"""

import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from sqlalchemy import func, select

from benchmarks import peers, photographs
from benchmarks.device import Busy, Device, wait
from benchmarks.enqueue import databases
from benchmarks.photographs import KINDS, Kind
from benchmarks.sqlite_contention import BATCH, FROZEN, committing, masks
from benchmarks.timing import Row, table
from db import doorbells, intake
from db.intake import NewRow
from db.models import Chunk
from db.session import Sessions, connect, read, reading, write
from db.slices import SLICE_ROWS
from db.values import Source
from db.views.run_views import run_view
from workers.inference.answers import Found, Instance
from workers.inference.protocol import ModelFacts, Options, Pixels
from workers.inference.reading.images import RGB
from workers.machine.cores import usable_cores
from workers.node.attempt import Attempt, work
from workers.node.breaker import Breaker
from workers.node.chunk import ChunkInHand
from workers.node.node import Node
from workers.settings import Settings

NODES = 8
GPU_IMAGES = 60.0  # a second, of one device: about what counting its kernels says of an H100
CHUNK = 64  # small, so that the last chunks end together
DATABASES = ("sqlite", "postgresql")
READY = Kind("decoded already", 64, 48, ".jpg")
SEGMENTERS = {READY: "benchmarks.one_host:ready", KINDS[0]: "benchmarks.accelerator:factory"}
REPEATS = 3


class Ready:
    """A segmenter to which images come decoded, and which has their masks made; the device is simulated."""

    facts = ModelFacts("simulated", None, "0" * 64, "simulated", "simulated")

    def __init__(self, device: Device) -> None:
        self._device = device
        instances = tuple(Instance(one.score, one.box, one.area, one.rle) for one in masks())
        self._found = (Found(0.9, instances),)

    def check_prompts(self, prompts: Sequence[str]) -> dict[str, str]:
        return {}

    def preprocess(self, image: RGB) -> Pixels:
        return Pixels(image, *image.shape[:2])

    def predict(self, batch: Sequence[Pixels], prompts: Sequence[tuple[str, ...]], options: Options) -> Busy:
        return self._device.submit(len(batch))

    def postprocess(self, raw: Busy, rows: range, options: Options) -> list[tuple[Found, ...]]:
        wait(raw)
        return [self._found] * len(rows)


def ready(model: str, settings: Settings) -> Ready:
    """What a node loads where nothing is to be decoded."""
    return Ready(Device(0.0, float(os.environ["BENCH_IMAGE_MS"])))


@dataclass(frozen=True)
class Host:
    """What this machine does for eight nodes. `alone`: each kind of work by the CPU time that it takes, the first to
    saturate first; `together`: whole nodes, with the devices' pace as the limit."""

    alone: list[Row]
    together: list[Row]
    load: tuple[float, float]  # of the machine, before and after


def measure(images: int = 2880, seconds: float = 10.0, kinds: Sequence[Kind] = KINDS) -> Host:
    """Everything, in one run."""
    torch.set_num_threads(1)  # of one step: as in a worker beside a GPU
    before, host = os.getloadavg()[0], usable_cores()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        alone = [_capacity(f"decoding and masks, {kind.name}", _images(kind, folder), host) for kind in kinds]
        together = []
        for database in DATABASES:
            with databases(database, folder) as fresh:
                with fresh() as url:
                    # Only one process at a time writes to SQLite, however many cores there are.
                    alone.append(
                        _capacity(f"commits, {database}", _commit(url, seconds), 1 if database == "sqlite" else host)
                    )
                for kind in SEGMENTERS:
                    with fresh() as url:
                        together.append(_together(kind, database, url, folder, images))
    alone.sort(key=lambda row: float(row["GPUs that it carries"]))
    return Host(alone, together, (before, os.getloadavg()[0]))


def _commit(url: str, seconds: float) -> float:
    """CPU milliseconds of an image's commit, with the server's, of eight processes that do nothing else."""
    used: list[float] = []

    def meanwhile(sessions: Sessions) -> None:
        before = _cpu_seconds()
        time.sleep(seconds)
        used.append(_cpu_seconds() - before)

    commits = committing(url, meanwhile, chunks=1 + 2 * int(seconds))["commits a second"] * seconds
    return 1000 * used[0] / (commits * BATCH)


def _capacity(what: str, milliseconds: float, cores: int) -> Row:
    images = cores * 1000 / milliseconds
    return {
        "alone": what,
        "CPU, ms an image": milliseconds,
        "cores that it can use": cores,
        "images a second": images,
        f"of what {NODES} GPUs take": images / (NODES * GPU_IMAGES),
        "GPUs that it carries": images / GPU_IMAGES,
    }


def _images(kind: Kind, folder: Path) -> float:
    """CPU milliseconds of an image from its file to its masks, the least of some runs; the device takes no time."""
    paths = photographs.write(kind, folder / f"alone {kind.name}", 3 * BATCH)
    spent = min(peers.ours(paths, peers.Speed(0.0, 0.0)).cpu_seconds or 0.0 for _ in range(REPEATS))
    return 1000 * spent / len(paths)


def _together(kind: Kind, database: str, url: str, folder: Path, images: int) -> Row:
    """Eight nodes work off a run of so many images."""
    source = folder / f"{database} {kind.name}"
    photographs.write(kind, source, images)
    run_id, chunk_ids = _run(url, source, images)
    with _nodes(url, folder, run_id, chunk_ids, SEGMENTERS[kind]) as (starts, ends):
        starts.wait()
        before, began = _cpu_seconds(), time.monotonic()
        ends.wait()
        seconds, cpu = time.monotonic() - began, _cpu_seconds() - before
        with _open(url) as sessions, reading(sessions) as session:
            done, spent = session.execute(select(func.sum(Chunk.segmented), func.sum(Chunk.commit_seconds))).one()
        assert done == images, f"{done} of {images} images were segmented"
    rate = images / seconds
    return {
        "images": kind.name,
        "database": database,
        "images a second": rate,
        "of the devices' pace": rate / (NODES * GPU_IMAGES),
        "commit of a batch, ms": 1000 * spent / (images / BATCH),
        "CPU, ms an image": 1000 * cpu / images,
        "cores in use": cpu / seconds,
    }


def _run(url: str, source: Path, images: int) -> tuple[int, list[int]]:
    """A run of all files of a folder, and its chunks, which are rung."""
    frozen = Source("/none.csv", "path", ("path",), str(source), False, False)
    paths = sorted(path.name for path in source.iterdir())
    with _open(url) as sessions:
        run_id = write(sessions, intake.create_run, "host", frozen, FROZEN, ["person"], CHUNK)
        for start in range(0, images, SLICE_ROWS):
            rows = [NewRow(path) for path in paths[start : start + SLICE_ROWS]]
            write(sessions, intake.add_rows, run_id, start, rows)
        write(sessions, intake.finish_load, run_id, None)
        return run_id, [rung.chunk_id for rung in write(sessions, doorbells.ring_pending, run_id, images)]


@contextmanager
def _open(url: str) -> Iterator[Sessions]:
    sessions = connect(url)
    try:
        yield sessions
    finally:
        sessions.kw["bind"].dispose()


@contextmanager
def _nodes(url: str, folder: Path, run_id: int, chunk_ids: Sequence[int], segmenter: str) -> Iterator[tuple[Any, Any]]:
    """Processes of nodes, and the barriers at which all start and at which all have ended."""
    context = multiprocessing.get_context("fork")  # or each would import torch for itself
    starts, ends, leave = (context.Barrier(NODES + 1) for _ in range(3))
    todo = context.SimpleQueue()
    for chunk_id in [*chunk_ids, *[None] * NODES]:
        todo.put(chunk_id)
    os.environ.update(BENCH_FIXED_MS="0", BENCH_IMAGE_MS=str(1000 / GPU_IMAGES))
    settings = [
        Settings(
            database_url=url,
            state_dir=folder / "state",
            segmenter=segmenter,
            node=f"gpu{number}",
            cores=max(1, usable_cores() // NODES),
        )
        for number in range(NODES)
    ]
    processes = [context.Process(target=_serve, args=(own, run_id, todo, (starts, ends, leave))) for own in settings]
    for process in processes:
        process.start()
    try:
        yield starts, ends
        leave.wait()
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _serve(settings: Settings, run_id: int, todo: Any, barriers: tuple[Any, Any, Any]) -> None:
    """A node as its task runs it, but for Celery."""
    starts, ends, leave = barriers
    node = Node(settings, Breaker(0, lambda signal: None))
    run = read(node.worker.sessions, run_view, run_id)
    assert run is not None
    segmenter = node.model.segmenter_for(run)
    starts.wait()
    while (chunk_id := todo.get()) is not None:
        chunk = ChunkInHand(node.worker, run, chunk_id)
        chunk.announce()
        assert chunk.claim()
        work(Attempt(node.worker, node.model, segmenter, chunk))
        node.worker.let_go()
    ends.wait()
    leave.wait()  # until its CPU time has been read
    os._exit(0)


def _cpu_seconds() -> float:
    """Of this process and of all that descend from it, the database's server too; they must be alive."""
    stats = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            stats[int(folder.name)] = int(fields[1]), int(fields[11]) + int(fields[12])
    ours, size = {os.getpid()}, 0
    while len(ours) > size:
        size = len(ours)
        ours |= {pid for pid, (parent, _) in stats.items() if parent in ours}
    return sum(ticks for pid, (_, ticks) in stats.items() if pid in ours) / os.sysconf("SC_CLK_TCK")


def tables(host: Host) -> str:
    """Markdown."""
    before, after = host.load
    shared = f"{usable_cores()} cores, shared with other work: load {before:.1f} before, {after:.1f} after."
    return "\n\n".join((shared, table(host.alone), table(host.together)))


@click.command()
@click.option("--images", default=2880, show_default=True, help="Of each run of whole nodes.")
@click.option("--seconds", default=10.0, show_default=True, help="Of committing alone, to each database.")
def main(images: int, seconds: float) -> None:
    print(tables(measure(images, seconds)))


if __name__ == "__main__":
    main()
