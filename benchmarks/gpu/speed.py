"""Seconds an image, from the file to the RLE, of the plain loop and of ours, by batch size; and what one forward pass
takes. Checks no masks."""

import time
from collections.abc import Callable, Sequence
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
from workers.inference.segmenters import Precision
from workers.inference.shapes import masks
from workers.inference.stream.stage_threads import StageThreads

PART, GRAPHS_PART = "speed", "CUDA graphs"
LIBRARY = "plain loop, fp32"
# The other ways in which the library's loop can be made fast with a line of code: how fp32 is multiplied, and autocast.
FASTER_LIBRARY: dict[str, tuple[Precision, bool]] = {
    "plain loop, TF32": ("mixed", False),
    "plain loop, autocast": ("mixed", True),
}
# A row is not begun with less. The slowest without a compiler, of the plain loop, takes about as long on an H100.
LEAST_SECONDS = {PLAIN: 25.0, COMPILED: 180.0, GRAPHS: 180.0}
REPEATS = 5  # of one forward pass, where it is fast
FORWARD_SECONDS, WORK_SECONDS = 3.0, 20.0  # about the most of these two of a row, on a card of any speed
LONGEST = "longest kernels"  # of a row, which are shown in a table of their own
LONGEST_BATCH = 8  # of that batch size, or the next smaller one

Forward = Callable[[], object]


@dataclass(frozen=True)
class Way:
    """A loaded model. `forward` makes a forward pass of a batch of so many, which can be called again and again.
    `work` segments these files in batches of so many. `begin` is called before batches of another size. The first
    `runs` of a forward pass do what later ones do not. `is_itself`: nothing else was measured in its place."""

    forward: Callable[[int], Forward]
    work: Callable[[Sequence[str], int], object] | None
    begin: Callable[[int], object] = lambda size: None
    runs: int = 1
    is_itself: Callable[[], bool] = lambda: True


def measure_library(report: Report, subject: Subject, sizes: Sequence[int]) -> None:
    """A row for each batch size, of the plain loop as it is documented; on a GPU a few of its faster ways."""
    _measure(report, subject, LIBRARY, sizes, partial(_load_library, subject, "fp32", False))
    if subject.card.is_gpu:
        few = {min(sizes), max((size for size in sizes if size <= LONGEST_BATCH), default=min(sizes))}
        for name, how in FASTER_LIBRARY.items():
            _measure(report, subject, name, sorted(few), partial(_load_library, subject, *how))


def measure_ours(report: Report, subject: Subject, with_kernels: Kernels, sizes: Sequence[int]) -> None:
    """A row for each batch size. With CUDA graphs, which no worker uses, it is only of the forward pass: the next batch
    would overwrite what the mask thread still reads."""
    load_way = partial(_load_ours, subject, with_kernels)
    _measure(report, subject, subject.name(with_kernels), sizes, load_way, with_kernels)


def _measure(
    report: Report,
    subject: Subject,
    name: str,
    sizes: Sequence[int],
    load_way: Callable[[], Way],
    with_kernels: Kernels = PLAIN,
) -> None:
    """A row for each batch size. The model is loaded for the first row that is made, and dropped behind the last one.
    A row is not begun if, by how long the one before took, no time is left for it."""
    loaded: list[Way] = []
    least, part = LEAST_SECONDS[with_kernels], GRAPHS_PART if with_kernels == GRAPHS else PART

    def row(size: int) -> Row:
        if not loaded:
            loaded.append(load_way())
        return {"": name, "batch size": size} | _figures(loaded[0], size, subject)

    for size in sizes:
        began = time.monotonic()
        report.measure(part, f"{name}, batch {size}", least, partial(row, size))
        least = max(least, time.monotonic() - began)
    loaded.clear()
    subject.card.forget()


def _figures(way: Way, size: int, subject: Subject) -> Row:
    card, paths = subject.card, subject.paths
    card.forget()  # what the row before has left
    way.begin(size)
    step = way.forward(size)
    for _ in range(way.runs):  # what happens once
        step()
    once = card.seconds(step)
    repeats = max(1, min(REPEATS, int(FORWARD_SECONDS / once)))
    taken, launch = _forward(card, step, repeats)
    forwards = min(repeats, kernels.FORWARDS)
    spans = kernels.trace(card, step, forwards)
    row = {"forward, ms a batch": taken, "of that launching, ms": launch}
    row |= kernels.summary(spans, forwards) | {LONGEST: kernels.longest(spans, forwards)}
    paths = paths[: max(2 * size, int(WORK_SECONDS / once * size))]
    if way.work is not None:
        way.work(paths[:size], size)
    watched = card.watched(step if way.work is None else partial(way.work, paths, size))
    if not way.is_itself():
        raise RuntimeError("the model cannot be compiled, so that these would be figures of the uncompiled one")
    row |= {"GPU memory, GB": watched.memory_gb, "GPU utilisation, %": watched.utilisation}
    if way.work is None:
        return row
    return row | {"images": len(paths), "seconds an image": watched.seconds / len(paths)}


def _forward(card: Card, step: Forward, repeats: int) -> tuple[float, float | str]:
    """Milliseconds of a forward pass on the device, and of its launch on the host, which on a CPU is the same."""
    taken = card.milliseconds(step, repeats)
    if not card.is_gpu:
        return taken, NOT_HERE
    card.wait()
    began = time.perf_counter()
    step()
    launch = (time.perf_counter() - began) * 1e3
    card.wait()
    return taken, launch


def _load_library(subject: Subject, products: Precision, autocast: bool) -> Way:
    """The library's model in fp32; as its documentation loads it: without TF32, which ours turns on, nor autocast."""
    use_products(products, torch.device(subject.card.device))
    library, processor = load(subject.folder)
    library = library.to(subject.card.device)

    def cast(work: Callable[..., object], *given: object) -> object:
        kind = torch.device(subject.card.device).type
        with torch.autocast(kind, torch.bfloat16, enabled=autocast):
            return work(*given)

    def forward_of(size: int) -> Forward:
        return partial(cast, _library_forward(library, processor, subject.paths, size))

    return Way(forward_of, partial(cast, partial(_library_loop, library, processor)))


def _load_ours(subject: Subject, with_kernels: Kernels) -> Way:
    segmenter = subject.load_ours(with_kernels)
    threads = StageThreads()  # as in a worker: those warmed up are those measured
    options = replace(OPTIONS, compiled=with_kernels != PLAIN)
    work = None if with_kernels == GRAPHS else partial(outcomes, segmenter, options=options, threads=threads)
    step = partial(forward, segmenter, subject.paths, with_kernels)
    return Way(
        step,
        work,
        lambda size: compile_anew(segmenter, with_kernels),
        RUNS[with_kernels],
        lambda: with_kernels == PLAIN or segmenter.facts.compiles,
    )


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
