"""What a worker meets besides a batch like the one before: new prompts, a new thread, batches of other sizes; and how
often the host waits within a forward pass. Knows no files but photographs."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch

from benchmarks.gpu import speed
from benchmarks.gpu.card import NOT_HERE, Card
from benchmarks.gpu.ours import OPTIONS, PLAIN, PROMPT, Subject, forward
from benchmarks.gpu.report import Report
from benchmarks.timing import Row
from workers.inference.models.sam3_model import Sam3Segmenter
from workers.inference.protocol import Pixels
from workers.inference.reading.images import ReadRules, read_image
from workers.inference.stream.stage_threads import StageThread

PART = "habits"
LEAST_SECONDS = 25.0  # to load the model, and beside the forward passes
BATCH = 8
SIZES = (8, 7, 16, 3, 8, 1)  # of batches one after the other
ROUNDS = 3  # of these
IMAGES = 300  # rows of all forward passes here, about
WORDS = ("cat", "dog", "car", "tree", "house")


def measure(report: Report, subject: Subject) -> None:
    """A row of all these, of ours with plain kernels."""
    ours = [row for row in report.rows(speed.PART) if row[""] == subject.name(PLAIN)]
    image = min((row["forward, ms a batch"] / row["batch size"] / 1e3 for row in ours), default=0.0)
    report.measure(PART, "", LEAST_SECONDS + IMAGES * image, partial(_row, subject))


def _row(subject: Subject) -> Row:
    card, segmenter = subject.card, subject.load_ours(PLAIN)
    batch = _batch(segmenter, subject.paths, BATCH)
    usual = forward(segmenter, subject.paths, PLAIN, BATCH)
    usual()
    again = card.seconds(usual) * 1e3
    row: Row = {"": subject.name(PLAIN), "batch size": BATCH, "forward, ms": again}
    row["in a new thread, ms"] = card.seconds(partial(_in_new_thread, usual)) * 1e3
    for name, prompts in (
        ("with 5 prompts", [WORDS] * BATCH),
        ("with a prompt each", [(f"{WORDS[number % 5]} number {number}",) for number in range(BATCH)]),
    ):
        asked = partial(segmenter.predict, batch, prompts, OPTIONS)
        row[f"{name}, new, ms"] = card.seconds(asked) * 1e3
        row[f"{name}, ms"] = card.seconds(asked) * 1e3
    row["waits in a forward pass"] = _waits(card, usual)
    first, last = _memory(card, segmenter, subject.paths)
    return row | {"memory after 6 batches, GB": first, f"after {len(SIZES) * ROUNDS}, GB": last}


def _batch(segmenter: Sam3Segmenter, paths: Sequence[str], size: int) -> list[Pixels]:
    seen = [segmenter.preprocess(read_image(path, ReadRules()).pixels) for path in paths[:4]]
    return [seen[number % len(seen)] for number in range(size)]


def _in_new_thread(work: Callable[[], object]) -> None:
    thread = StageThread("new")
    thread.call(work).result()
    thread.end()


def _waits(card: Card, work: Callable[[], object]) -> int | str:
    """How often torch makes the host wait for the device."""
    if not card.is_gpu:
        return NOT_HERE
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def _memory(card: Card, segmenter: Sam3Segmenter, paths: Sequence[str]) -> tuple[float | str, float | str]:
    """What is used after the first batches of other sizes and other numbers of masks, and after many of them."""
    batch, used = _batch(segmenter, paths, max(SIZES)), []
    everything = replace(OPTIONS, threshold=0.0, score_floor=0.0)
    for turn in range(ROUNDS if card.is_gpu else 1):
        for size in SIZES:
            options = everything if turn % 2 else OPTIONS
            raw = segmenter.predict(batch[:size], [(PROMPT,)] * size, options)
            segmenter.postprocess(raw, range(1), options)
        used.append(card.used_gb())
    return used[0], used[-1]
