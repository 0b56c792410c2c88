"""What the GPU does during forward passes: its kernels, and the gaps between them. Needs a GPU."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.card import Card
from benchmarks.gpu.ours import forward
from benchmarks.timing import Row
from workers.inference.sam3_model import Sam3Segmenter
from workers.inference.segmenters import Precision

BATCH = 8
FORWARDS = 3
LONG_GAP_US = 50.0
SHOWN = 12  # kernels by name


@dataclass(frozen=True)
class Span:
    """One kernel: microseconds from some start, and its name."""

    start: float
    end: float
    name: str


def trace(card: Card, folder: Path, precision: Precision, paths: Sequence[str]) -> list[Span]:
    """The kernels of a few forward passes of one batch, after some that are not counted."""
    segmenter = Sam3Segmenter(folder, model_name=folder.name, device=card.device, dtype=precision)
    work = forward(segmenter, paths, BATCH)
    for _ in range(2):
        work()
    card.wait()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        for _ in range(FORWARDS):
            work()
        card.wait()
    events = profiler.events() or []
    return [
        Span(event.time_range.start, event.time_range.end, event.name)
        for event in events
        if event.device_type == torch.autograd.DeviceType.CUDA
    ]


def summary(spans: Sequence[Span], forwards: int = FORWARDS) -> Row:
    """How busy the device is from the first kernel to the last one; kernels may overlap."""
    busy, end, gaps = 0.0, None, []
    for span in sorted(spans, key=lambda span: span.start):
        if end is not None and span.start > end:
            gaps.append(span.start - end)
        busy += max(0.0, span.end - max(span.start, span.start if end is None else end))
        end = span.end if end is None else max(end, span.end)
    assert end is not None, "the profiler saw no kernel"
    whole = end - min(span.start for span in spans)
    return {
        "batch size": BATCH,
        "kernels a batch": len(spans) / forwards,
        "ms a batch": whole / forwards / 1e3,
        "busy, share": busy / whole,
        "longest gap, us": max(gaps, default=0.0),
        f"gaps over {LONG_GAP_US:.0f} us": sum(gap > LONG_GAP_US for gap in gaps),
    }


def longest(spans: Sequence[Span], forwards: int = FORWARDS) -> list[Row]:
    """The kernels that take most time in all."""
    by_name: dict[str, list[float]] = defaultdict(list)
    for span in spans:
        by_name[span.name].append(span.end - span.start)
    ordered = sorted(by_name.items(), key=lambda item: -sum(item[1]))[:SHOWN]
    return [
        {
            "kernel": name[:100].replace("|", "/"),
            "times a batch": len(taken) / forwards,
            "ms a batch": sum(taken) / forwards / 1e3,
        }
        for name, taken in ordered
    ]
