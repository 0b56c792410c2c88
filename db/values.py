"""Values that others share: what is frozen with a run, its source, what was found in an image, what to compute again.

Standard library only. Knows no SQL and no file formats.
"""

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True)
class Frozen:
    """The settings that a run's results depend on: once it has results they never change under its name.

    Each is a column of `Run` with the same name. Scores and thresholds are numbers from 0 to 1.
    """

    model: str  # a Hub id, an absolute folder, or `tiny`
    threshold: float  # an instance with at least this score counts as found
    mask_threshold: float  # a pixel with more than this probability belongs to the mask
    score_floor: float  # instances are stored down to this score
    mask_rule: str  # library | meta: what is enlarged to the image's size, probabilities or logits
    orientation: str  # exif | raw: whether an image is turned as its EXIF data says
    stretch: bool = False  # values of 16-bit images are spread over the range that they use


@dataclass(frozen=True)
class Source:
    """Where a run's rows come from, and how their paths are read. Each is a column of `Run`; `path` is `source`."""

    path: str  # absolute, of the CSV or folder
    image_column: str
    columns: tuple[str, ...]  # the header, in order
    root: str  # absolute folder that relative image paths start from
    confined: bool  # a root was asked for: no image may lie outside of it
    follow_symlinks: bool
    prompt_column: str | None = None


@dataclass(frozen=True)
class FoundInstance:
    """One mask. The RLE counts are those of COCO's compressed form, column by column over the image's height x width
    (pycocotools: `mask.encode`)."""

    score: float  # 0 to 1
    box: tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels
    area: int  # pixels
    rle: bytes


@dataclass(frozen=True)
class PromptResult:
    """What one prompt found in one image."""

    prompt_id: int
    presence: float  # 0 to 1: how sure the model is that there is any
    capped: bool  # the model had hardly a query left, so there may be more
    instances: tuple[FoundInstance, ...]  # highest score first, down to the run's score floor


class Redo(StrEnum):
    """Which images to compute again, as a person chooses."""

    CHANGED = "changed"  # whose file is not as it was when it was read
    FAILED = "failed"
    ALL = "all"  # that were computed, or failed
    EMPTY = "empty"  # in which nothing was found


@dataclass(frozen=True)
class Spent:
    """Seconds that were spent for images of a chunk. Each is a column of `Chunk`, `read` as `read_seconds` and so on.

    The first five are those of threads that work at the same time; `commit` and `waiting` are those of the one thread
    that commits, so that their sum is the time that passed.
    """

    read: float = 0.0  # files from the disk
    decode: float = 0.0  # to pixels
    preprocess: float = 0.0  # to the model's size
    forward: float = 0.0  # the model; on a GPU only what the host does for it
    masks: float = 0.0  # the wait for that GPU, then masks and their RLE
    commit: float = 0.0
    waiting: float = 0.0


NOTHING_SPENT = Spent()
