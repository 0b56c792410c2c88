"""For people with a GPU and the weights: is it right, how fast is it, how far from the limit; ours and the plain loop.

Run as `python -m benchmarks.gpu --model facebook/sam3 --batch-size 1,4,8,16`. Parity comes first: if a photograph's
masks differ from the library's, no speed is printed. On a CPU it runs too (`--device cpu --model tiny`), and what only
a GPU has is n/a.
"""

import gc
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import click
import numpy as np
import torch
from PIL import Image
from skimage import data

from benchmarks.architecture import plain_loop, segmenter_of
from benchmarks.counting import count_ours
from benchmarks.timing import Row, table
from workers.fleet.weights import model_folder
from workers.inference import masks
from workers.inference.images import ReadRules
from workers.inference.pipeline import Item, Options, Pace, Segmented, segment
from workers.inference.sam3_checkpoint import load
from workers.inference.sam3_model import Sam3Segmenter
from workers.inference.segmenters import Precision
from workers.inference.stage_threads import StageThreads

NOT_HERE = "n/a"
OPTIONS = Options(threshold=0.5, score_floor=0.5)
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")
LEAST_IOU = {"fp32": 0.999, "mixed": 0.95, "bf16": 0.9}  # of a mask with the library's in fp32
FURTHEST_SCORE = {"fp32": 0.001, "mixed": 0.05, "bf16": 0.1}
# Dense bf16 in TFLOP/s, as the vendor gives it; half of it is what the best known code reaches.
PEAK_TFLOPS = {
    "A100": 312, "H100": 989, "H100 PCIe": 756, "H200": 989, "RTX 4090": 165, "L4": 121, "L40S": 362,
}  # fmt: skip
EVERYTHING = Options(threshold=0.0, score_floor=0.0)
COMPARED = 5  # instances of each photograph

Work = Callable[[Sequence[str], int], object]  # segments these files in batches of so many


@dataclass
class Machine:
    """The device, and what it says of itself while it works."""

    device: str
    shares: list[int] = field(default_factory=list)

    @property
    def is_gpu(self) -> bool:
        """Whether there is anything to ask."""
        return self.device.startswith("cuda")

    def watched(self, work: Callable[[], Any]) -> tuple[float, float | str, float | str]:
        """Seconds of `work`, the most GPU memory in GB, and the mean utilisation in percent as the driver gives it."""
        if not self.is_gpu:
            return _seconds(work), NOT_HERE, NOT_HERE
        torch.cuda.reset_peak_memory_stats(self.device)
        self.shares.clear()
        over = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(over,))
        watcher.start()
        try:
            seconds = _seconds(work)
        finally:
            over.set()
            watcher.join()
        memory = torch.cuda.max_memory_allocated(self.device) / 1e9
        return seconds, memory, statistics.mean(self.shares) if self.shares else NOT_HERE

    def _watch(self, over: threading.Event) -> None:
        while not over.wait(0.2):
            try:
                self.shares.append(torch.cuda.utilization(self.device))
            except (ImportError, RuntimeError):  # without the package nvidia-ml-py there is nothing to see
                return

    def floor(self, flops: int) -> float | None:
        """Seconds an image at half of the GPU's peak, if its name is known."""
        if not self.is_gpu:
            return None
        peak = peak_tflops(torch.cuda.get_device_name(self.device))
        return None if peak is None else flops / (peak * 1e12 * 0.5)


def peak_tflops(name: str) -> float | None:
    """Of the GPU that the driver calls so, by the longest name that we know, as whole words."""
    words = f" {name.replace('-', ' ')} "
    known = [one for one in PEAK_TFLOPS if f" {one} " in words]
    return PEAK_TFLOPS[max(known, key=len)] if known else None


def measure(
    model: str, batch_sizes: Sequence[int], device: str, dtype: Precision = "auto", images: int = 64
) -> tuple[list[Row], list[Row]]:
    """Rows of parity, and rows of speed: for each batch size the plain loop and ours. No speed without parity."""
    folder, machine = model_folder(model), Machine(device)
    with tempfile.TemporaryDirectory() as name:
        paths = _photographs(Path(name), images)
        parity, precision = _check_parity(folder, model, device, dtype, paths[: len(PHOTOGRAPHS)])
        if not holds(parity, precision):
            return parity, []
        rows: list[Row] = []
        ways: dict[str, Callable[[], Work]] = {
            "plain loop, fp32": partial(_load_plain, folder, device),
            f"ours, {precision}": partial(_load_ours, folder, device, precision),
        }
        for way, load in ways.items():
            work = load()  # one model at a time, for its memory
            for batch_size in batch_sizes:
                work(paths, batch_size)  # what happens once
                seconds, memory, share = machine.watched(partial(work, paths, batch_size))
                rows.append(_row(way, batch_size, seconds / images, memory, share))
            del work
            gc.collect()
    rows.sort(key=lambda row: batch_sizes.index(row["batch size"]))
    _relate(rows, machine.floor(count_flops(folder)))
    return parity, rows


def _relate(rows: list[Row], floor: float | None) -> None:
    plain = {row["batch size"]: row["seconds an image"] for row in rows if row[""].startswith("plain")}
    for row in rows:
        seconds = row["seconds an image"]
        row["times as fast as plain"] = plain[row["batch size"]] / seconds
        row["times as fast as the first row"] = rows[0]["seconds an image"] / seconds
        row["of the counted floor"] = NOT_HERE if floor is None else floor / seconds
        row["hours for 10,000"] = seconds * 10_000 / 3600


def _load_plain(folder: Path, device: str) -> Work:
    """The library's model as its documentation loads it: fp32, and without TF32, which ours turns on."""
    torch.set_float32_matmul_precision("highest")
    library, processor = load(folder)
    return partial(_plain, library.to(device), processor)


def _load_ours(folder: Path, device: str, precision: Precision) -> Work:
    segmenter = Sam3Segmenter(folder, model_name=folder.name, device=device, dtype=precision)
    return partial(_outcomes, segmenter, threads=StageThreads())  # as in a worker: those warmed up are those measured


def holds(parity: Sequence[Row], precision: str) -> bool:
    """Whether every photograph's masks and scores are close enough to the library's."""
    return all(
        row["least IoU"] >= LEAST_IOU[precision] and row["largest difference of a score"] <= FURTHEST_SCORE[precision]
        for row in parity
    )


def _check_parity(
    folder: Path, model: str, device: str, dtype: Precision, paths: Sequence[str]
) -> tuple[list[Row], Precision]:
    """Parity, and the precision that `dtype` means here; no model stays."""
    segmenter = Sam3Segmenter(folder, model_name=model, device=device, dtype=dtype)
    library, processor = load(folder)
    parity = measure_parity(segmenter, library.to(device), processor, paths)
    return parity, cast(Precision, segmenter.facts.dtype)


def measure_parity(segmenter: Sam3Segmenter, library: Any, processor: Any, paths: Sequence[str]) -> list[Row]:
    """One row a photograph: the library's best instances, whatever their score, and the worst match among ours."""
    rows: list[Row] = []
    for path, outcome in zip(paths, _outcomes(segmenter, paths, len(paths), EVERYTHING), strict=True):
        ours = outcome.found[0].instances
        cut = (ours[COMPARED - 1].score + ours[COMPARED].score) / 2
        with Image.open(path) as image:
            (theirs,) = plain_loop(library, processor, [image.convert("RGB")], "person", cut)
        matches = []
        for score, mask in zip(theirs["scores"].tolist(), theirs["masks"].cpu().numpy(), strict=True):
            rle = masks.encode(mask.astype(np.uint8))
            match = [(masks.iou(one.rle, rle, outcome.height, outcome.width), abs(one.score - score)) for one in ours]
            matches.append(max(match))
        rows.append(
            {
                "photograph": Path(path).stem,
                "instances compared": len(matches),
                "least IoU": min((iou for iou, _ in matches), default=0.0),
                "largest difference of a score": max((difference for _, difference in matches), default=1.0),
            }
        )
    return rows


def count_flops(folder: Path) -> int:
    """Of one image with one prompt, counted on the meta device for this model."""
    model, processor = load(folder)
    return count_ours(segmenter_of(model.to("meta"), processor, "meta"), [("person",)], found=1).flops


def _row(way: str, batch_size: int, seconds: float, memory: float | str, share: float | str) -> Row:
    return {
        "": way,
        "batch size": batch_size,
        "GPU memory, GB": memory,
        "GPU utilisation, %": share,
        "seconds an image": seconds,
    }


def _photographs(folder: Path, count: int) -> list[str]:
    paths = []
    for number in range(count):
        name = PHOTOGRAPHS[number % len(PHOTOGRAPHS)]
        paths.append(str(folder / f"{name}-{number}.jpg"))
        Image.fromarray(getattr(data, name)()).resize((1920, 1080)).save(paths[-1], quality=90)
    return paths


def _outcomes(
    segmenter: Sam3Segmenter,
    paths: Sequence[str],
    batch_size: int,
    options: Options = OPTIONS,
    threads: StageThreads | None = None,
) -> list[Segmented]:
    items = [Item(number, path, ("person",)) for number, path in enumerate(paths)]
    pace = Pace(batch_size=batch_size, stage_threads=threads)
    batches = segment(items, segmenter, ReadRules(), options, pace)
    outcomes = [outcome for batch in batches for outcome in batch]
    assert all(isinstance(outcome, Segmented) for outcome in outcomes), outcomes
    return outcomes  # type: ignore[return-value]  # as just checked


def _plain(library: Any, processor: Any, paths: Sequence[str], batch_size: int) -> None:
    """Read, forward, post-process, encode, one after the other."""
    for start in range(0, len(paths), batch_size):
        pictures = [Image.open(path).convert("RGB") for path in paths[start : start + batch_size]]
        for result in plain_loop(library, processor, pictures, "person", OPTIONS.threshold):
            for mask in result["masks"].cpu().numpy().astype(np.uint8):
                masks.encode(mask)


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()  # ends with its results on the host, so nothing is left to wait for
    return time.perf_counter() - started


@click.command()
@click.option("--model", default="facebook/sam3", show_default=True, help="tiny, a folder, or a name on the Hub.")
@click.option("--batch-size", "batch_sizes", default="1,4,8,16", show_default=True)
@click.option("--device", default="cuda", show_default=True)
@click.option("--dtype", type=click.Choice(["auto", "mixed", "fp32", "bf16"]), default="auto", show_default=True)
@click.option("--images", default=64, show_default=True)
def main(model: str, batch_sizes: str, device: str, dtype: Precision, images: int) -> None:
    """Print parity with the library, then the speeds."""
    sizes = [int(size) for size in batch_sizes.split(",")]
    parity, speeds = measure(model, sizes, device, dtype, images)
    print(table(parity), "", sep="\n")
    if not speeds:
        raise click.ClickException("masks or scores differ from the library's; speeds would mean nothing")
    print(table(speeds))


if __name__ == "__main__":
    main()
