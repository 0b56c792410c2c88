"""How much of each row is measured, on cards of different speed. No GPU is here: its times are made up."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import photographs
from benchmarks.gpu import __main__ as command
from benchmarks.gpu import ours, speed, whole_run
from benchmarks.gpu.card import Card
from benchmarks.gpu.ours import Subject
from benchmarks.gpu.report import Report
from workers.tiny.files import CHECKPOINT


class Slow(Card):
    """Takes this long for a forward pass."""

    once = 0.0

    def seconds(self, work: Callable[[], Any]) -> float:
        work()
        return self.once


def subject(once: float, images: int = 64) -> Subject:
    card = Slow("cpu")
    card.once = once
    return Subject(card, CHECKPOINT, "mixed", [f"{number}.jpg" for number in range(images)])


@pytest.mark.parametrize(("once", "passes", "images"), [(0.01, 1 + 1 + 5, 64), (2.0, 1 + 1 + 1, 40), (9.0, 3, 8)])
def test_a_slow_card_gets_fewer_passes_and_images_of_a_row_but_two_batches(
    once: float, passes: int, images: int
) -> None:
    calls: list[int] = []
    worked: list[int] = []

    def work(paths: Sequence[str], size: int) -> None:
        worked.append(len(paths))

    row = speed._figures(speed.Way(lambda size: lambda: calls.append(size), work), 4, subject(once))
    assert len(calls) == passes
    assert worked == [4, images]
    assert row["images"] == images


def test_what_could_not_be_compiled_gets_no_figures_of_what_was() -> None:
    way = speed.Way(lambda size: lambda: None, lambda paths, size: None, is_itself=lambda: False)
    with pytest.raises(RuntimeError, match="the model cannot be compiled"):
        speed._figures(way, 4, subject(0.01))


def test_a_row_is_not_begun_if_the_one_before_took_longer_than_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    def figures(way: speed.Way, size: int, measured: Subject) -> dict[str, Any]:
        now[0] += 300
        return {"seconds an image": 1.0}

    monkeypatch.setattr(speed, "_figures", figures)
    report = Report(tmp_path, {}, 480)
    speed._measure(report, subject(1.0), "slow", [1, 4], lambda: speed.Way(lambda size: lambda: None, None))
    assert report.left == {"speed: slow, batch 4": "no time was left"}


@pytest.mark.parametrize(("each", "images"), [(0.03, 2000), (1.2, 100), (60.0, 16)])
def test_the_whole_run_has_as_many_images_as_the_card_manages_in_two_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, each: float, images: int
) -> None:
    asked: list[int] = []

    def measure(measured: Subject, folder: Path, count: int, batch_size: int) -> dict[str, Any]:
        asked.append(count)
        return {}

    monkeypatch.setattr(whole_run, "measure", measure)
    report, card = Report(tmp_path, {}, 100_000), subject(1.0)
    report.measure(speed.PART, "one", 0, lambda: {"": card.name(ours.PLAIN), "seconds an image": each})
    command._measure_run(report, card, 16, 2000)
    assert asked == [images]


def test_the_plain_loop_runs_under_autocast_too(tmp_path: Path) -> None:
    paths = photographs.write(photographs.FULL_HD, tmp_path / "seen", 1)
    way = speed._load_library(Subject(Card("cpu"), CHECKPOINT, "fp32", paths), "fp32", True)
    assert way.work is not None
    way.work(paths, 1)


def test_numbers_of_gpus_are_those_of_nodes_unless_somebody_has_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "PYTORCH_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    assert command.as_nodes_see_it()["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert "CUDA_DEVICE_ORDER" not in command.as_nodes_see_it()
