"""What is asked of a card whose driver tells little. No GPU is here."""

import pytest
import torch

from benchmarks.gpu import ceilings, ours
from benchmarks.gpu.card import NOT_HERE, Card
from benchmarks.gpu.ours import outcomes
from workers.inference.stream.pipeline import Pace


class NVMLError(Exception):
    """As NVML's, which is no RuntimeError."""


@pytest.fixture
def slice_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Card:
    """A MIG slice tells what memory is used, and not how busy it is."""

    def utilisation(device: str) -> int:
        raise NVMLError("Not Supported")

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (6_000_000_000, 10_000_000_000))
    monkeypatch.setattr(torch.cuda, "utilization", utilisation)
    return Card("cuda")


def test_a_driver_that_does_not_tell_the_utilisation_costs_no_other_figure(slice_of_a_gpu: Card) -> None:
    watched = slice_of_a_gpu.watched(lambda: None)
    assert (watched.memory_gb, watched.utilisation) == (4.0, NOT_HERE)
    assert slice_of_a_gpu.why_no_utilisation() == "NVMLError: Not Supported"


def test_a_card_that_breaks_is_told_by_the_work_and_not_by_what_watches_it(
    slice_of_a_gpu: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(device: str) -> tuple[int, int]:
        raise RuntimeError("CUDA error: unknown error")

    monkeypatch.setattr(torch.cuda, "mem_get_info", broken)
    assert slice_of_a_gpu.watched(lambda: None).memory_gb == NOT_HERE


def test_the_floor_is_that_of_the_rate_that_was_measured() -> None:
    rates = ceilings.measure(Card("cpu"))
    assert min(rates.values()) > 0
    assert ceilings.floor({ceilings.BF16: 500.0}, gflop=5_000.0) == pytest.approx(0.01)


def test_a_batch_that_was_halved_gives_no_figures_of_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    def halving(items: object, segmenter: object, rules: object, options: object, pace: Pace) -> list[object]:
        pace.caps.forward.fell(16)
        return []

    monkeypatch.setattr(ours, "segment", halving)
    with pytest.raises(MemoryError, match=r"a batch of 16 does not fit into memory \(forward pass\)"):
        outcomes(None, [], 16)  # type: ignore[arg-type]
