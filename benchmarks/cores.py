"""How many cores of the host one GPU keeps busy, by the size of its images: reading, resizing and masks.

Run as `python -m benchmarks.cores`. Processor time of one thread, the least of many trials, so that others on the
machine hardly change it. What else a node does is not in it: launching forward passes, and its commits.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks import photographs, timing
from benchmarks.accelerator import SimulatedSegmenter
from benchmarks.device import Device
from benchmarks.peers import RULES
from benchmarks.postprocess import mask_work
from benchmarks.timing import Row
from workers.inference.reading.images import read_image

RATES = (30, 60, 100)  # images a second of a GPU
INSTANCES = 20
TRIALS = 50


def measure(trials: int = TRIALS) -> list[Row]:
    """One row a kind of photograph: milliseconds of a core, and how many cores that is at each rate."""
    torch.set_num_threads(1)
    segmenter = SimulatedSegmenter(Device(0, 0))
    rows: list[Row] = []
    with TemporaryDirectory() as folder:
        for kind in photographs.KINDS:
            [path] = photographs.write(kind, Path(folder) / kind.name, 1)
            image = read_image(path, RULES).pixels
            masks = mask_work(INSTANCES, (kind.height, kind.width))
            works: dict[str, Callable[[], object]] = {
                "read": partial(read_image, path, RULES),
                "resize": partial(segmenter.preprocess, image),
                f"{INSTANCES} masks": masks,
            }
            spent = {name: _least(work, trials) * 1000 for name, work in works.items()}
            row: Row = {"image": kind.name, **{f"{name}, ms": value for name, value in spent.items()}}
            rows.append(row | {f"cores at {rate} a second": sum(spent.values()) * rate / 1000 for rate in RATES})
    return rows


def _least(work: Callable[[], object], trials: int) -> float:
    """Seconds of this thread's processor time."""
    work()
    times = []
    for _ in range(trials):
        began = time.thread_time()
        work()
        times.append(time.thread_time() - began)
    return min(times)


if __name__ == "__main__":
    print(timing.table(measure()))
