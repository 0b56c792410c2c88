"""Values that db, producer and workers share: settings, sources, results, seconds. Knows no SQL and no file formats.

Standard library only.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

LEASE_SECONDS = 60  # that a claim holds after a heartbeat, unless the settings of its worker say otherwise


@dataclass(frozen=True)
class Frozen:
    """The settings that a run's results, or their classes, depend on.

    Once a run has results they never change under its name. Each field is a column of `Run` with the same name. Scores
    and thresholds are numbers from 0 to 1.
    """

    model: str  # a Hub id, an absolute folder, or `tiny`
    threshold: float  # an instance with at least this score counts as found
    mask_threshold: float  # a pixel with more than this probability belongs to the mask
    score_floor: float  # instances are stored down to this score
    mask_rule: str  # library | meta: what is enlarged to the image's size, probabilities or logits
    orientation: str  # exif | raw: whether an image is turned as its EXIF data says
    stretch: bool = False  # values of 16-bit images are spread over the range that they use
    tile: str | None = None  # the side in pixels of the tiles that large images are cut into, or auto; None: no tiles
    overlap: int | None = None  # pixels that neighbouring tiles share
    dedupe: bool = False  # images whose files are equal byte by byte are computed once
    classes: str | None = None  # that a file lists, see `db.classes.classes_as_text`; None: numbered by order
    points_per_side: int | None = None  # of the grid of a run that looks for everything; None: it looks for prompts

    @property
    def looks_for_everything(self) -> bool:
        """Whether the run looks for everything in its images instead of prompts."""
        return self.points_per_side is not None


@dataclass(frozen=True)
class Source:
    """Where a run's rows come from, and how their paths are read.

    Each field is a column of `Run` with the same name, but `path` is the column `source`, and `types` are in `columns`.
    """

    path: str  # absolute path of the file or folder, or a pattern of paths
    image_column: str
    columns: tuple[str, ...]  # names of the columns, in order
    root: str  # absolute folder or URL that relative image paths start from
    confined: bool  # the user named a root, and no image may lie outside of it
    follow_symlinks: bool
    prompt_column: str | None = None
    types: Mapping[str, str] | None = None  # column -> type of its cells; None: all are text
    box_column: str | None = None


def typed_columns(names: Sequence[str], types: Mapping[str, str] | None) -> list[str] | dict[str, str]:
    """How `db.models.Run` keeps the columns of a source: their names, or if their cells have types, name -> type."""
    return list(names) if types is None else {name: types[name] for name in names}


GivenBox = tuple[float, float, float, float, bool]
"""A box that comes with a row: x1, y1, x2, y2 in pixels of the oriented image, and whether it is positive."""


@dataclass(frozen=True)
class FoundInstance:
    """One mask with its score and box.

    `rle` holds the counts of COCO's compressed RLE, column by column over the image's height x width, as
    `pycocotools.mask.encode` writes them.
    """

    score: float  # 0 to 1
    box: tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels
    area: int  # pixels
    rle: bytes


@dataclass(frozen=True)
class PromptResult:
    """What one prompt found in one image."""

    prompt_id: int
    presence: float  # 0 to 1: how likely it is that the image shows the prompt at all
    capped: bool  # so many were found that a limit may have hidden others
    instances: tuple[FoundInstance, ...]  # highest score first, down to the run's score floor


@dataclass(frozen=True)
class ClassResult:
    """What was found of one class in one image, by all prompts that have this class."""

    class_id: int
    presence: float  # of the prompt that has the highest
    capped: bool  # of any prompt
    instances: tuple[FoundInstance, ...]  # highest score first


class Redo(StrEnum):
    """Which images to compute again, as a person chooses."""

    CHANGED = "changed"  # images whose file has changed since it was read
    FAILED = "failed"
    ALL = "all"  # done and failed images
    EMPTY = "empty"  # done images in which nothing was found
    CAPPED = "capped"  # done images with so many instances that others may be missing


@dataclass(frozen=True)
class Spent:
    """Seconds that each stage spent for images of a chunk. Each is a column of `Chunk`: `read` is `read_seconds`.

    The first five are spent by threads that work at the same time, so their sum may exceed the time that passed.
    `commit` and `waiting` are spent by the one thread that commits, so their sum is the time that passed.
    """

    read: float = 0.0  # reading files from the disk
    decode: float = 0.0  # decoding files to pixels
    preprocess: float = 0.0  # resizing pixels to the model's size
    forward: float = 0.0  # the forward pass; with a GPU only the host's share of it
    masks: float = 0.0  # waiting for the GPU's answer, then making masks and their RLE
    commit: float = 0.0  # writing to the database
    waiting: float = 0.0  # waiting for the other stages


NOTHING_SPENT = Spent()


@dataclass(frozen=True)
class StopRule:
    """Pauses a run when at least `percent` of its latest images, `of` in number, failed or are empty."""

    percent: float  # more than 0, at most 100
    outcome: str  # "failed" or "empty", as the counters of chunks are called
    of: int = 500

    @classmethod
    def read(cls, text: str) -> "StopRule":
        """The rule that is written like `5% failed` or `98% empty of 500`. Raises `ValueError`."""
        found = _STOP_RULE.fullmatch(" ".join(text.split()))
        if found is None:
            raise ValueError(f"{text!r} is no such rule as '5% failed' or '98% empty of 500'")
        percent, of = float(found[1]), int(found[3] or cls.of)
        if not 0 < percent <= 100 or not 0 < of <= LARGEST_WINDOW:
            raise ValueError(f"{text!r}: more than 0, at most 100 %, of 1 to {LARGEST_WINDOW:,} images")
        return cls(percent, found[2], of)

    def __str__(self) -> str:
        return f"{self.percent:g}% {self.outcome} of {self.of}"


_STOP_RULE = re.compile(r"(\d+(?:\.\d+)?) ?% (failed|empty)(?: of (\d+))?")
LARGEST_WINDOW = 100_000  # images that a rule looks back
