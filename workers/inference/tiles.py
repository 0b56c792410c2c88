"""Which parts of a large image the model looks at. Knows sizes in pixels, but no pixels, masks or models."""

from dataclasses import dataclass
from typing import Self

LEAST_SIDE = 64  # pixels
AUTO = "auto"
AUTO_ABOVE = 16_000_000  # pixels; photographs of phones have 12 million, and their subject is mostly large
DEFAULT_OVERLAP = 128  # pixels


class BadTiling(ValueError):
    """A text that is no tiling."""


@dataclass(frozen=True)
class View:
    """A rectangle of an image, in its pixels."""

    x: int
    y: int
    width: int
    height: int

    @property
    def edges(self) -> tuple[int, int, int, int]:
        """x1, y1, x2, y2, without the last column and row."""
        return self.x, self.y, self.x + self.width, self.y + self.height


@dataclass(frozen=True)
class Tiling:
    """How images are cut: into squares of `side` pixels, of which neighbours share at least `overlap` pixels.

    An object that is no longer than the overlap lies wholly in one tile. Images with at most `above` pixels, and images
    that are no larger than a tile, are not cut.
    """

    side: int = 1024
    overlap: int = DEFAULT_OVERLAP
    above: int = 0

    def __post_init__(self) -> None:
        if self.side < LEAST_SIDE:
            raise BadTiling(f"a tile needs at least {LEAST_SIDE} pixels a side, not {self.side}")
        if not 0 <= self.overlap <= self.side // 2:
            raise BadTiling(
                f"the overlap of tiles of {self.side} pixels must be 0 to {self.side // 2}, not {self.overlap}"
            )

    def __str__(self) -> str:
        """`side/overlap/above`, as a database keeps it."""
        return f"{self.side}/{self.overlap}/{self.above}"

    @classmethod
    def of(cls, text: str) -> Self:
        """The tiling that `str` gave as this text. Raises `BadTiling`."""
        try:
            side, overlap, above = map(int, text.split("/"))
        except ValueError:
            raise BadTiling(f"{text!r} is not side/overlap/above in pixels") from None
        return cls(side, overlap, above)

    @classmethod
    def chosen(cls, tile: str, overlap: int | None = None) -> Self:
        """The tiling that a person chooses: the side of a tile in pixels, or `auto`: only very large images are cut.

        Without an `overlap` it is 128 pixels, but at most half of a tile. Raises `BadTiling`.
        """
        if tile == AUTO:
            return cls(overlap=DEFAULT_OVERLAP if overlap is None else overlap, above=AUTO_ABOVE)
        if not tile.isdecimal():
            raise BadTiling(f"{tile!r} is neither {AUTO} nor a number of pixels")
        side = int(tile)
        return cls(side, min(DEFAULT_OVERLAP, side // 2) if overlap is None else overlap)

    def views(self, width: int, height: int) -> tuple[View, ...]:
        """What the model looks at in an image of this size: the whole image, and if it is cut, all tiles after that."""
        whole = View(0, 0, width, height)
        if width * height <= self.above or max(width, height) <= self.side:
            return (whole,)
        across, down = self._starts(width), self._starts(height)
        wide, tall = min(self.side, width), min(self.side, height)
        return (whole, *(View(x, y, wide, tall) for y in down for x in across))

    def _starts(self, length: int) -> list[int]:
        """Where the tiles along a side of an image begin: spread evenly, so that each has its full size."""
        free = length - self.side
        if free <= 0:
            return [0]
        steps = -(-free // (self.side - self.overlap))
        return [round(free * step / steps) for step in range(steps + 1)]
