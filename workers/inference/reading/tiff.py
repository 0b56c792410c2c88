"""Reads the tags of a TIFF: which of its directories is the picture, and how its samples are stored.

Knows the file's bytes, but no decoder and no pixels. Damaged or missing parts are ignored: the decoder judges them.
Source: TIFF 6.0 specification (https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf), BigTIFF
(https://www.awaresystems.be/imaging/tiff/bigtiff.html).
"""

import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, DESCRIPTION, STRIPS = 256, 257, 258, 259, 262, 270, 273
ORIENTATION, SAMPLES, ROWS_PER_STRIP, PLANAR = 274, 277, 278, 284
TILE_WIDTH, TILE_LENGTH, TILES, SUB_DIRECTORIES, SAMPLE_FORMAT = 322, 323, 324, 330, 339
NEW_SUBFILE_TYPE, OLD_SUBFILE_TYPE, DNG_VERSION = 254, 255, 50706
SEPARATE = 2  # value of PLANAR: each sample is stored in a plane of its own
REDUCED, MASK = 1, 4  # bits of NewSubfileType
OLD_REDUCED = 2
SENSOR = (32803, 34892)  # values of PHOTOMETRIC: data of a camera's sensor, unchanged or processed
FORMATS = {1: "unsigned", 2: "signed", 3: "float", 4: "undefined", 5: "complex", 6: "complex float"}

# Names that slide scanners give, in a line of the description, to pictures that are not the scan itself.
_NOT_THE_SCAN = re.compile(
    r"^(?:slide )?(label|macro|thumbnail|overview|preview|probability)(?:[ _]image)?(?: \d+ ?x ?\d+)?\r?$",
    re.IGNORECASE | re.MULTILINE,
)

_SIZES = {1: ("B", 1), 2: ("B", 1), 3: ("H", 2), 4: ("I", 4), 13: ("I", 4), 16: ("Q", 8), 18: ("Q", 8)}
_WANTED = {WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, DESCRIPTION, STRIPS, SAMPLES, TILES, SUB_DIRECTORIES}
_WANTED |= {ORIENTATION, ROWS_PER_STRIP, PLANAR, TILE_WIDTH, TILE_LENGTH}
_WANTED |= {SAMPLE_FORMAT, NEW_SUBFILE_TYPE, OLD_SUBFILE_TYPE, DNG_VERSION}
_MOST_ENTRIES, _MOST_VALUES, _MOST_DIRECTORIES = 1000, 4096, 64  # that are read, as a damaged file may name any number


@dataclass(frozen=True)
class Directory:
    """The tags of one picture."""

    tags: dict[int, tuple[int, ...]]  # tag -> its first values; a text as its bytes
    next: int  # byte at which the next directory begins; 0 if there is none
    counts: dict[int, int] = field(default_factory=dict)  # tag -> how many values the file has
    repeated: bool = False  # some tag comes twice with different values, and decoders differ in which one they use

    def first(self, tag: int, otherwise: int = 0) -> int:
        """The first value of a tag, or `otherwise` if the tag is absent."""
        return self.tags.get(tag, (otherwise,))[0]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height; 0 where the file does not say."""
        return self.first(WIDTH), self.first(LENGTH)

    @property
    def pixels(self) -> int:
        return self.size[0] * self.size[1]

    @property
    def description(self) -> str:
        return bytes(self.tags.get(DESCRIPTION, ())).decode("latin-1").strip("\0 ")

    @property
    def mask(self) -> bool:
        return bool(self.first(NEW_SUBFILE_TYPE) & MASK)

    @property
    def reduced(self) -> bool:
        if NEW_SUBFILE_TYPE in self.tags:
            return bool(self.first(NEW_SUBFILE_TYPE) & REDUCED)
        return self.first(OLD_SUBFILE_TYPE) == OLD_REDUCED


class Directories:
    """The directories of one file: the `first`, those that it names as its own (`named`), and the following `pages`.

    At most `_MOST_DIRECTORIES` are read of each. All are empty if the file is no TIFF (or BigTIFF), or if its first
    directory cannot be read.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._order = "<" if data[:2] == b"II" else ">"
        self._big = data[:4] in (b"II+\0", b"MM\0+")
        known = self._big or data[:4] in (b"II*\0", b"MM\0*")
        begin = self._numbers("Q", 8, 1) if self._big else self._numbers("I", 4, 1)
        self.first = self._read(begin[0]) if known and begin else None
        own = self.first.tags.get(SUB_DIRECTORIES, ()) if self.first else ()
        self.named = [found for at in own[:_MOST_DIRECTORIES] if (found := self._read(at))]
        self.pages = list(islice(self._behind(self.first), _MOST_DIRECTORIES))

    def _behind(self, page: Directory | None) -> Iterator[Directory]:
        while page and (page := self._read(page.next)):
            yield page

    def _read(self, at: int) -> Directory | None:
        head, code, step = (8, "Q", 20) if self._big else (2, "H", 12)
        count = self._numbers(code, at, 1)
        if at == 0 or not count or count[0] > _MOST_ENTRIES:
            return None
        end = at + head + step * count[0]
        tags: dict[int, tuple[int, ...]] = {}
        counts: dict[int, int] = {}
        repeated = False
        for entry in range(at + head, end, step):
            tag, kind = self._numbers("H", entry, 2) or (0, 0)
            if tag in _WANTED and kind in _SIZES and (values := self._values(entry + 4, *_SIZES[kind])):
                repeated |= tags.get(tag, values) != values
                tags[tag] = values
                counts[tag] = self._count(entry)
        follower = self._numbers("Q" if self._big else "I", end, 1)
        return Directory(tags, follower[0] if follower else 0, counts, repeated)

    def _count(self, entry: int) -> int:
        return next(iter(self._numbers("Q" if self._big else "I", entry + 4, 1)), 0)

    def _values(self, at: int, code: str, size: int) -> tuple[int, ...]:
        """The values of an entry. They are inside the entry if there is room, else at the place that it names."""
        wide, room = ("Q", 8) if self._big else ("I", 4)
        count, *_ = self._numbers(wide, at, 1) or (0,)
        place, *_ = (at + room,) if count * size <= room else self._numbers(wide, at + room, 1) or (len(self._data),)
        if place + count * size > len(self._data):
            return ()
        return self._numbers(code, place, min(count, _MOST_VALUES))

    def _numbers(self, code: str, at: int, count: int) -> tuple[int, ...]:
        """`count` numbers at this place; none if the file ends before."""
        try:
            return struct.unpack_from(f"{self._order}{count}{code}", self._data, at)
        except (struct.error, OverflowError):
            return ()


def not_the_picture(directories: Directories) -> str | None:
    """What the first directory is, and what to do, if the file says that it is not the picture; else None."""
    first = directories.first
    if first is None:
        return None
    others = [*directories.named, *directories.pages]
    if DNG_VERSION in first.tags or any(one.first(PHOTOMETRIC) in SENSOR for one in (first, *others)):
        return "camera raw is not opened, and its preview is not the picture; develop it to JPEG or TIFF"
    own = _sides(first)
    if first.mask:
        return f"the file's first picture ({own}) is marked as a mask; give the file of the picture itself"
    if first.reduced and others:  # if it is alone, it is the picture, whatever its mark says
        return f"the file's first picture ({own}) is marked as a reduced one{_main(others)}"
    larger = [one for one in others if one.pixels > first.pixels and not one.mask]
    if larger and (named := _NOT_THE_SCAN.search(first.description)):
        return f"the file's first picture ({own}) is a slide's {named[1].lower()}{_main(larger)}"
    if any(one in larger for one in directories.named):
        return f"the file's first picture ({own}) is a smaller version of another{_main(larger)}"
    return None


def is_described(picture: Directory) -> bool:
    """Whether the directory has the tags that any decoder needs, so that it is not cut off."""
    return bool(picture.pixels and {BITS, PHOTOMETRIC} <= picture.tags.keys() and {STRIPS, TILES} & picture.tags.keys())


def _sides(directory: Directory) -> str:
    return " x ".join(map(str, directory.size))


def _main(others: Sequence[Directory]) -> str:
    return f", the largest is {_sides(max(others, key=lambda one: one.pixels))}; save that one as a file of its own"
