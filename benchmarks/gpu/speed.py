"""Seconds an image, from the file to the RLE, of the plain loop and of ours, by batch size; and what one forward pass
takes. Checks no masks."""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.architecture import plain_loop, segmenter_of
from benchmarks.counting import count_ours
from benchmarks.gpu import kernels
from benchmarks.gpu.card import NOT_HERE, Card
from benchmarks.gpu.ours import (
    COMPILED,
    GRAPHS,
    OPTIONS,
    PLAIN,
    PROMPT,
    RUNS,
    Kernels,
    Subject,
    compile_anew,
    forward,
    outcomes,
)
from benchmarks.gpu.report import Report
from benchmarks.timing import Row
from workers.inference.models.sam3_checkpoint import load
from workers.inference.models.torch_precision import use_products
from workers.inference.shapes import masks
from workers.inference.stream.stage_threads import StageThreads

PART, GRAPHS_PART = "speed", "CUDA graphs"
LIBRARY = "plain loop, fp32"
# A row is not begun with less. The slowest without a compiler, of the plain loop, takes about as long on an H100.
LEAST_SECONDS = {PLAIN: 25.0, COMPILED: 180.0, GRAPHS: 180.0}
REPEATS = 5  # of one forward pass
LONGEST = "longest kernels"  # of a row, which are shown in a table of their own
LONGEST_BATCH = 8  # of that batch size, or the next smaller one

Forward = Callable[[], object]


@dataclass(frozen=True)
class Way:
    """A loaded model. `forward` makes a forward pass of a batch of so many, which can be called again and again.
    `work` segments these files in batches of so many. `begin` is called before batches of another size."""

    forward: Callable[[int], Forward]
    work: Callable[[Sequence[str], int], object] | None
    begin: Callable[[int], object] = lambda size: None


def measure_library(report: Report, subject: Subject, sizes: Sequence[int]) -> None:
    """A row for each batch size, of the plain loop."""
    for size, row in _each(sizes, partial(_load_library, subject), subject):
        report.measure(PART, f"{LIBRARY}, batch {size}", LEAST_SECONDS[PLAIN], partial(row, LIBRARY))


def measure_ours(report: Report, subject: Subject, with_kernels: Kernels, sizes: Sequence[int]) -> None:
    """A row for each batch size. With CUDA graphs, which no worker uses, it is only of the forward pass: the next batch
    would overwrite what the mask thread still reads."""
    name = subject.name(with_kernels)
    part = GRAPHS_PART if with_kernels == GRAPHS else PART
    for size, row in _each(sizes, partial(_load_ours, subject, with_kernels), subject):
        report.measure(part, f"{name}, batch {size}", LEAST_SECONDS[with_kernels], partial(row, name))


def _each(
    sizes: Sequence[int], load_way: Callable[[], Way], subject: Subject
) -> Iterator[tuple[int, Callable[[str], Row]]]:
    """Each batch size, with what makes its row under a name. The model is loaded for the first row that is made, and
    dropped behind the last one."""
    loaded: list[Way] = []

    def row(size: int, name: str) -> Row:
        if not loaded:
            loaded.append(load_way())
        return {"": name, "batch size": size} | _figures(loaded[0], size, subject)

    for size in sizes:
        yield size, partial(row, size)
    loaded.clear()
    gc.collect()
    if subject.card.is_gpu:
        torch.cuda.empty_cache()


def _figures(way: Way, size: int, subject: Subject) -> Row:
    card, paths = subject.card, subject.paths
    way.begin(size)
    step = way.forward(size)
    for _ in range(max(RUNS.values())):  # what happens once
        step()
    taken, launch = _forward(card, step)
    spans = kernels.trace(card, step)
    row = {"forward, ms a batch": taken, "of that launching, ms": launch}
    row |= kernels.summary(spans) | {LONGEST: kernels.longest(spans)}
    if way.work is not None:
        way.work(paths[:size], size)
    watched = card.watched(step if way.work is None else partial(way.work, paths, size))
    row |= {"GPU memory, GB": watched.memory_gb, "GPU utilisation, %": watched.utilisation}
    return row if way.work is None else row | {"seconds an image": watched.seconds / len(paths)}


def _forward(card: Card, step: Forward) -> tuple[float, float | str]:
    """Milliseconds of a forward pass on the device, and of its launch on the host, which on a CPU is the same."""
    taken = card.milliseconds(step, REPEATS)
    if not card.is_gpu:
        return taken, NOT_HERE
    card.wait()
    began = time.perf_counter()
    step()
    launch = (time.perf_counter() - began) * 1e3
    card.wait()
    return taken, launch


def _load_library(subject: Subject) -> Way:
    """The library's model as its documentation loads it: fp32, and without TF32, which ours turns on."""
    use_products("fp32", torch.device(subject.card.device))
    library, processor = load(subject.folder)
    library = library.to(subject.card.device)
    step = partial(_library_forward, library, processor, subject.paths)
    return Way(step, partial(_library_loop, library, processor))


def _load_ours(subject: Subject, with_kernels: Kernels) -> Way:
    segmenter = subject.load_ours(with_kernels)
    threads = StageThreads()  # as in a worker: those warmed up are those measured
    options = replace(OPTIONS, compiled=with_kernels != PLAIN)
    work = None if with_kernels == GRAPHS else partial(outcomes, segmenter, options=options, threads=threads)
    step = partial(forward, segmenter, subject.paths, with_kernels)
    return Way(step, work, lambda size: compile_anew(segmenter, with_kernels))


def _library_forward(library: Any, processor: Any, paths: Sequence[str], size: int) -> Forward:
    pictures = [_opened(paths[number % len(paths)]) for number in range(size)]
    inputs = processor(images=pictures, text=[PROMPT] * size, return_tensors="pt").to(library.device)

    def step() -> object:
        with torch.inference_mode():
            return library(**inputs)

    return step


def _library_loop(library: Any, processor: Any, paths: Sequence[str], batch_size: int) -> None:
    """Read, forward, post-process, encode, one after the other."""
    for start in range(0, len(paths), batch_size):
        pictures = [_opened(path) for path in paths[start : start + batch_size]]
        for result in plain_loop(library, processor, pictures, PROMPT, OPTIONS.threshold):
            for mask in result["masks"].cpu().numpy().astype(np.uint8):
                masks.encode(mask)


def _opened(path: str) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def count_flops(folder: Path) -> Row:
    """Operations of one image with one prompt, counted on the meta device for this model."""
    model, processor = load(folder)
    counted = count_ours(segmenter_of(model.to("meta"), processor, "meta"), [(PROMPT,)], found=1)
    return {"GFLOP an image": counted.flops / 1e9}


def related(rows: Sequence[Row], floor_seconds: float | None) -> list[Row]:
    """The rows by batch size, each with what it means beside the plain loop and for 10,000 images."""
    rows = by_size(rows)
    plain = {row["batch size"]: row["seconds an image"] for row in rows if row[""] == LIBRARY}
    shown = []
    for row in rows:
        taken, beside = row["seconds an image"], plain.get(row["batch size"])
        shown.append(
            row
            | {
                "images/s": 1 / taken,
                "times as fast as plain": NOT_HERE if beside is None else beside / taken,
                "times as fast as the first row": rows[0]["seconds an image"] / taken,
                "of the counted floor": NOT_HERE if floor_seconds is None else floor_seconds / taken,
                "hours for 10,000": taken * 10_000 / 3600,
            }
        )
    return shown


def by_size(rows: Sequence[Row]) -> list[Row]:
    """The rows by batch size, without their longest kernels."""
    rows = sorted(rows, key=lambda row: row["batch size"])
    return [{name: value for name, value in row.items() if name != LONGEST} for row in rows]


def longest_kernels(rows: Sequence[Row]) -> list[Row]:
    """Those of each kind of row, for one batch size."""
    sizes = [row["batch size"] for row in rows]
    size = max((size for size in sizes if size <= LONGEST_BATCH), default=None)
    return [
        {"": row[""], "batch size": size} | kernel
        for row in rows
        if row["batch size"] == size
        for kernel in row[LONGEST]
    ]
