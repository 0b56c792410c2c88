"""How much of an accelerator's time do we use, and how much do others? It is simulated; images and masks are real.

Run as `python -m benchmarks.pipeline`. Prints Markdown tables: seconds are the median of repeats that take turns, with
the smallest and the largest; shares of the limit are medians of the repeats' own.
"""

import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import click
import torch

from benchmarks import peers, photographs, ray_peer
from benchmarks.device import FIXED_MS, IMAGE_MS, Device, idle, span
from benchmarks.peers import Speed, System, Timing
from benchmarks.photographs import KINDS, Kind
from benchmarks.through_celery import through_celery
from benchmarks.timing import Row as Figures
from benchmarks.timing import table

SYSTEMS: dict[str, System] = {
    "ours": peers.ours,
    "plain script": peers.plain_script,
    "DataLoader": peers.data_loader,
    "Ray Data": ray_peer.ray_data,
}
# Milliseconds an image, how many images make a few seconds, and repeats: more where two cores hardly keep up.
OTHER_SPEEDS = ((12.0, 120, 3), (43.0, 120, 1), (300.0, 24, 1))
ONCE = ("12 MP JPEG", "plain script")  # takes two minutes
CHUNK = 256


@dataclass(frozen=True)
class Row:
    """One way to segment one kind of images on a simulated device of one speed. Values are medians over the repeats.

    `limit`: seconds of the device alone. `bound`: what bounds us from below, if our CPU time spreads evenly over all
    cores: "device", which begins when its first batch has been read, or "CPU", after which the last batch is on the
    device. `of_limit` and `of_bound` are shares: 1.0 is the best there is.
    """

    kind: str
    images: int
    image_ms: float
    system: str
    seconds: float
    fastest: float
    slowest: float
    limit: float
    of_limit: float
    bound: str
    of_bound: float
    idle: float
    cpu_ms: float | None  # an image
    startup: float


@dataclass(frozen=True)
class Stream:
    """A run of several chunks through Celery, broker and SQL, beside the same images in process. Simulated device.

    `seconds` from first submit to last result; `tax` is what Celery adds as a share; `gap_ms` is the device's pause
    between two chunks.
    """

    kind: str
    images: int
    chunks: int
    in_process_seconds: float
    seconds: float
    tax: float
    idle_in_process: float
    idle: float
    gap_ms: float
    longest_gap_ms: float


def compare(
    kinds: Sequence[Kind], speed: Speed, images: int, repeats: int, systems: Iterable[str] = SYSTEMS
) -> Iterator[Row]:
    """Every system on every kind of image, taking turns. "ours" must be among them."""
    with TemporaryDirectory() as folder:
        for kind in kinds:
            paths = photographs.write(kind, Path(folder) / kind.name, images)
            limit = peers.limit(paths, speed).seconds  # once: nothing disturbs it
            timings: dict[str, list[Timing]] = defaultdict(list)
            for turn in range(repeats):
                for system in systems:
                    if turn == 0 or (kind.name, system) != ONCE:
                        timings[system].append(SYSTEMS[system](paths, speed))
            print(f"{kind.name} at {speed.image_ms:g} ms", file=sys.stderr)
            cpu = median(one.cpu_seconds or 0.0 for one in timings["ours"]) / (os.cpu_count() or 1)
            yield from (_row(kind, speed, len(paths), (limit, cpu), system, timings[system]) for system in timings)


def _row(kind: Kind, speed: Speed, count: int, least: tuple[float, float], system: str, timings: list[Timing]) -> Row:
    """`least`: seconds of the device alone, and of the CPU alone."""
    limit, cpu = least
    by_device = limit + cpu * peers.BATCH / count
    by_cpu = cpu + limit * peers.BATCH / count
    seconds = median(one.seconds for one in timings)
    used = [one.cpu_seconds for one in timings if one.cpu_seconds is not None]
    return Row(
        kind=kind.name,
        images=count,
        image_ms=speed.image_ms,
        system=system,
        seconds=seconds,
        fastest=min(one.seconds for one in timings),
        slowest=max(one.seconds for one in timings),
        limit=limit,
        of_limit=limit / seconds,
        bound="device" if by_device >= by_cpu else "CPU",
        of_bound=max(by_device, by_cpu) / seconds,
        idle=median(one.idle for one in timings),
        cpu_ms=median(used) * 1000 / count if used else None,
        startup=median(one.startup for one in timings),
    )


def stream(kind: Kind, speed: Speed, chunks: int = 4, repeats: int = 1, chunk: int = CHUNK) -> Stream:
    """One run of so many chunks of `chunk` images each, in process and through Celery in turns."""
    images = chunks * chunk
    with TemporaryDirectory() as folder:
        paths = photographs.write(kind, Path(folder) / "images", images)
        in_process, celery = [], []
        for _ in range(repeats):
            device = Device(speed.fixed_ms, speed.image_ms)
            peers.segment_ours(paths, device)
            in_process.append(device.busy)
            celery.append(through_celery(paths, speed.fixed_ms, speed.image_ms, chunk))
    every = chunk // peers.BATCH
    gaps = [
        (after.began - before.ended) * 1000
        for busy in celery
        for before, after in zip(busy[every - 1 :: every], busy[every::every], strict=False)
    ]
    return Stream(
        kind=kind.name,
        images=images,
        chunks=chunks,
        in_process_seconds=median(map(span, in_process)),
        seconds=median(map(span, celery)),
        tax=median(span(through) / span(direct) - 1 for through, direct in zip(celery, in_process, strict=True)),
        idle_in_process=median(map(idle, in_process)),
        idle=median(map(idle, celery)),
        gap_ms=median(gaps),
        longest_gap_ms=max(gaps),
    )


def tables(rows: Sequence[Row]) -> str:
    """Markdown: one table for each speed of the device."""
    return "\n\n".join(_of_one_speed(list(group)) for _, group in groupby(rows, key=lambda row: row.image_ms))


def _of_one_speed(rows: Sequence[Row]) -> str:
    first = rows[0]
    heading = (
        f"{first.images} images of each kind, simulated device with {FIXED_MS:g} + {first.image_ms:g} ms an image,"
        f" limit {first.limit:.2f} s:"
    )
    return f"{heading}\n\n{table([_shown(row) for row in rows])}"


def _shown(row: Row) -> Figures:
    spread = f" ({row.fastest:.2f} to {row.slowest:.2f})" if row.fastest < row.slowest else ""
    mine = row.system == "ours"
    return {
        "images": row.kind,
        "system": row.system,
        "seconds": f"{row.seconds:.2f}{spread}",
        "of the limit": f"{row.of_limit:.2f}",
        "of the bound": f"{row.of_bound:.2f} ({row.bound})" if mine else "",
        "device idle": f"{row.idle:.1%}",
        "CPU, ms an image": "unknown" if row.cpu_ms is None else f"{row.cpu_ms:.1f}",
    }


def stream_table(streams: Sequence[Stream]) -> str:
    """Markdown."""
    return table(
        [
            {
                "images": f"{one.images:,} of {one.kind}",
                "chunks": one.chunks,
                "in process": f"{one.in_process_seconds:.2f} s",
                "through Celery": f"{one.seconds:.2f} s",
                "tax": f"{one.tax:.1%}",
                "simulated device idle": f"{one.idle:.1%}, in process {one.idle_in_process:.1%}",
                "pause between two chunks": f"{one.gap_ms:.0f} ms, at most {one.longest_gap_ms:.0f}",
            }
            for one in streams
        ]
    )


def everything(images: int = 120, image_ms: float = IMAGE_MS, repeats: int = 3) -> tuple[list[Row], list[Stream]]:
    """All that the documentation shows. A stream runs once, since its chunks repeat each other."""
    torch.set_num_threads(1)  # of one step: as in a worker beside a GPU
    ray_peer.start()
    try:
        list(compare(KINDS[:1], Speed(1, 1), 64, 1, ("ours", "Ray Data")))  # its processes import torch
        rows = [*compare(KINDS, Speed(FIXED_MS, image_ms), images, repeats)]
    finally:
        ray_peer.stop()
    for other, count, times in OTHER_SPEEDS:
        rows += compare(KINDS, Speed(FIXED_MS, other), count, times, systems=("ours",))
    return rows, [stream(kind, Speed(FIXED_MS, image_ms)) for kind in KINDS[:2]]


@click.command()
@click.option("--images", default=120, show_default=True, help="Of each kind.")
@click.option("--device-ms", default=IMAGE_MS, show_default=True, help="Simulated time of an image.")
@click.option("--repeats", default=3, show_default=True)
def main(images: int, device_ms: float, repeats: int) -> None:
    rows, streams = everything(images, device_ms, repeats)
    print(tables(rows), stream_table(streams), sep="\n\n")


if __name__ == "__main__":
    main()
