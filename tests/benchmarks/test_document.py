"""docs/performance.md is made of what was measured and tells which bars hold; here all figures are made up."""

import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as document
from benchmarks.bars import FLOPS, Results, bars
from benchmarks.enqueue import Aftermath, Growth
from benchmarks.one_host import Host
from benchmarks.operate import Operation
from benchmarks.pipeline import SYSTEMS, Row, Stream

SECONDS = {"ours": 4.1, "plain script": 9.0, "DataLoader": 5.0, "Ray Data": 6.0}


def _row(kind: str, system: str) -> Row:
    share = 4.0 / SECONDS[system]
    times = {"seconds": SECONDS[system], "fastest": 3.9, "slowest": 9.1}
    cpu = {"ours": 7.0, "Ray Data": None}.get(system, 30.0)
    return Row(kind, 120, 30.0, system, **times, limit=4.0, of_limit=share, bound="device", of_bound=share, idle=0.0,
               cpu_ms=cpu, startup=9.0 if system == "Ray Data" else 0.0)  # fmt: skip


def _growth(database: str, rows: int) -> Growth:
    return Growth(database, rows, 80_000.0, 160_000.0, 0.5, 0.4, 0.6, 30.0, 12.5, cpu=11.0, bare_cpu=5.0)


def _aftermath(database: str, rows: int) -> Aftermath:
    return Aftermath(database, rows, 3.0, 6, 4.0, 13, status_ms=20.0, again_seconds=1.3)


SIZES = [(database, rows) for database in ("sqlite", "postgresql") for rows in (100_000, 1_000_000)]
MEASURED = Results(
    rows=[_row(kind, system) for kind in ("640x480 JPEG", "12 MP JPEG") for system in SYSTEMS],
    streams=[Stream("640x480 JPEG", 1024, 4, 34.0, 34.3, 0.01, 0.0, 0.01, 30.0, 40.0)],
    growth=[_growth(*size) for size in SIZES],
    aftermath=[_aftermath(*size) for size in SIZES],
    operations=[Operation(database, "retry", rows, 6e-5 * rows) for database, rows in SIZES],
    exports=[
        {"format": "csv", "µs an image": 27.0, "peak mb": 107},
        {"format": "png --jobs 2", "µs an image": 4000.0, "peak mb": 150},
    ],
    contention=[{"kept": 1.0, "errors": 0}, {"kept": 0.9, "errors": 0}],
    host=Host(
        [{"alone": "decoding and masks", "GPUs that it carries": 1.5},
         {"alone": "commits, sqlite", "GPUs that it carries": 24.0}],
        [{"of the devices' pace": 0.6}], (0.1, 0.2),
    ),
    masks=[{"frame": "1080p", "times faster": 36.0, "pixels that differ": 0}],
    masks_memory=[{"ours, peak MB over base": 103.0}],
    masks_beside_launches=[
        {"image": "1080p", "beside launches": 6300.0, "beside a hash, ms": 12.0, "beside it, ms": 12.5}
    ],
    reading_beside_launches=[{"read": "1080p JPEG", "beside a hash, ms": 12.0, "beside it, ms": 12.5}],
    cores=[{"image": "1080p", "cores at 60 a second": 0.5}],
    counts=[
        {"": "plain loop", "prompts": 1, "of the plain loop": 1.0, "host waits a batch": 29},
        *({"": "ours", "prompts": n, "of the plain loop": FLOPS[n], "host waits a batch": 2 * n} for n in FLOPS),
    ],
    reading=[{"JPEG": "1080p", "pixels that differ": 0}],
    random=[([{"largest difference": what, "": value}
              for what, value in (("text cached", 0.0), ("prompt trimmed", 1e-7), ("batch of 2", 1e-6))],
             [{"plain, 1 prompt": 0.03}])],
)  # fmt: skip


def test_the_document_shows_every_table_and_its_pictures(tmp_path: Path) -> None:
    document.write(MEASURED, "measured on a made-up machine", tmp_path / "docs")
    text = (tmp_path / "docs" / "performance.md").read_text()
    assert "measured on a made-up machine" in text
    assert "missed" not in text
    assert "$" not in text
    pictures = re.findall(r"!\[.+\]\((.+)\)", text)
    assert len(pictures) == 2
    for picture in pictures:
        assert "<svg" in (tmp_path / "docs" / picture).read_text()


def test_what_was_measured_on_gpus_comes_in_card_by_card(tmp_path: Path) -> None:
    assert document.gpus(tmp_path) == "No GPU was measured yet."
    for name in ("NVIDIA L4", "NVIDIA H100"):
        (tmp_path / f"{name}.md").write_text(f"## {name}\n\n### Speed\n\nfast\n")
    both = "\n\n".join(f"### {name}\n\n#### Speed\n\nfast" for name in ("NVIDIA H100", "NVIDIA L4"))
    assert document.gpus(tmp_path) == both


def test_every_bar_holds_on_figures_that_meet_it() -> None:
    assert [one.what for one in bars(MEASURED) if not one.holds] == []


def _changed(field: str, place: int, **values: Any) -> Callable[[Results], None]:
    def change(results: Results) -> None:
        rows = getattr(results, field)
        rows[place] = rows[place] | values if isinstance(rows[place], dict) else replace(rows[place], **values)

    return change


@pytest.mark.parametrize(
    ("change", "missed"),
    [
        (_changed("rows", 0, of_bound=0.94), "device: ours, of the bound"),
        (_changed("rows", -1, seconds=4.0), "device: the fastest peer's time, in ours"),
        (_changed("rows", 0, cpu_ms=19.0), "device: CPU time of ours, of the plain script's"),
        (_changed("streams", 0, tax=0.031), "device: tax of Celery, broker and SQL"),
        (_changed("streams", 0, idle=0.021), "device: idle in a stream of four chunks"),
        (_changed("counts", 2, **{"of the plain loop": 1.31}), "model: FLOPs of 5 prompts, of one plain forward"),
        (_changed("counts", 1, **{"host waits a batch": 3}), "model: host waits a prompt"),
        (lambda results: results.random[0][0][0].update({"": 1e-9}), "model: cached against uncached"),
        (lambda results: results.random[0][0][1].update({"": 2e-5}), "model: prompt trimmed against padded"),
        (_changed("reading", 0, **{"pixels that differ": 1}), "JPEGs: pixels that differ from Pillow's"),
        (lambda results: results.random[0][0][2].update({"": 2e-5}), "model: batch of 2 against of 1"),
        (_changed("masks", 0, **{"times faster": 9.9}), "masks: times faster, 10 objects at 1080p"),
        (_changed("masks", 0, **{"pixels that differ": 1}), "masks: pixels that differ"),
        (_changed("masks_memory", 0, **{"ours, peak MB over base": 301.0}), "masks: MB for 100 at 12 MP"),
        (
            _changed("masks_beside_launches", 0, **{"beside launches": 6199.0}),
            "masks: of 1080p a second, one core beside launches",
        ),
        (
            _changed("masks_beside_launches", 0, **{"beside it, ms": 15.1}),
            "threads: a launch beside masks or reading, of one beside a hash",
        ),
        (
            _changed("reading_beside_launches", 0, **{"beside it, ms": 15.1}),
            "threads: a launch beside masks or reading, of one beside a hash",
        ),
        (_changed("growth", -1, ratio=0.39), "enqueue: of a bare load of 1,000,000 rows"),
        (_changed("growth", 0, megabytes=151.0), "enqueue: MB over the start"),
        (_changed("growth", 1, cpu=14.0), "enqueue: CPU a row, of that at 100,000 rows"),
        (_changed("aftermath", 1, again_seconds=2.1), "enqueue: seconds of the same command again"),
        (_changed("aftermath", -1, status_ms=501.0), "status: seconds of its queries"),
        (_changed("aftermath", 0, claim_statements=7), "database: different numbers of statements a claim or commit"),
        (_changed("operations", 1, seconds=61.0), "retry, cancel: seconds at 1,000,000 rows"),
        (_changed("operations", 2, seconds=2.9), "retry, cancel, delete: time grows with rows to the power of"),
        (
            _changed("exports", 0, **{"µs an image": 124.0}),
            "exports: µs of processor an image, formats of one file",
        ),
        (_changed("exports", 1, **{"peak mb": 301}), "exports: peak MB"),
        (_changed("contention", 1, kept=0.4), "SQLite: commits kept beside an enqueue"),
        (_changed("contention", 0, errors=1), "SQLite: errors"),
        (
            lambda results: results.host.alone[1].update({"GPUs that it carries": 7.9}),
            "one host: GPUs whose images a database commits",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bar_is_missed_by_one_figure_too_bad(change: Callable[[Results], None], missed: str) -> None:
    results = deepcopy(MEASURED)
    change(results)
    assert [one.what for one in bars(results) if not one.holds] == [missed]
