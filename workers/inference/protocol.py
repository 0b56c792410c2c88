"""What a segmenter is to the stream of a chunk, and what they hand each other. Knows no model, thread or file."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from workers.inference.answers import Found
from workers.inference.boxes import Box
from workers.inference.reading.images import RGB


@dataclass(frozen=True)
class Options:
    """What counts as an instance and as part of its mask, frozen with the run.

    `mask_rule`: "library" enlarges probabilities to the image's size and cuts them at `mask_threshold`, as
    `post_process_instance_segmentation` does; "meta" enlarges logits first, as Meta's own code does. `compiled`: a
    segmenter that can compile its model uses compiled kernels, whose numbers differ in their last bits.
    `points_per_side`: of the grid of points of a run that looks for everything.
    """

    threshold: float = 0.5
    mask_threshold: float = 0.5
    score_floor: float = 0.3
    mask_rule: Literal["library", "meta"] = "library"
    compiled: bool = False
    points_per_side: int | None = None  # None: for prompts

    @property
    def floor(self) -> float:
        """Instances that score higher than this are kept."""
        return min(self.threshold, self.score_floor)


@dataclass(frozen=True, eq=False)
class Pixels:
    """An image as the model takes it, and its size before that in pixels. `data` is uint8; its shape depends on the
    segmenter. `boxes` come with the image, in pixels of that size: they belong to each of its prompts."""

    data: Any
    height: int
    width: int
    boxes: tuple[Box, ...] = ()


Raw = Any  # what a forward pass leaves on the device; only the segmenter that made it reads it


@dataclass(frozen=True)
class ModelFacts:
    """Which weights compute, and in which precision. `model` is the name that the user gave."""

    model: str
    revision: str | None
    weights_sha256: str
    dtype: str
    device: str
    compiles: bool = False  # whether it can compute with compiled kernels, as far as it knows
    attention: str | None = None  # which of its library's kernels computes the attention
    takes_boxes: bool = False  # whether images may come with boxes; if not, no image with boxes is given to it

    @property
    def text(self) -> str:
        """One line for a log."""
        revision = "@" + "+".join(part[:12] for part in self.revision.split("+")) if self.revision else ""
        return f"{self.model}{revision} (sha256 {self.weights_sha256[:12]}) in {self.dtype} on {self.device}"


class Segmenter(Protocol):
    """A model. It has a method for each stage, so that the stages can overlap. `preprocess` is called by several
    threads at once, `predict` and `postprocess` by one thread each."""

    @property
    def facts(self) -> ModelFacts:
        """What is loaded."""

    def check_prompts(self, prompts: Sequence[str]) -> dict[str, str]:
        """The prompts that the model cannot take, each with the reason."""

    def preprocess(self, image: RGB) -> Pixels:
        """Bring an image of shape (height, width, 3) to the model's size."""

    def predict(self, batch: Sequence[Pixels], prompts: Sequence[tuple[str, ...]], options: Options) -> Raw:
        """Run the model once on the whole batch; row i is asked for `prompts[i]`. Keeps what `options` ask for."""

    def postprocess(self, raw: Raw, rows: range, options: Options) -> list[tuple[Found, ...]]:
        """Masks at the images' own sizes, for each of these rows of the batch one `Found` a prompt."""


class OutOfMemory(Exception):
    """`predict` or `postprocess` ran out of memory. They have freed what they had made, so fewer images may fit."""

    def __init__(self) -> None:
        super().__init__("the model finds no memory for this; is another process on this GPU?")
