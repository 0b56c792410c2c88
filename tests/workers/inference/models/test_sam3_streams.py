"""The order in which a GPU's two streams are used. No GPU is here: streams and events write down what they do."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from workers.inference.models import torch_copies
from workers.inference.models.sam3_model import Sam3Segmenter
from workers.inference.protocol import Options
from workers.inference.reading.images import RGB

EVERYTHING = Options(threshold=0.0, score_floor=0.0)


class Stream:
    """Counts what it is given: `at` is how far it is said to be."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pieces = count(1)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of streams, events and tensors on the device, in order."""
    told: list[str] = []

    class Event:
        def __init__(self, *, blocking: bool) -> None:
            assert blocking, "who waits for it would keep a core busy"
            self._behind = ""

        def record(self, stream: Stream) -> None:
            self._behind = f"{stream.name} {next(stream.pieces)}"

        def synchronize(self) -> None:
            told.append(f"sleep until {self._behind} is done")

    @contextmanager
    def on(stream: Stream) -> Iterator[None]:
        told.append(f"on {stream.name}")
        yield
        told.append("off")

    def cpu(tensor: torch.Tensor) -> torch.Tensor:
        told.append("read")
        return plain_cpu(tensor)

    forward = Stream("forward")
    plain_cpu = torch.Tensor.cpu
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: forward)
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.Tensor, "cpu", cpu)
    return told


@pytest.fixture
def segmenter(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Sam3Segmenter:
    made = Sam3Segmenter(checkpoint, model_name="tiny")
    monkeypatch.setattr(made._copies, "_stream", Stream("copies"))
    return made


def test_results_are_read_on_a_stream_of_their_own_once_their_own_batch_is_done(
    segmenter: Sam3Segmenter, photographs: dict[str, RGB], log: list[str]
) -> None:
    pixels = [segmenter.preprocess(photographs["coffee"])]
    first, second = (segmenter.predict(pixels, [("person",)], EVERYTHING) for _ in range(2))
    assert log == []
    segmenter.postprocess(first, range(1), EVERYTHING)
    once = ["on copies", "read", "read", "sleep until copies {} is done", "off"]
    assert log == ["sleep until forward 1 is done", *(line.format(1) for line in once)]
    log.clear()
    segmenter.postprocess(second, range(1), EVERYTHING)
    assert log == ["sleep until forward 2 is done", *(line.format(2) for line in once)]


def test_what_was_not_kept_is_let_go_only_when_nothing_reads_it_any_more(
    segmenter: Sam3Segmenter, photographs: dict[str, RGB], log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = segmenter.predict([segmenter.preprocess(photographs["coffee"])], [("person",)], EVERYTHING)
    held: list[bool] = []
    behind = torch_copies.behind

    def watched(stream: Any) -> Any:
        held.append(bool(raw.kept[0, 0].masks))
        return behind(stream)

    monkeypatch.setattr("workers.inference.models.torch_copies.behind", watched)
    segmenter.postprocess(raw, range(1), EVERYTHING)
    assert held == [True]
    assert not raw.kept[0, 0].masks
