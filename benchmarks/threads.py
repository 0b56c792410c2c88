"""What a second thread gains in each step on the CPU: about 2 where Python's lock is released, 1 where it is held.

Run as `python -m benchmarks.threads`. Each time is the shortest of many short ones, which others on the machine hardly
change. Without two free cores not even the control, a hash, comes near 2.
"""

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks import photographs
from benchmarks.accelerator import SimulatedSegmenter
from benchmarks.device import Device
from benchmarks.peers import OPTIONS, PROMPTS, RULES
from workers.inference.images import read_image
from workers.inference.pipeline import Pixels

TRIALS = 300


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
    return min(max(a[1], b[1]) - min(a[0], b[0]) for a, b in zip(*times, strict=True))


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
                measure(f"{kind.name}: read", lambda path=path: read_image(path, RULES), trials),
                measure(f"{kind.name}: resize", lambda image=image: segmenter.preprocess(image), trials),
                measure(f"{kind.name}: 3 masks", lambda raw=raw: segmenter.postprocess(raw, range(1), OPTIONS), trials),
            ]
    return told


def table(told: list[Gain]) -> str:
    """Markdown."""
    lines = ["| step | one thread | gain of a second |", "|---|---|---|"]
    return "\n".join(lines + [f"| {one.step} | {one.milliseconds:.1f} ms | {one.gain:.2f} |" for one in told])


if __name__ == "__main__":
    print(table(gains()))
