"""Which images may be opened and how they are read, and the error for one that cannot be used.

The workers and the exports of a run read its images by the same rules. Knows neither files nor pixels.
"""

from dataclasses import dataclass, replace
from typing import Literal, Protocol, Self, cast

from workers.errors import ErrorClass
from workers.machine.memory import usable_memory
from workers.places.location import FileSeen

BYTES_A_PIXEL = 10  # while an image is decoded: 4 of Pillow's own, and 3 for each of two copies


@dataclass(frozen=True)
class ReadRules:
    """Which images may be opened, and how they are read."""

    orientation: Literal["exif", "raw"] = "exif"  # turn images as their EXIF data says, or keep the file's axes
    stretch: bool = False  # convert samples of more than 8 bits by each picture's own range
    root: str | None = None  # absolute folder that paths may not leave
    follow_symlinks: bool = False  # whether symbolic links may lead out of `root`
    max_pixels: int = 120_000_000  # width x height; phones and medium format have up to 108 million: 0.4 GB decoded
    max_bytes: int = 512 * 1024**2  # of the file
    min_side: int = 8  # pixels
    digests: bool = False  # whether the file's bytes are hashed, too

    def with_large_images(self, readers: int) -> Self:
        """The same rules for images that may be as large as memory allows, if so many threads read one each."""
        fits = usable_memory() // 2 // (readers * BYTES_A_PIXEL)
        return replace(self, max_pixels=max(self.max_pixels, fits))


class Source(Protocol):
    """What the rules need of a run's source: of `db.values.Source`, which inference does not import."""

    @property
    def root(self) -> str: ...
    @property
    def confined(self) -> bool: ...
    @property
    def follow_symlinks(self) -> bool: ...


class Frozen(Protocol):
    """What the rules need of a run's frozen settings: of `db.values.Frozen`, which inference does not import."""

    @property
    def orientation(self) -> str: ...
    @property
    def stretch(self) -> bool: ...
    @property
    def dedupe(self) -> bool: ...


def rules_of(source: Source, frozen: Frozen) -> ReadRules:
    """By which rules the images of a run are read, by its workers and its exports alike."""
    return ReadRules(
        orientation=cast(Literal["exif", "raw"], frozen.orientation),
        stretch=frozen.stretch,
        root=source.root if source.confined else None,
        follow_symlinks=source.follow_symlinks,
        digests=frozen.dedupe,
    )


class UnreadableImage(Exception):
    """An image that cannot be used: its error class, a sentence without the path, and the file if it was opened."""

    def __init__(self, error_class: ErrorClass, message: str, file: FileSeen | None = None) -> None:
        super().__init__(message)
        self.error_class = error_class
        self.message = message
        self.file = file
