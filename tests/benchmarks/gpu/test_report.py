"""Figures that are kept as they come, and the parts that a later call takes."""

from pathlib import Path

import pytest

from benchmarks.gpu.report import OtherFigures, Report

FACTS = {"card": "NVIDIA L4", "model": "random"}


def test_a_row_is_measured_once_and_kept_for_the_next_call(tmp_path: Path) -> None:
    asked = []
    for _ in range(2):
        report = Report(tmp_path, FACTS, limit_seconds=1000)
        report.measure("speed", "batch 1", 0, lambda: asked.append(1) or {"seconds": 2.0})  # type: ignore[func-returns-value]
    assert (asked, report.rows("speed")) == ([1], [{"seconds": 2.0}])
    assert report.write({"Speed": report.rows("speed")}).read_text() == (
        "## NVIDIA L4\n\nNVIDIA L4, random.\n\n### Speed\n\n| seconds |\n| --- |\n| 2 |\n"
    )


def test_what_fails_costs_the_others_nothing_and_is_tried_again(tmp_path: Path) -> None:
    report = Report(tmp_path, FACTS, limit_seconds=1000)
    report.measure("speed", "batch 16", 0, lambda: {"seconds": 1 / 0})
    report.measure("speed", "batch 1", 0, lambda: {"seconds": 2.0})
    assert report.left == {"speed: batch 16": "ZeroDivisionError: division by zero"}
    again = Report(tmp_path, FACTS, limit_seconds=1000)
    again.measure("speed", "batch 16", 0, lambda: {"seconds": 1.0})
    assert (again.rows("speed"), again.left) == ([{"seconds": 2.0}, {"seconds": 1.0}], {})


def test_nothing_begins_that_the_time_does_not_allow(tmp_path: Path) -> None:
    report = Report(tmp_path, FACTS, limit_seconds=10)
    report.measure("run", "", 20, lambda: pytest.fail("there is no time"))
    assert report.left == {"run": "no time was left"}
    assert "Not measured: run (no time was left)." in report.write({}).read_text()


def test_figures_of_another_card_are_refused(tmp_path: Path) -> None:
    Report(tmp_path, FACTS, 10).measure("speed", "", 0, lambda: {"seconds": 2.0})
    with pytest.raises(OtherFigures, match=r"gpu\.json holds figures of another card \(card NVIDIA L4\)"):
        Report(tmp_path, FACTS | {"card": "NVIDIA A100"}, 10)
