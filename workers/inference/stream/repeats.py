"""Finds images of a stream whose content was computed before, in the stream or before it. Knows no SQL and no pixels.

The content of an image is a hash of its file's bytes, of its prompts and boxes, and of how it is cut. Images of the
same content get the same answers from the same model, so one of them is enough. Two processes may compute the same
content at the same time: then it is computed twice.
"""

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Generic, TypeVar

from workers.inference.answers import Found
from workers.inference.boxes import Box
from workers.inference.tiles import Tiling

Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class Known:
    """What an image got that was computed before: the size of its masks in pixels, and what was found for each prompt,
    in the order of the prompts."""

    width: int
    height: int
    found: tuple[Found, ...]
    warning: str | None


Recall = Callable[[Mapping[int, bytes]], Mapping[int, Known]]
"""Called with the contents of images by the ids of their items; returns what is known, by these ids."""


def content_of(digest: bytes, prompts: Sequence[str], tiling: Tiling | None = None, boxes: Sequence[Box] = ()) -> bytes:
    """The content of an image whose file's bytes have this digest, and that is asked for these prompts and boxes."""
    asked = (digest, tuple(prompts), *([str(tiling)] if tiling else []), *map(tuple, boxes))
    return blake2b(repr(asked).encode(), digest_size=len(digest)).digest()


class Repeats(Generic[Outcome]):
    """The contents that one stream has met lately. `recall` tells what was computed before the stream.

    One thread calls `spared` for some images after the others, and another thread then the other methods for the same
    images in the same order.
    """

    def __init__(self, recall: Recall | None, in_hand: int) -> None:
        """`in_hand`: more images than the stream has begun and not yet committed. `recall` knows of those before."""
        self._recall = recall or (lambda contents: {})
        self._met: deque[bytes] = deque(maxlen=in_hand)
        self._answers: deque[tuple[bytes, Outcome]] = deque(maxlen=2 * in_hand)

    def spared(self, contents: Mapping[int, bytes], again: Collection[int]) -> Mapping[int, Known | None]:
        """Which of the images with these contents need not be computed, by id, with what is known of each.

        None: the image has the content of an earlier image of the stream, which is computed. For the ids `again`
        nothing is taken that was computed before the stream.
        """
        lately = set(self._met)
        asked = {id: content for id, content in contents.items() if id not in again and content not in lately}
        spared: dict[int, Known | None] = dict(self._recall(asked)) if asked else {}
        here: list[bytes] = []
        for id, content in contents.items():
            if content in lately or content in here:
                spared[id] = None
            elif id not in spared:
                here.append(content)
        self._met.extend(here)
        return spared

    def answer(self, content: bytes, outcome: Outcome) -> None:
        """Note the outcome of an image that was computed."""
        self._answers.append((content, outcome))

    def earlier(self, content: bytes) -> Outcome:
        """The outcome of the image that the stream met before with this content."""
        return next(outcome for answered, outcome in reversed(self._answers) if answered == content)
