"""`make bench`: runs every benchmark and writes docs/performance.md with its plots. Measures nothing itself.

Each part has a fresh process of its own, one after the other.
"""

import os
import platform
import re
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from string import Template
from typing import Any, TypeVar

import click

from benchmarks import (
    bars,
    cores,
    enqueue,
    exports,
    model,
    one_host,
    operate,
    pipeline,
    plots,
    postprocess,
    sqlite_contention,
    threads,
)
from benchmarks.bars import Results
from benchmarks.device import IMAGE_MS
from benchmarks.machine import commit, cpu, memory_gb
from benchmarks.timing import as_rows, table

DOCS = Path(__file__).parent.parent / "docs"
TEMPLATE = Path(__file__).with_name("performance.template.md")
MEASURED_GPUS = Path(__file__).with_name("gpu") / "measured"
PACKAGES = ("torch", "transformers", "pillow", "simplejpeg", "celery", "sqlalchemy", "psycopg", "ray")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    images: int
    repeats: int
    rows: list[int]
    contention_rows: int
    exported_rows: int
    exported_masks: int
    host_images: int
    architectures: list[str]


FULL = Sizes(120, 3, [10_000, 100_000, 1_000_000], 200_000, 50_000, 2_000, 2880, [*model.RANDOM])
QUICK = Sizes(16, 1, [10_000, 100_000], 20_000, 2_000, 100, 512, [*model.RANDOM][:1])


@click.command()
@click.option("--quick", is_flag=True, help="A few minutes, to see whether everything runs; its figures mean nothing.")
@click.option("--output", type=click.Path(path_type=Path), default=DOCS, show_default=True, help="The folder to write.")
def main(quick: bool, output: Path) -> None:
    """Measure everything, write performance.md with its plots, and print what it is held against."""
    began, load = time.monotonic(), os.getloadavg()[0]
    results = measure(QUICK if quick else FULL)
    minutes = (time.monotonic() - began) / 60
    write(results, machine(minutes, load), output)
    print(f"\n{bars.table(results)}\n\nwrote {output / 'performance.md'} after {minutes:.0f} minutes")


def measure(sizes: Sizes) -> Results:
    rows, streams = fresh("simulated accelerator", pipeline.everything, sizes.images, IMAGE_MS, sizes.repeats)
    databases = [fresh(f"rows into {kind}", enqueue.measure, kind, sizes.rows, 2) for kind in ("sqlite", "postgresql")]
    return Results(
        rows=rows,
        streams=streams,
        growth=[row for growth, _ in databases for row in growth],
        aftermath=[row for _, aftermath in databases for row in aftermath],
        operations=[
            row
            for kind in ("sqlite", "postgresql")
            for row in fresh(f"retry, cancel and delete in {kind}", operate.measure, kind, sizes.rows)
        ],
        host=fresh("eight nodes on one host", one_host.measure, sizes.host_images),
        exports=exports.rows(
            fresh("exports", partial(exports.measure, sizes.exported_rows, masks=sizes.exported_masks))
        ),
        contention=fresh("commits beside an enqueue", sqlite_contention.compare, sizes.contention_rows),
        masks=fresh("masks", postprocess.measure),
        masks_memory=fresh("memory of masks", postprocess.measure_memory),
        masks_beside_launches=fresh("masks beside launches", threads.masks_beside_launches),
        reading_beside_launches=fresh("reading beside launches", threads.reading_beside_launches),
        cores=fresh("cores", cores.measure),
        counts=fresh("counts", model.measure_counts),
        reading=fresh("JPEGs", model.measure_reading),
        random=[fresh(name, model.measure_random, name) for name in sizes.architectures],
    )


def write(results: Results, measured_on: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    plots.shares(results.rows, folder / "performance-device.svg")
    plots.growth(results.growth, folder / "performance-growth.svg")
    text = Template(TEMPLATE.read_text()).substitute(tables(results), machine=measured_on, gpus=gpus())
    (folder / "performance.md").write_text(text)


def fresh(what: str, work: Callable[..., Value], *args: Any) -> Value:
    """The answer of `work` in a process of its own, with a line of progress."""
    began = time.monotonic()
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        value = pool.submit(work, *args).result()
    print(f"{what}: {time.monotonic() - began:.0f} s", flush=True)
    return value


def machine(minutes: float, load: float) -> str:
    """What the figures were measured on, in one paragraph."""
    facts = [
        f"{date.today()}, commit {commit()}, {minutes:.0f} minutes; {cpu()}",
        f"{os.cpu_count()} cores, {memory_gb():.0f} GB, {platform.system()} {platform.release()}",
        f"Python {platform.python_version()}",
        *(f"{name} {version(name)}" for name in PACKAGES),
    ]
    return f"{', '.join(facts)}. The machine is shared; its load before the start was {load:.1f}."


def tables(results: Results) -> dict[str, str]:
    """The figures, by the template's names for them."""
    return {
        "bars": bars.table(results),
        "device": pipeline.tables(results.rows),
        "stream": pipeline.stream_table(results.streams),
        "counts": table(results.counts),
        "equality": table([row for differences, _ in results.random for row in differences]),
        "times": table([row for _, times in results.random for row in times]),
        "reading": table(results.reading),
        "masks": table(results.masks),
        "masks_memory": table(results.masks_memory),
        "masks_beside_launches": table(results.masks_beside_launches),
        "reading_beside_launches": table(results.reading_beside_launches),
        "cores": table(results.cores),
        "growth": table(enqueue.growth_rows(results.growth)),
        "aftermath": table(as_rows(results.aftermath)),
        "operations": table(operate.operation_rows(results.operations)),
        "exports": table(results.exports),
        "contention": table(results.contention),
        "one_host": one_host.tables(results.host),
    }


def gpus(folder: Path = MEASURED_GPUS) -> str:
    """What people measured on GPUs, a file for each card as `benchmarks.gpu` writes it, one heading deeper."""
    pages = [path.read_text().strip() for path in sorted(folder.glob("*.md"))]
    deeper = [re.sub("^#", "##", page, flags=re.MULTILINE) for page in pages]
    return "\n\n".join(deeper) or "No GPU was measured yet."


if __name__ == "__main__":
    main()
