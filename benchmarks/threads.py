"""How the threads of a node bear with each other: Python's lock lets only one of them run Python at a time.

Run as `python -m benchmarks.threads`. The first table is what a second thread gains in each step on the CPU: about 2
where the lock is released, 1 where it is held; each time is the shortest of many short ones, which others on the
machine hardly change. Without two free cores not even the control, a hash, comes near 2.

The others are masks, and reading, beside a thread that launches forward passes. That one is played: two thousand tiny
operations of torch, called from Python as a model calls them; no device is waited for. The control is the same
launching beside a hash, which never holds the lock.
"""

import hashlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks import photographs, timing
from benchmarks.accelerator import SimulatedSegmenter
from benchmarks.device import Device
from benchmarks.peers import OPTIONS, PROMPTS, RULES
from benchmarks.postprocess import mask_work
from benchmarks.timing import Row
from workers.inference.protocol import Pixels
from workers.inference.reading.images import read_image

TRIALS = 300
LAYERS = 700  # of three operations each
ROUND_SECONDS = 0.3
SIZES = {"640 x 480": (480, 640), "1080p": (1080, 1920), "12 MP": (3000, 4000)}  # height, width
INSTANCES = 20


@dataclass(frozen=True)
class Gain:
    """A step in milliseconds, and how many times faster two threads do it twice than one does."""

    step: str
    milliseconds: float
    gain: float


def measure(step: str, work: Callable[[], object], trials: int = TRIALS) -> Gain:
    alone = min(_seconds(work) for _ in range(trials))
    together = _side_by_side(work, trials)
    return Gain(step, alone * 1000, 2 * alone / together)


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _side_by_side(work: Callable[[], object], trials: int) -> float:
    """The shortest time from the earlier start to the later end of two threads."""
    ready = threading.Barrier(2)
    times: list[list[tuple[float, float]]] = [[], []]

    def thread(mine: list[tuple[float, float]]) -> None:
        for _ in range(trials):
            ready.wait()
            began = time.perf_counter()
            work()
            mine.append((began, time.perf_counter()))

    threads = [threading.Thread(target=thread, args=(mine,)) for mine in times]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    return min(max(a[1], b[1]) - min(a[0], b[0]) for a, b in zip(times[0], times[1], strict=True))


def gains(trials: int = TRIALS) -> list[Gain]:
    """The control first, then reading, resizing and masks of each kind of photograph."""
    torch.set_num_threads(1)
    segmenter = SimulatedSegmenter(Device(0, 0))
    data = bytes(1_000_000)
    told = [measure("control: SHA-256 of 1 MB", lambda: hashlib.sha256(data).digest(), trials)]
    with TemporaryDirectory() as folder:
        for kind in photographs.KINDS:
            [path] = photographs.write(kind, Path(folder) / kind.name, 1)
            image = read_image(path, RULES).pixels
            pixels = Pixels(np.zeros(1, np.uint8), kind.height, kind.width)
            raw = segmenter.predict([pixels], [PROMPTS], OPTIONS)
            told += [
                measure(f"{kind.name}: read", partial(read_image, path, RULES), trials),
                measure(f"{kind.name}: resize", partial(segmenter.preprocess, image), trials),
                measure(f"{kind.name}: 3 masks", partial(segmenter.postprocess, raw, range(1), OPTIONS), trials),
            ]
    return told


def table(told: list[Gain]) -> str:
    """Markdown."""
    lines = ["| step | one thread | gain of a second |", "|---|---|---|"]
    return "\n".join(lines + [f"| {one.step} | {one.milliseconds:.1f} ms | {one.gain:.2f} |" for one in told])


@dataclass(frozen=True)
class Beside:
    """How often a second a work is done, alone and beside launches, and a launch, alone, beside it and beside a hash.
    Each the best of all rounds, which take turns: others on the machine can only make one worse."""

    alone: float
    beside: float
    launch: float
    launch_beside: float
    launch_beside_hash: float

    @property
    def launches(self) -> Row:
        return {
            "a launch alone, ms": 1000 / self.launch,
            "beside a hash, ms": 1000 / self.launch_beside_hash,
            "beside it, ms": 1000 / self.launch_beside,
        }


def masks_beside_launches(rounds: int = 9) -> list[Row]:
    """A row a size of image."""
    torch.set_num_threads(1)
    launch = _launch()
    rows: list[Row] = []
    for name, size in SIZES.items():
        told = _beside(mask_work(INSTANCES, size), launch, rounds)
        row: Row = {
            "image": name,
            "masks a second": told.alone * INSTANCES,
            "beside launches": told.beside * INSTANCES,
            **{f"images a second with {n}": told.beside * INSTANCES / n for n in (3, 20, 100)},
        }
        rows.append(row | told.launches)
    return rows


def reading_beside_launches(rounds: int = 5) -> list[Row]:
    """A row a kind of photograph."""
    torch.set_num_threads(1)
    launch = _launch()
    rows: list[Row] = []
    with TemporaryDirectory() as folder:
        for kind in photographs.KINDS:
            [path] = photographs.write(kind, Path(folder) / kind.name, 1)
            told = _beside(partial(read_image, path, RULES), launch, rounds)
            row: Row = {"read": kind.name, "a second": told.alone, "beside launches": told.beside}
            rows.append(row | told.launches)
    return rows


def _beside(work: Callable[[], object], launch: Callable[[], object], rounds: int) -> Beside:
    data = bytes(100_000)
    work()  # what is made once
    told = []
    for _ in range(rounds):
        alone, launches = _rate(work), _rate(launch)
        _, beside_hash = _together(lambda: hashlib.sha256(data).digest(), launch)
        told.append((alone, *_together(work, launch), launches, beside_hash))
    alone, beside, launch_beside, launches, beside_hash = map(max, zip(*told, strict=True))
    return Beside(alone, beside, launches, launch_beside, beside_hash)


def _launch() -> Callable[[], object]:
    """Calls as many tiny operations as SAM3's forward pass."""
    layers = [torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.LayerNorm(8), torch.nn.GELU()) for _ in range(LAYERS)]
    model, given = torch.nn.Sequential(*layers), torch.zeros(1, 8)

    @torch.inference_mode()
    def launch() -> object:
        return model(given)

    return launch


def _rate(work: Callable[[], object], stop: threading.Event | None = None) -> float:
    """How often a second, over a round, or until `stop`; at least once."""
    count, began = 0, time.perf_counter()
    while True:
        work()
        count += 1
        seconds = time.perf_counter() - began
        if stop.is_set() if stop else seconds >= ROUND_SECONDS:
            return count / seconds


def _together(work: Callable[[], object], beside: Callable[[], object]) -> tuple[float, float]:
    """How often a second each of them is done in a thread of its own."""
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(_rate, beside, stop)
        rate = _rate(work)
        stop.set()
        return rate, other.result()


if __name__ == "__main__":
    told = (timing.table(masks_beside_launches()), timing.table(reading_beside_launches()))
    print(table(gains()), *told, sep="\n\n")
