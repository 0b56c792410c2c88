"""Parts that the inference tests share: photographs as files, the tiny model, and a segmenter without a model."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from workers.inference.answers import Found, Instance
from workers.inference.protocol import ModelFacts, Options, OutOfMemory, Pixels
from workers.inference.reading.images import RGB
from workers.inference.shapes import masks
from workers.tiny.architecture import write_random_checkpoint

torch.set_num_threads(1)


class FakeSegmenter:
    """A `Segmenter` without a model: a prompt finds what is brighter than its length times ten, one mask an image.

    Counts its calls and can be told to fail or to wait in `predict`.
    """

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.fail_in: dict[str, BaseException] = {}  # the name of a verb
        self.gate: threading.Event | None = None  # predict waits for it
        self.preprocessed = 0

    @property
    def facts(self) -> ModelFacts:
        return ModelFacts("fake", None, "0" * 64, "fp32", "cpu")

    def check_prompts(self, prompts: Sequence[str]) -> dict[str, str]:
        return {prompt: "is empty" for prompt in prompts if not prompt.strip()}

    def preprocess(self, image: RGB) -> Pixels:
        self._fail("preprocess")
        self.preprocessed += 1
        return Pixels(image, *image.shape[:2])

    def predict(self, batch: Sequence[Pixels], prompts: Sequence[tuple[str, ...]], options: Options) -> Any:
        self.batches.append(len(batch))
        if self.gate is not None:
            assert self.gate.wait(30)
        self._fail("predict")
        return list(zip(batch, prompts, strict=True))

    def postprocess(self, raw: Any, rows: range, options: Options) -> list[tuple[Found, ...]]:
        self._fail("postprocess")
        return [
            tuple(self._found(pixels, prompt) for prompt in prompts) for pixels, prompts in raw[rows.start : rows.stop]
        ]

    def _fail(self, verb: str) -> None:
        if verb in self.fail_in:
            raise self.fail_in[verb]

    @staticmethod
    def _found(pixels: Pixels, prompt: str) -> Found:
        mask = pixels.data.mean(axis=2) > len(prompt) * 10
        box = (0.0, 0.0, float(pixels.width), float(pixels.height))
        return Found(1.0, (Instance(0.9, box, int(mask.sum()), masks.encode(mask)),))


class Cramped(FakeSegmenter):
    """A segmenter whose device holds so many images in each stage; an image wider than `widest` never fits."""

    def __init__(self, forward: int = 99, masks: int = 99, widest: int = 10_000) -> None:
        super().__init__()
        self.room = {"forward": forward, "masks": masks}
        self.widest = widest
        self.masked: list[int] = []

    def predict(self, batch: Sequence[Pixels], prompts: Sequence[tuple[str, ...]], options: Options) -> Any:
        raw = super().predict(batch, prompts, options)
        if len(batch) > self.room["forward"] or any(pixels.width > self.widest for pixels in batch):
            raise OutOfMemory
        return raw

    def postprocess(self, raw: Any, rows: range, options: Options) -> list[tuple[Found, ...]]:
        self.masked.append(len(rows))
        if len(rows) > self.room["masks"]:
            raise MemoryError
        return super().postprocess(raw, rows, options)


@pytest.fixture
def horse() -> masks.Mask:
    """A real silhouette."""
    with Image.open(Path(data.__file__).parent / "horse.png") as image:
        return np.asarray(image.convert("L")) < 128


@pytest.fixture
def cramped() -> type[Cramped]:
    return Cramped


@pytest.fixture
def fake() -> FakeSegmenter:
    return FakeSegmenter()


@pytest.fixture(scope="session")
def photographs() -> dict[str, RGB]:
    """Real photographs of mixed sizes; all come with scikit-image itself."""
    names = ("astronaut", "coffee", "chelsea", "rocket")
    return {name: np.asarray(getattr(data, name)()) for name in names}


@pytest.fixture(scope="session")
def photograph_files(photographs: dict[str, RGB], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("photographs")
    paths = []
    for name, pixels in photographs.items():
        paths.append(str(folder / f"{name}.png"))
        Image.fromarray(pixels).save(paths[-1])
    return paths


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model, laid out like the Hub's, that finds several instances in every photograph."""
    folder = tmp_path_factory.mktemp("checkpoint")
    write_random_checkpoint(folder)
    return folder


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., str]:
    """Write an image to a file of the given name; further arguments go to Pillow."""

    def write(image: Image.Image, name: str, **how: Any) -> str:
        path = tmp_path / name
        image.save(path, **how)
        return str(path)

    return write
