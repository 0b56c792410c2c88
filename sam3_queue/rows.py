"""One row of a run, with what was found in its image. Knows no SQL and no files."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

from workers.inference.shapes.rle import Mask, decode


@dataclass(frozen=True)
class Instance:
    """One thing that was found."""

    score: float  # 0 to 1
    box: tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels, as the model predicted it
    area: int  # of the mask, in pixels
    height: int
    width: int
    counts: bytes  # of the mask's compressed RLE, as pycocotools has it

    @property
    def mask(self) -> Mask:
        """The pixels, decoded at each use: bool, of shape (height, width)."""
        return decode(self.counts, self.height, self.width)

    @property
    def rle(self) -> dict[str, object]:
        """The mask as pycocotools takes it: `size` and `counts`."""
        return {"size": [self.height, self.width], "counts": self.counts}


@dataclass(frozen=True)
class Result:
    """What was found of one class in one image."""

    class_name: str  # the prompt, unless that was given with a class
    presence: float  # 0 to 1: how likely it is that the image shows it at all
    capped: bool  # the model found so many that there may be more
    instances: tuple[Instance, ...]  # highest score first

    @property
    def mask(self) -> "Mask | None":
        """All instances together, bool, of shape (height, width); None if there are none."""
        masks = [instance.mask for instance in self.instances]
        return reduce(lambda one, other: one | other, masks) if masks else None


@dataclass(frozen=True)
class Row:
    """One row of the input. `results` are in the order of its prompts, and empty unless the image was segmented."""

    number: int  # from 1, in the order in which rows were first read
    path: str  # of the image, as the run knows it
    place: str  # where the image is: `path`, from the run's root
    cells: Mapping[str, Any]  # column -> text, or a value as JSON has it if the input has types; of all its columns
    status: str  # segmented, empty, failed, pending, cancelled, duplicate or rejected
    error_class: str | None
    error: str | None
    width: int | None  # of the masks, in pixels; None if the image was not read
    height: int | None
    results: tuple[Result, ...]

    def __getitem__(self, class_name: str) -> Result:
        """The result of a class. Raises `KeyError` if the row has none."""
        for result in self.results:
            if result.class_name == class_name:
                return result
        raise KeyError(class_name)
