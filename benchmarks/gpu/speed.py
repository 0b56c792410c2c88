"""Seconds an image, from the file to the RLE, of the plain loop and of ours, by batch size. Checks no masks."""

import gc
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
from benchmarks.gpu.card import NOT_HERE, Card
from benchmarks.gpu.ours import OPTIONS, PROMPT, forward, outcomes
from benchmarks.gpu.report import Report
from benchmarks.timing import Row
from workers.inference import masks
from workers.inference.protocol import Options
from workers.inference.sam3_checkpoint import load
from workers.inference.sam3_model import Sam3Segmenter
from workers.inference.sam3_parts import Compiled
from workers.inference.segmenters import Precision
from workers.inference.stage_threads import StageThreads
from workers.inference.torch_precision import use_products

PART, GRAPHS = "speed", "CUDA graphs"
PLAIN = "plain loop, fp32"
COMPILED = replace(OPTIONS, compiled=True)
COMPILING_SECONDS = 180.0  # a compiled row is not begun with less
LEAST_SECONDS = 25.0  # a row is not begun with less; the slowest, of the plain loop, takes about as long on an H100
REPEATS = 5  # of one forward pass


@dataclass(frozen=True)
class Way:
    """A loaded model. `work` segments these files in batches of so many; `forward`, of ours alone, is one forward pass
    of a batch of so many. `begin` is called before batches of another size."""

    work: Callable[[Sequence[str], int], object]
    forward: Callable[[int], Callable[[], object]] | None = None
    begin: Callable[[int], object] = lambda size: None


def measure(
    report: Report, card: Card, folder: Path, precision: Precision, batch_sizes: Sequence[int], paths: Sequence[str]
) -> None:
    """A row for each way and batch size, one model in memory at a time."""
    ways: dict[str, Callable[[], Way]] = {
        PLAIN: partial(_load_plain, folder, card.device),
        f"ours, {precision}": partial(_load_ours, folder, card.device, precision, paths),
    }
    _measure(report, card, ways, LEAST_SECONDS, batch_sizes, paths)


def measure_compiled(
    report: Report, card: Card, folder: Path, precision: Precision, batch_sizes: Sequence[int], paths: Sequence[str]
) -> None:
    """The same with compiled kernels; and a forward pass with CUDA graphs, which no worker uses."""
    load_way = partial(_load_ours, folder, card.device, precision, paths, COMPILED)
    ways: dict[str, Callable[[], Way]] = {f"ours, {precision}, compiled": load_way}
    _measure(report, card, ways, COMPILING_SECONDS, batch_sizes, paths)
    for size in batch_sizes:
        work = partial(_graphs_row, card, folder, precision, size, paths)
        report.measure(GRAPHS, f"batch {size}", COMPILING_SECONDS, work)


def _graphs_row(card: Card, folder: Path, precision: Precision, size: int, paths: Sequence[str]) -> Row:
    segmenter = Sam3Segmenter(folder, model_name=folder.name, device=card.device, dtype=precision)
    segmenter._compiled = Compiled(segmenter._plain, f"graphs-{precision}-{card.name}", with_graphs)
    taken, launch = _forward(card, forward(segmenter, paths, size, COMPILED))
    return {"batch size": size, "forward, ms a batch": taken, "of that launching, ms": launch}


def with_graphs(graph: Any, inputs: Any) -> Any:
    """torch's compiler, whose kernels are then launched all at once."""
    from torch._inductor.compile_fx import compile_fx  # takes a second, which whoever compiles nothing need not wait

    return compile_fx(graph, inputs, config_patches={"triton.cudagraphs": True})


def _measure(
    report: Report,
    card: Card,
    ways: dict[str, Callable[[], Way]],
    least_seconds: float,
    batch_sizes: Sequence[int],
    paths: Sequence[str],
) -> None:
    for name, load_way in ways.items():
        loaded: list[Way] = []
        for size in batch_sizes:
            work = partial(_row, name, size, load_way, loaded, card, paths)
            report.measure(PART, f"{name}, batch {size}", least_seconds, work)
        loaded.clear()
        gc.collect()
        if card.is_gpu:
            torch.cuda.empty_cache()


def _row(name: str, size: int, load_way: Callable[[], Way], loaded: list[Way], card: Card, paths: Sequence[str]) -> Row:
    if not loaded:  # only if a row of it is still to be measured
        loaded.append(load_way())
    way = loaded[0]
    way.begin(size)
    way.work(paths[:size], size)  # what happens once
    watched = card.watched(partial(way.work, paths, size))
    taken, launch = _forward(card, way.forward(size)) if way.forward else (NOT_HERE, NOT_HERE)
    return {
        "": name,
        "batch size": size,
        "forward, ms a batch": taken,
        "of that launching, ms": launch,
        "GPU memory, GB": watched.memory_gb,
        "GPU utilisation, %": watched.utilisation,
        "seconds an image": watched.seconds / len(paths),
    }


def _forward(card: Card, work: Callable[[], object]) -> tuple[float, float | str]:
    """Milliseconds of a forward pass on the device, and of its launch on the host, which on a CPU is the same."""
    work()
    taken = card.milliseconds(work, REPEATS)
    if not card.is_gpu:
        return taken, NOT_HERE
    card.wait()
    began = time.perf_counter()
    work()
    launch = (time.perf_counter() - began) * 1e3
    card.wait()
    return taken, launch


def _load_plain(folder: Path, device: str) -> Way:
    """The library's model as its documentation loads it: fp32, and without TF32, which ours turns on."""
    use_products("fp32", torch.device(device))
    library, processor = load(folder)
    return Way(partial(_plain, library.to(device), processor))


def _load_ours(
    folder: Path, device: str, precision: Precision, paths: Sequence[str], options: Options = OPTIONS
) -> Way:
    segmenter = Sam3Segmenter(folder, model_name=folder.name, device=device, dtype=precision)
    threads = StageThreads()  # as in a worker: those warmed up are those measured

    def begin(size: int) -> None:
        """Compile anew, for batches of this size."""
        segmenter._compiled = Compiled(segmenter._plain, f"{precision}-{device}")

    work = partial(outcomes, segmenter, options=options, threads=threads)
    return Way(work, partial(forward, segmenter, paths, options=options), begin)


def _plain(library: Any, processor: Any, paths: Sequence[str], batch_size: int) -> None:
    """Read, forward, post-process, encode, one after the other."""
    for start in range(0, len(paths), batch_size):
        pictures = [Image.open(path).convert("RGB") for path in paths[start : start + batch_size]]
        for result in plain_loop(library, processor, pictures, PROMPT, OPTIONS.threshold):
            for mask in result["masks"].cpu().numpy().astype(np.uint8):
                masks.encode(mask)


def count_flops(folder: Path) -> Row:
    """Operations of one image with one prompt, counted on the meta device for this model."""
    model, processor = load(folder)
    counted = count_ours(segmenter_of(model.to("meta"), processor, "meta"), [(PROMPT,)], found=1)
    return {"GFLOP an image": counted.flops / 1e9}


def related(rows: Sequence[Row], floor_seconds: float | None) -> list[Row]:
    """The rows by batch size, each with what it means beside the plain loop and for 10,000 images."""
    rows = sorted(rows, key=lambda row: row["batch size"])
    plain = {row["batch size"]: row["seconds an image"] for row in rows if row[""] == PLAIN}
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
