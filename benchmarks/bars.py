"""What the figures are held against: each bar, what was measured, and whether it holds. Measures nothing itself."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import exports, timing
from benchmarks.enqueue import Aftermath, Growth
from benchmarks.one_host import NODES, Host
from benchmarks.operate import Operation, growth
from benchmarks.pipeline import Row, Stream
from benchmarks.timing import Row as Figures

OURS, PLAIN = "ours", "plain script"
LINEAR_FROM = 50_000  # rows: below, it is the start of a command that takes the time
FLOPS = {1: 0.995, 5: 1.265, 10: 1.601}  # of one forward of the library, by the number of prompts


@dataclass(frozen=True)
class Results:
    """Everything that `make bench` measures, by the functions that measured it."""

    rows: list[Row]
    streams: list[Stream]
    growth: list[Growth]
    aftermath: list[Aftermath]
    operations: list[Operation]
    exports: list[Figures]
    contention: list[Figures]
    host: Host
    masks: list[Figures]
    masks_memory: list[Figures]
    masks_beside_launches: list[Figures]
    reading_beside_launches: list[Figures]
    cores: list[Figures]
    counts: list[Figures]
    reading: list[Figures]
    random: list[tuple[list[Figures], list[Figures]]]  # differences and times, an architecture each


@dataclass(frozen=True)
class Bar:
    """`measured` is the worst of all that the bar is about."""

    what: str
    bar: str
    measured: str
    holds: bool


def bars(results: Results) -> Iterator[Bar]:
    """In the order of the document."""
    yield from _device(results)
    yield from _model(results)
    yield from _database(results)


def _device(results: Results) -> Iterator[Bar]:
    ours = [row for row in results.rows if row.system == OURS]
    yield _least("device: ours, of the bound", 0.95, [row.of_bound for row in ours])
    seconds = {(row.kind, row.image_ms): row.seconds for row in ours}
    peers = [row for row in results.rows if row.system != OURS]
    faster = [row.seconds / seconds[row.kind, row.image_ms] for row in peers]
    yield _least("device: the fastest peer's time, in ours", 1.0, faster)
    cpu = {row.kind: row.cpu_ms for row in results.rows if row.system == PLAIN and row.cpu_ms}
    used = [row.cpu_ms / cpu[row.kind] for row in ours if row.cpu_ms and row.kind in cpu]
    yield _most("device: CPU time of ours, of the plain script's", 0.6, used)
    yield _most("device: tax of Celery, broker and SQL", 0.03, [one.tax for one in results.streams])
    yield _most("device: idle in a stream of four chunks", 0.02, [one.idle for one in results.streams])


def _model(results: Results) -> Iterator[Bar]:
    for prompts, most in FLOPS.items():
        shares = [row["of the plain loop"] for row in results.counts[1:] if row["prompts"] == prompts]
        yield _most(f"model: FLOPs of {prompts} prompts, of one plain forward", most, shares)
    waits = [row["host waits a batch"] / row["prompts"] for row in results.counts[1:]]
    yield _most("model: host waits a prompt", 2, waits)
    differences = [row for equal, _ in results.random for row in equal]
    yield _most("model: cached against uncached", 0, _of(differences, "cached"))
    yield _most("model: prompt trimmed against padded", 1e-5, _of(differences, "trimmed"))
    yield _most("model: batch of 2 against of 1", 1e-5, _of(differences, "batch of 2"))
    yield _most("JPEGs: pixels that differ from Pillow's", 0, [row["pixels that differ"] for row in results.reading])
    yield _least("masks: times faster, 10 objects at 1080p", 10, [results.masks[0]["times faster"]])
    yield _most("masks: pixels that differ", 0, [row["pixels that differ"] for row in results.masks])
    yield _most("masks: MB for 100 at 12 MP", 300, [row["ours, peak MB over base"] for row in results.masks_memory])
    yield from _beside_launches(results.masks_beside_launches, results.reading_beside_launches)


def _beside_launches(masks: list[Figures], reading: list[Figures]) -> Iterator[Bar]:
    """On an H100 the arithmetic of a forward pass leaves 62 images a second possible: with 100 masks each, or four such
    GPUs with 20 (4,960)."""
    rates = [row["beside launches"] for row in masks if row["image"] == "1080p"]
    yield _least("masks: of 1080p a second, one core beside launches", 6200, rates)
    longer = [row["beside it, ms"] / row["beside a hash, ms"] for row in (*masks, *reading)]
    yield _most("threads: a launch beside masks or reading, of one beside a hash", 1.25, longer)


def _of(differences: Sequence[Figures], word: str) -> list[float]:
    return [row[""] for row in differences if word in row["largest difference"]]


def _database(results: Results) -> Iterator[Bar]:
    largest = max(one.rows for one in results.growth)
    at_large = [one for one in results.growth if one.rows == largest]
    yield _least(f"enqueue: of a bare load of {largest:,} rows", 0.4, [one.ratio for one in at_large])
    yield _most("enqueue: MB over the start", 150, [one.megabytes for one in results.growth])
    small = {one.database: one.cpu for one in results.growth if one.rows == 100_000}
    yield _most(
        "enqueue: CPU a row, of that at 100,000 rows", 1.25, [one.cpu / small[one.database] for one in at_large]
    )
    finished = [one for one in results.aftermath if one.rows == largest]
    yield _most("enqueue: seconds of the same command again", 2.0, [one.again_seconds for one in finished])
    yield _most("status: seconds of its queries", 0.5, [one.status_ms / 1000 for one in finished])
    statements = {one.database: set[tuple[int, int]]() for one in results.aftermath}
    for one in results.aftermath:
        statements[one.database].add((one.claim_statements, one.commit_statements))
    yield _most(
        "database: different numbers of statements a claim or commit", 1, [len(each) for each in statements.values()]
    )
    operations = results.operations
    # A delete has results and masks to remove as well: how many decides, so that only its growth has a bar.
    timed = [one.seconds for one in operations if one.command != "delete"]
    yield _most(f"retry, cancel: seconds at {largest:,} rows", 60, timed)
    exponents = [growth(operations, one) for one in operations if one.rows > LINEAR_FROM]
    yield _most("retry, cancel, delete: time grows with rows to the power of", 1.3, [one for one in exponents if one])
    files = [row for row in results.exports if row["format"] in exports.ONE_FILE]
    yield _most("exports: µs of processor an image, formats of one file", 123, [row["µs an image"] for row in files])
    yield _most("exports: peak MB", 300, [row["peak mb"] for row in results.exports])
    yield _least("SQLite: commits kept beside an enqueue", 0.5, [results.contention[1]["kept"]])
    yield _most("SQLite: errors", 0, [row["errors"] for row in results.contention])
    carried = [row["GPUs that it carries"] for row in results.host.alone if row["alone"].startswith("commits")]
    yield _least("one host: GPUs whose images a database commits", NODES, carried)


def _least(what: str, bar: float, measured: Sequence[float]) -> Bar:
    return Bar(what, f"at least {bar:g}", f"{min(measured):.3g}", min(measured) >= bar)


def _most(what: str, bar: float, measured: Sequence[float]) -> Bar:
    return Bar(what, f"at most {bar:g}", f"{max(measured):.3g}", max(measured) <= bar)


def table(results: Results) -> str:
    """Markdown."""
    rows: list[dict[str, Any]] = [
        {"what": one.what, "bar": one.bar, "measured": one.measured, "": "holds" if one.holds else "**missed**"}
        for one in bars(results)
    ]
    return timing.table(rows)
