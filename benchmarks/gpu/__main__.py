"""For people with a GPU: is it right there, how fast, how far from the limit; ours and the plain loop.

    python -m benchmarks.gpu                         eight minutes, full size with random weights, nothing to download
    python -m benchmarks.gpu --model facebook/sam3   with the real ones
    python -m benchmarks.gpu --wheels                what to carry to a machine that has torch and no network

Parity comes first: if the masks differ from the library's, no speed is measured. Everything is kept as it is measured,
and the same command takes what is left. On a CPU it runs too (`--device cpu --model tiny`), and what only a GPU has is
n/a.
"""

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks import photographs
from benchmarks.gpu import ceilings, habits, parity, speed, weights, wheels, whole_run
from benchmarks.gpu.card import Card
from benchmarks.gpu.ours import COMPILED, GRAPHS, PLAIN, Kernels, Subject, in_one_batch
from benchmarks.gpu.report import OtherFigures, Report
from benchmarks.timing import Row
from workers.errors import Sam3Error
from workers.fleet.gpu_memory import growing
from workers.fleet.weights import model_folders
from workers.inference.models.sam3_checkpoint import load
from workers.inference.models.torch_precision import chosen
from workers.inference.segmenters import Precision

RANDOM = "random"
PRECISIONS: tuple[Precision, ...] = ("fp32", "mixed", "bf16")
# Seconds that must be left for a part to begin.
LEAST = {"parity": 30.0, "FLOPs": 20.0, "run": 60.0, "card": 10.0}
RUN_SECONDS = 120.0  # of the images of the whole run, about, at most


@click.command()
@click.option("--model", default=RANDOM, show_default=True, help="random, tiny, a folder, or a name on the Hub.")
@click.option("--batch-size", "batch_sizes", default="1,4,8,16", show_default=True)
@click.option("--device", default="cuda", show_default=True)
@click.option("--dtype", type=click.Choice(["auto", *PRECISIONS]), default="auto", show_default=True)
@click.option("--images", default=64, show_default=True, help="Images of each row of the speed table.")
@click.option("--compiled/--uncompiled", default=None, help="Measure compiled kernels too; without it on a GPU only.")
@click.option("--run-images", default=2000, show_default=True, help="Images of the whole sam3-run; 0 leaves it out.")
@click.option("--only-parity", is_flag=True, help="Compare with the library, and measure no speed.")
@click.option("--minutes", default=8.0, show_default=True, help="Begin nothing that would take longer.")
@click.option("--output", default="gpu-report", show_default=True, type=click.Path(path_type=Path, file_okay=False))
@click.option("--wheels", "only_wheels", is_flag=True, help="List what is needed beside torch, and end.")
def main(
    model: str, device: str, dtype: Precision, batch_sizes: str, output: Path, only_wheels: bool, **counts: Any
) -> None:
    """Measure a GPU; write gpu.json and gpu.md, and print the tables."""
    if only_wheels:
        print(wheels.listed())
        return
    sizes = [int(size) for size in batch_sizes.split(",")]
    os.environ |= as_nodes_see_it()  # before torch looks for a GPU
    card = Card(device)
    if card.is_gpu and not torch.cuda.is_available():
        raise click.ClickException("no GPU here that torch can use; to try this program out: --device cpu --model tiny")
    try:
        report = Report(output, card.facts() | {"model": model}, counts["minutes"] * 60)
        folder = checkpoint(model, output, device)
    except (OtherFigures, Sam3Error) as error:
        raise click.ClickException(
            f"{error}; name another folder with --output" if isinstance(error, OtherFigures) else str(error)
        ) from None
    pictures = output / "photographs"
    shutil.rmtree(pictures, ignore_errors=True)  # of an earlier call, which may have had fewer
    paths = photographs.write(photographs.FULL_HD, pictures, counts["images"])
    subject = Subject(card, folder, chosen(dtype, torch.device(device)), paths)
    if card.is_gpu and (why := card.why_no_utilisation()):
        print(f"nobody tells how busy the GPU is ({why})", flush=True)
    right = measure(report, subject, sizes, counts)
    tables = shown(report, card)
    path = report.write(tables)
    print("", path.read_text(), sep="\n")
    if not right:
        raise click.ClickException("masks or scores differ from the library's; speeds would mean nothing")
    if report.left:
        print("the same command again takes what is left", flush=True)
        sys.exit(1)


def checkpoint(model: str, output: Path, device: str) -> Path:
    """The folder of the model; random weights are made once and kept beside the figures."""
    if model != RANDOM:
        return model_folders(model)[0]
    folder = output / "random-model"
    if not folder.exists():
        print("making random weights", flush=True)
        part = output / "random-model.part"
        weights.write_checkpoint(part, device)
        part.rename(folder)  # so that a call that is ended meanwhile leaves no half of it
    return folder


def measure(report: Report, subject: Subject, sizes: Sequence[int], counts: dict[str, Any]) -> bool:
    """All parts in the order of their worth; false if ours is not equal to the library, and then without speeds."""
    compared = [_compare(report, subject, PLAIN), _compare(report, replace(subject, precision="fp32"), PLAIN)]
    if False in compared:
        return False
    if counts["only_parity"] or None in compared:  # which is told as not measured; without it no speed means anything
        return True
    report.measure("card", "", LEAST["card"], partial(ceilings.measure, subject.card))
    speed.measure_library(report, subject, sizes)
    speed.measure_ours(report, subject, PLAIN, sizes)
    report.measure("FLOPs", "", LEAST["FLOPs"], partial(speed.count_flops, subject.folder))
    if counts["run_images"] and report.row("run", "") is None:
        _measure_run(report, subject, max((size for size in sizes if size <= 16), default=16), counts["run_images"])
    habits.measure(report, subject)
    right: bool | None = True
    if counts["compiled"] or (counts["compiled"] is None and subject.card.is_gpu):
        for kernels in (COMPILED, GRAPHS):  # they compile, which takes minutes: so they come last
            if this := _compare(report, subject, kernels):
                speed.measure_ours(report, subject, kernels, sizes)
            right = right and this is not False
    return bool(right)


def _measure_run(report: Report, subject: Subject, batch_size: int, count: int) -> None:
    """With fewer images on a card on which so many would take too long."""
    place = report.folder / "run"
    shutil.rmtree(place, ignore_errors=True)  # of a run that did not end
    name = subject.name(PLAIN)
    each = [row["seconds an image"] for row in report.rows(speed.PART) if row[""] == name]
    if each:
        count = min(count, max(batch_size, int(RUN_SECONDS / min(each))))
    least = LEAST["run"] + (count * min(each) if each else 0)
    report.measure("run", "", least, partial(whole_run.measure, subject, place, count, batch_size))


def as_nodes_see_it() -> dict[str, str]:
    """The variables by which a node's GPU is the same as here, and allocates its memory in the same way."""
    numbers = {} if "CUDA_VISIBLE_DEVICES" in os.environ else {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    return numbers | growing()


def _compare(report: Report, subject: Subject, kernels: Kernels) -> bool | None:
    """Whether ours finds what the library's loop does; None where it is not known."""
    name = subject.name(kernels)
    least = LEAST["parity"] if kernels == PLAIN else speed.LEAST_SECONDS[kernels]
    report.measure("parity", name, least, partial(_parity, subject, kernels))
    row = report.row("parity", name)
    return None if row is None else parity.holds(row, subject.precision)


def _parity(subject: Subject, kernels: Kernels) -> Row:
    """One model is in memory at a time."""
    paths = subject.paths[: parity.IMAGES]
    ours = in_one_batch(subject.load_ours(kernels), paths, parity.EVERYTHING, kernels)
    library, processor = load(subject.folder)
    return parity.compare(subject.name(kernels), ours, library.to(subject.card.device), processor, paths)


def shown(report: Report, card: Card) -> dict[str, list[Row]]:
    """The tables by their titles."""
    flops, rates = report.row("FLOPs", ""), report.row("card", "")
    floor = ceilings.floor(rates, flops["GFLOP an image"]) if flops and rates and card.is_gpu else None
    tables = {
        "Masks and scores against the library's loop in fp32": report.rows("parity"),
        "From file to RLE, in one process": speed.related(report.rows(speed.PART), floor),
        "A forward pass with CUDA graphs, which workers do not use": speed.by_size(report.rows(speed.GRAPHS_PART)),
        "One sam3-run over JPEGs of 1920 x 1080": report.rows("run"),
        "What is not like the batch before": report.rows(habits.PART),
        "The card itself": report.rows("card"),
        "Operations of the model": report.rows("FLOPs"),
        "The longest kernels": speed.longest_kernels(report.rows(speed.PART)),
    }
    return {title: rows for title, rows in tables.items() if rows}


if __name__ == "__main__":
    main()
