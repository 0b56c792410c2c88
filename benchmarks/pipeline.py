"""How much of an accelerator's time do we use, and how much do others? It is simulated; images and masks are real.

Run as `python -m benchmarks.pipeline`. Prints Markdown tables: seconds are the median of repeats that take turns, with
the smallest and the largest; shares of the limit are medians of the repeats' own.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
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

SYSTEMS: dict[str, System] = {
    "limit": peers.limit,
    "ours": peers.ours,
    "plain script": peers.plain_script,
    "DataLoader": peers.data_loader,
    "Ray Data": ray_peer.ray_data,
}
OTHER_SPEEDS_MS = {12.0: 120, 43.0: 120, 300.0: 24}  # ms an image -> how many images make a few seconds
ONCE = ("12 MP JPEG", "plain script")  # takes more than a minute
CHUNK = 256


@dataclass(frozen=True)
class Row:
    """One way to segment one kind of images on a simulated device of one speed. Values are medians over the repeats.

    `of_limit`: the time of the device alone, as a share of this one's. `bound`: what bounds it from below, "device" or
    "CPU" (the CPU time that ours takes, spread evenly over all cores); `of_bound`: the time of that as a share.
    """

    kind: str
    images: int
    image_ms: float
    system: str
    seconds: float
    fastest: float
    slowest: float
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
    """Every system on every kind of image, taking turns. "limit" and "ours" must be among them."""
    with TemporaryDirectory() as folder:
        for kind in kinds:
            paths = photographs.write(kind, Path(folder) / kind.name, images)
            timings: dict[str, list[Timing]] = defaultdict(list)
            for turn in range(repeats):
                for system in systems:
                    if turn == 0 or (kind.name, system) != ONCE:
                        timings[system].append(SYSTEMS[system](paths, speed))
            yield from map(partial(_row, kind, images, speed, timings), timings)


def _row(kind: Kind, count: int, speed: Speed, timings: dict[str, list[Timing]], system: str) -> Row:
    mine = timings[system]
    limits = [one.seconds for one in timings["limit"]]
    cpu_bound = median(one.cpu_seconds or 0.0 for one in timings["ours"]) / (os.cpu_count() or 1)
    seconds = [one.seconds for one in mine]
    return Row(
        kind=kind.name,
        images=count,
        image_ms=speed.image_ms,
        system=system,
        seconds=median(seconds),
        fastest=min(seconds),
        slowest=max(seconds),
        of_limit=_median_share(limits, seconds),
        bound="device" if median(limits) >= cpu_bound else "CPU",
        of_bound=_median_share([max(limit, cpu_bound) for limit in limits], seconds),
        idle=median(one.idle for one in mine),
        cpu_ms=median(one.cpu_seconds * 1000 / count for one in mine) if mine[0].cpu_seconds is not None else None,
        startup=median(one.startup for one in mine),
    )


def _median_share(of: Sequence[float], seconds: Sequence[float]) -> float:
    return median(one / other for one, other in zip(of, seconds, strict=False))


def stream(kind: Kind, speed: Speed, images: int = 4 * CHUNK, repeats: int = 1) -> Stream:
    """One run of `images` / 256 chunks, in process and through Celery in turns."""
    with TemporaryDirectory() as folder:
        paths = photographs.write(kind, Path(folder) / "images", images)
        in_process, celery = [], []
        for _ in range(repeats):
            device = Device(speed.fixed_ms, speed.image_ms)
            peers.segment_ours(paths, device)
            in_process.append(device.busy)
            celery.append(through_celery(paths, speed.fixed_ms, speed.image_ms, CHUNK))
    every = CHUNK // peers.BATCH
    gaps = [
        (after.began - before.ended) * 1000
        for busy in celery
        for before, after in zip(busy[every - 1 :: every], busy[every::every], strict=False)
    ]
    return Stream(
        kind=kind.name,
        images=images,
        chunks=images // CHUNK,
        in_process_seconds=median(map(span, in_process)),
        seconds=median(map(span, celery)),
        tax=median(span(through) / span(direct) - 1 for through, direct in zip(celery, in_process, strict=True)),
        idle_in_process=median(map(idle, in_process)),
        idle=median(map(idle, celery)),
        gap_ms=median(gaps),
        longest_gap_ms=max(gaps),
    )


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = [
        "| images | simulated device | system | seconds | of the limit | bound by | of the bound | device idle | CPU |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cpu = "" if row.cpu_ms is None else f"{row.cpu_ms:.1f} ms an image"
        started = f" (after {row.startup:.0f} s of start-up)" if row.startup else ""
        lines.append(
            f"| {row.images} of {row.kind} | 25 + {row.image_ms:g} ms an image | {row.system} "
            f"| {row.seconds:.2f} ({row.fastest:.2f} to {row.slowest:.2f}){started} | {row.of_limit:.2f} "
            f"| {row.bound} | {row.of_bound:.2f} | {row.idle:.1%} | {cpu} |"
        )
    return "\n".join(lines)


def stream_table(streams: Sequence[Stream]) -> str:
    """Markdown."""
    lines = [
        "| images | chunks | in process | through Celery | tax | simulated device idle | pause between two chunks |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {one.images} of {one.kind} | {one.chunks} | {one.in_process_seconds:.2f} s | {one.seconds:.2f} s "
        f"| {one.tax:.1%} | {one.idle:.1%}, in process {one.idle_in_process:.1%} "
        f"| {one.gap_ms:.0f} ms, at most {one.longest_gap_ms:.0f} |"
        for one in streams
    ]
    return "\n".join(lines)


def everything(images: int = 120, image_ms: float = IMAGE_MS, repeats: int = 3) -> tuple[list[Row], list[Stream]]:
    """All that the documentation shows. Once only: other speeds, and the stream, whose chunks repeat each other."""
    torch.set_num_threads(1)  # of one step: as in a worker beside a GPU
    ray_peer.start()
    try:
        list(compare(KINDS[:1], Speed(1, 1), 64, 1, ("limit", "ours", "Ray Data")))  # its processes import torch
        rows = [*compare(KINDS, Speed(FIXED_MS, image_ms), images, repeats)]
    finally:
        ray_peer.stop()
    for other, count in OTHER_SPEEDS_MS.items():
        rows += compare(KINDS, Speed(FIXED_MS, other), count, repeats=1, systems=("limit", "ours"))
    return rows, [stream(KINDS[0], Speed(FIXED_MS, image_ms))]


@click.command()
@click.option("--images", default=120, show_default=True, help="Of each kind.")
@click.option("--device-ms", default=IMAGE_MS, show_default=True, help="Simulated time of an image.")
@click.option("--repeats", default=3, show_default=True)
def main(images: int, device_ms: float, repeats: int) -> None:
    rows, streams = everything(images, device_ms, repeats)
    print(table(rows), stream_table(streams), sep="\n\n")


if __name__ == "__main__":
    main()
