"""The order in which a GPU's two streams are used. No GPU is here: the streams write down what is asked of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from workers.inference.images import RGB
from workers.inference.pipeline import Options
from workers.inference.sam3_model import Sam3Segmenter


def test_results_are_read_on_a_stream_that_waits_for_their_own_batch_only(
    checkpoint: Path, photographs: dict[str, RGB], monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []

    class Copies:
        def wait_event(self, event: str) -> None:
            log.append(f"copies wait for {event}")

    class Current:
        def record_event(self) -> str:
            return f"batch {next(numbers)}"

    @contextmanager
    def on(stream: Any) -> Iterator[None]:
        log.append(f"on {type(stream).__name__}")
        yield
        log.append("off")

    def to_host(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        log.append("read")
        return cpu(tensor, *args, **kwargs)

    numbers = count(1)
    segmenter = Sam3Segmenter(checkpoint, model_name="tiny")
    monkeypatch.setattr(segmenter, "_copies", Copies())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Current())
    monkeypatch.setattr(torch.cuda, "stream", on)
    cpu = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", to_host)
    pixels = [segmenter.preprocess(photographs["coffee"])]
    everything = Options(threshold=0.0, score_floor=0.0)
    first, _ = (segmenter.predict(pixels, [("person",)], everything) for _ in range(2))
    assert log == []
    segmenter.postprocess(first, range(1), everything)
    assert log == ["copies wait for batch 1", "on Copies", "read", "read", "off"]
