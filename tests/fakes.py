"""Stand-ins for what cannot exist everywhere: a clock that is moved, and a segmenter without weights or torch.

The segmenter is as slow as its environment says.
"""

import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Sequence

import numpy as np

from tests import failpoints
from workers.errors import UsageError
from workers.inference.answers import Found, Instance
from workers.inference.protocol import ModelFacts, Options, OutOfMemory, Pixels
from workers.inference.reading.images import RGB
from workers.inference.shapes.masks import encode
from workers.settings import Settings

LONGEST_PROMPT_WORDS = 32


class Clock:
    """Stands in for the module `time`: its clocks move only when they are told to, and together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = 0.0  # seconds
        self.sleep = time.sleep

    def move(self, seconds: float) -> None:
        with self._lock:
            self._now += seconds

    def monotonic(self) -> float:
        with self._lock:
            return self._now

    perf_counter = monotonic


class FakeSegmenter:
    """Finds one instance a prompt where the image is bright, none where it is dark all over; knows no learning.

    FAKE_SECONDS_PER_IMAGE makes its forward pass slow, so that tests can interrupt it.
    """

    def __init__(self, model: str = "fake", settings: Settings | None = None) -> None:
        self.facts = ModelFacts(model, None, "0" * 64, "fp32", "cpu")
        self.forwards: list[int] = []  # batch sizes, in order
        self._seconds = float(os.environ.get("FAKE_SECONDS_PER_IMAGE", "0"))

    def check_prompts(self, prompts: Sequence[str]) -> dict[str, str]:
        return {prompt: "too many words" for prompt in prompts if len(prompt.split()) > LONGEST_PROMPT_WORDS}

    def preprocess(self, image: RGB) -> Pixels:
        return Pixels(image, image.shape[0], image.shape[1])

    def predict(
        self, batch: Sequence[Pixels], prompts: Sequence[tuple[str, ...]], options: Options
    ) -> list[tuple[Pixels, tuple[str, ...]]]:
        self.forwards.append(len(batch))
        time.sleep(self._seconds * len(batch))
        return list(zip(batch, prompts, strict=True))

    def postprocess(
        self, raw: list[tuple[Pixels, tuple[str, ...]]], rows: range, options: Options
    ) -> list[tuple[Found, ...]]:
        chosen = raw[rows.start : rows.stop]
        return [tuple(self._found(pixels.data, options) for _ in prompts) for pixels, prompts in chosen]

    def _found(self, image: RGB, options: Options) -> Found:
        mask = np.asarray(image.mean(axis=2) > 128)
        if not mask.any():
            return Found(presence=0.1, instances=())
        rows, columns = np.nonzero(mask)
        box = (float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1))
        rle = encode(mask)
        return Found(presence=0.9, instances=(Instance(0.8, box, int(mask.sum()), rle),))


KILLS, HANGS, BREAKS_GPU, TOO_LARGE = (255, 0, 0), (0, 0, 255), (0, 255, 0), (255, 255, 0)
HUNGRY, RAISES, HANGS_DECODER = (255, 0, 255), (0, 255, 255), (128, 0, 255)
"""What an image of this colour does to a `FaultySegmenter`."""


class Unforeseen(Exception):
    """What no part of the project knows, from an image that makes the model raise."""


class FaultySegmenter(FakeSegmenter):
    """A `FakeSegmenter` whose images may kill, hang or break it. It needs no torch, and says so if there is any.

    FAKE_LOG names a file that gets a line for each forward pass: process and images. FAKE_ROOM is how many images fit,
    FAKE_MEMORY how many bytes the process may have. FAKE_FAILPOINT is a function of `tests.failpoints` to call first.
    """

    def __init__(self, model: str, settings: Settings) -> None:
        super().__init__(model, settings)
        assert "torch" not in sys.modules
        self._log = os.environ.get("FAKE_LOG", os.devnull)
        self._room = int(os.environ.get("FAKE_ROOM", "1000"))
        if memory := os.environ.get("FAKE_MEMORY"):
            resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
        if failpoint := os.environ.get("FAKE_FAILPOINT"):
            getattr(failpoints, failpoint)()

    def preprocess(self, image: RGB) -> Pixels:
        if tuple(int(value) for value in image[0, 0]) == HANGS_DECODER:  # in a decoder's thread, as its read is
            time.sleep(3600)
        return super().preprocess(image)

    def predict(
        self, batch: Sequence[Pixels], prompts: Sequence[tuple[str, ...]], options: Options
    ) -> list[tuple[Pixels, tuple[str, ...]]]:
        with open(self._log, "a") as log:
            log.write(f"{os.getpid()} {len(batch)}\n")
        colours = {tuple(int(value) for value in pixels.data[0, 0]) for pixels in batch}
        if KILLS in colours:
            os.kill(os.getpid(), signal.SIGKILL)
        if HANGS in colours:
            time.sleep(3600)
        if BREAKS_GPU in colours:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if HUNGRY in colours:
            np.ones(resource.getrlimit(resource.RLIMIT_AS)[0], np.uint8)
        if RAISES in colours:
            raise Unforeseen("an odd image")
        if len(batch) > self._room or TOO_LARGE in colours:
            raise OutOfMemory
        return super().predict(batch, prompts, options)


class BrokenGpu(FaultySegmenter):
    """Manages the self-test of a fresh process, and nothing after it."""

    def predict(
        self, batch: Sequence[Pixels], prompts: Sequence[tuple[str, ...]], options: Options
    ) -> list[tuple[Pixels, tuple[str, ...]]]:
        if self.forwards:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return super().predict(batch, prompts, options)


class BreaksLater(FaultySegmenter):
    """Raises for everything, itself included, once it was asked for so many images: FAKE_GOOD_IMAGES."""

    def predict(
        self, batch: Sequence[Pixels], prompts: Sequence[tuple[str, ...]], options: Options
    ) -> list[tuple[Pixels, tuple[str, ...]]]:
        if sum(self.forwards) >= int(os.environ["FAKE_GOOD_IMAGES"]):
            raise Unforeseen("the model is in a bad state")
        return super().predict(batch, prompts, options)


def all_but_bad(model: str, settings: Settings) -> FaultySegmenter:
    """Every model but the one called bad can be loaded."""
    if model == "bad":
        raise RuntimeError("the weights are damaged")
    return FaultySegmenter(model, settings)


def needs_a_folder(model: str, settings: Settings) -> FaultySegmenter:
    """A model that is named by its path can be loaded once its folder is there."""
    if os.path.isabs(model) and not os.path.isdir(model):
        raise UsageError(f"model {model}: no such folder")
    return FaultySegmenter(model, settings)


def other_weights(model: str, settings: Settings) -> FaultySegmenter:
    """The same model with weights of its own."""
    segmenter = FaultySegmenter(model, settings)
    segmenter.facts = ModelFacts(model, None, "1" * 64, "fp32", "cpu")
    return segmenter


def hangs_once(model: str, settings: Settings) -> FaultySegmenter:
    """The first load of all never ends."""
    if failpoints.once("hangs"):
        time.sleep(3600)
    return FaultySegmenter(model, settings)


def dies(model: str, settings: Settings) -> FaultySegmenter:
    """Each load ends its process, as the kernel does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError
