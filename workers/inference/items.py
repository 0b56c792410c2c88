"""What goes into the stream of a chunk, and what comes out: images, and an outcome for each. Knows no work on them."""

from dataclasses import dataclass, replace

from workers.errors import ErrorClass
from workers.inference.answers import Found
from workers.inference.boxes import Box
from workers.inference.tiles import Tiling
from workers.places.location import FileSeen


@dataclass(frozen=True)
class Before:
    """For an image that is asked for added prompts only: the file that its results are of, and all its prompts."""

    file: FileSeen
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class Item:
    """One image to segment: the id of its outcome, its absolute path, and at least one prompt."""

    id: int
    path: str
    prompts: tuple[str, ...]
    tiling: Tiling | None = None  # how it is cut if it is large; None: not at all
    again: bool = False  # it is to be computed, even if an image of the same content was computed before
    boxes: tuple[Box, ...] = ()  # of an image that is not cut
    before: Before | None = None  # if its file has changed since, all of its prompts are asked

    def asked_of(self, file: FileSeen) -> "Item":
        """The item with the prompts that are asked of this file, which it has now."""
        if self.before is None or self.before.file == file:
            return self
        return replace(self, prompts=self.before.prompts, again=True)


@dataclass(frozen=True)
class Segmented:
    """An image that was read: the size of its masks in pixels, and what was found, in the order of its prompts."""

    id: int
    width: int
    height: int
    found: tuple[Found, ...]
    file: FileSeen | None = None
    warning: str | None = None  # what is odd about the picture
    content: bytes | None = None  # if repeats were looked for


@dataclass(frozen=True)
class Unreadable:
    """An image without pixels or without masks, and the reason. It is a value and not an exception, since the other
    images of its batch are not concerned."""

    id: int
    error_class: ErrorClass
    message: str
    file: FileSeen | None = None  # if it was opened


Outcome = Segmented | Unreadable
