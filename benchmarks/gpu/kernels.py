"""What a GPU does during forward passes: its kernels, and the gaps between them. Knows no model."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch._C._autograd import DeviceType  # the only place of it that has types
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.card import NOT_HERE, Card
from benchmarks.timing import Row

FORWARDS = 3
LONG_GAP_US = 50.0
SHOWN = 12  # kernels by name


@dataclass(frozen=True)
class Span:
    """One kernel: microseconds from some start, and its name."""

    start: float
    end: float
    name: str


def trace(card: Card, work: Callable[[], object], forwards: int = FORWARDS) -> list[Span]:
    """The kernels of a few forward passes, each by a call of `work`, which has run before; none on a CPU. What the
    profiler itself does on the host makes gaps a little longer."""
    if not card.is_gpu:
        return []
    card.wait()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        for _ in range(forwards):
            work()
        card.wait()
    events = profiler.events() or []
    return [
        Span(event.time_range.start, event.time_range.end, event.name)
        for event in events
        if event.device_type == DeviceType.CUDA
    ]


def summary(spans: Sequence[Span], forwards: int = FORWARDS) -> Row:
    """How busy the device is from the first kernel to the last one; kernels may overlap. Without any, `NOT_HERE`."""
    busy, end, gaps = 0.0, None, []
    for span in sorted(spans, key=lambda span: span.start):
        if end is not None and span.start > end:
            gaps.append(span.start - end)
        busy += max(0.0, span.end - max(span.start, span.start if end is None else end))
        end = span.end if end is None else max(end, span.end)
    names = ("kernels a batch", "busy, share", "longest gap, us", f"gaps over {LONG_GAP_US:.0f} us a batch")
    if end is None:
        return dict.fromkeys(names, NOT_HERE)
    whole = end - min(span.start for span in spans)
    long = sum(gap > LONG_GAP_US for gap in gaps)
    values = (len(spans) / forwards, busy / whole, max(gaps, default=0.0), long / forwards)
    return dict(zip(names, values, strict=True))


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
