"""Joins what a model found in the tiles of an image, and in the whole of it, to what the image shows.

Each view answers for what it sees whole:

- A mask that reaches no edge of its tile is an object. If several tiles have found it, the best answer counts.
- A mask that an edge cuts is left out if it mostly lies in such objects, as a model often takes several objects at an
  edge for one. The other cut masks are parts of objects that no tile sees whole. Two parts are one object if they agree
  where their tiles overlap.
- The whole image answers for objects longer than a tile, and for those of which no tile has found anything.

Knows masks as spans, but no model, no batch and no file. The idea to merge by the share of the smaller mask is that of
SAHI (https://github.com/obss/sahi), which compares boxes or polygons; here the masks themselves are compared.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, combinations

import numpy as np

from workers.inference.answers import Found, Instance
from workers.inference.shapes.spans import Rectangle, Spans, union
from workers.inference.tiles import View

SAME = 0.5  # IoU from which two masks are one object; of two parts, where both tiles see them
MOSTLY = 0.5  # share of a mask's pixels in others from which it shows nothing new
INSIDE = 0.8  # share of a mask's pixels from which it is a part of a larger one
NEAR = 0.01  # of a tile's side: a mask that comes so near to the tile's edge may go on behind it


@dataclass(frozen=True, eq=False)
class _Seen:
    """An object as far as it is known: the mask of one view, or of several that were joined."""

    mask: Spans
    box: Rectangle  # around the mask
    answer: tuple[float, float, float, float]  # the model's own box
    score: float
    cut: bool  # part of it may be missing
    view: int  # number of the view; of several that were joined, of one of them

    @property
    def length(self) -> int:
        """The longer side of its box, in pixels."""
        return max(self.box[2] - self.box[0], self.box[3] - self.box[1])

    def is_same(self, other: "_Seen") -> bool:
        """Whether their IoU is that of one object."""
        shared = self.mask.shared(other.mask)
        return shared >= SAME * (self.mask.area + other.mask.area - shared)

    def covered(self, others: Iterable["_Seen"]) -> float:
        """How much of this mask is in the other ones together, 0 to 1, if they do not overlap."""
        return sum(self.share(other) for other in others)

    def share(self, other: "_Seen") -> float:
        """How much of this mask is in the other one, 0 to 1."""
        return self.mask.shared(other.mask) / self.mask.area


def joined(views: Sequence[View], answers: Sequence[tuple[Found, ...]]) -> tuple[Found, ...]:
    """What the image shows, for each prompt: boxes and masks in the image's pixels, the best score first.

    `views` are those of `Tiling.views`, `answers` what was found in each of them, in the view's own pixels.
    """
    if len(views) == 1:
        return answers[0]
    return tuple(_joined(views, found) for found in zip(*answers, strict=True))


def _joined(views: Sequence[View], found: Sequence[Found]) -> Found:
    whole = views[0]
    in_whole, *in_tiles = ([*_in_view(views, number, one)] for number, one in enumerate(found))
    objects = _once([one for tile in in_tiles for one in tile if not one.cut])
    near = _Near(objects)
    parts = [[one for one in tile if one.cut and one.covered(near.to(one)) < MOSTLY] for tile in in_tiles]
    objects += _without_parts(_across_seams(views[1:], parts))
    objects = _both_scales(in_whole, objects, side=max(views[1].width, views[1].height))
    instances = sorted((_instance(one, whole.width) for one in objects), key=lambda one: -one.score)
    return Found(
        presence=max(one.presence for one in found),
        instances=tuple(instances),
        capped=any(one.capped for one in found[1:]),  # what the whole view had no room for, the tiles have
    )


def _in_view(views: Sequence[View], number: int, found: Found) -> Iterator[_Seen]:
    whole, view = views[0], views[number]
    near = NEAR * max(view.width, view.height)
    for instance in found.instances:
        mask = Spans.of(instance.rle, view.edges, whole.height)
        if not mask.area:
            continue
        x1, y1, x2, y2 = instance.box
        answer = (x1 + view.x, y1 + view.y, x2 + view.x, y2 + view.y)
        yield _Seen(mask, mask.box, answer, instance.score, _is_cut(mask.box, view, whole, near), number)


def _is_cut(box: Rectangle, view: View, whole: View, near: float) -> bool:
    """Whether a mask reaches an edge of its view that is not one of the image."""
    (x1, y1, x2, y2), (left, top, right, bottom) = box, view.edges
    return (
        (left > 0 and x1 - left <= near)
        or (top > 0 and y1 - top <= near)
        or (right < whole.width and right - x2 <= near)
        or (bottom < whole.height and bottom - y2 <= near)
    )


def _once(objects: Sequence[_Seen]) -> list[_Seen]:
    """Each of these objects once, with its best score; what one view takes for two stays two."""
    objects = sorted(objects, key=lambda one: -one.score)
    near, kept = _Near(objects), set[_Seen]()
    for one in objects:
        if not any(other in kept and one.view != other.view and one.is_same(other) for other in near.to(one)):
            kept.add(one)
    return [one for one in objects if one in kept]


def _across_seams(tiles: Sequence[View], seen: Sequence[Sequence[_Seen]]) -> list[_Seen]:
    """The objects of all tiles, with the parts of one object joined."""
    same = _Same()
    with_parts = [(tile, parts) for tile, parts in zip(tiles, seen, strict=True) if parts]
    for (one, in_one), (other, in_other) in combinations(with_parts, 2):
        if strip := _common(one.edges, other.edges):
            for left, right in _pairs(in_one, in_other, strip):
                same.join(left, right)
    groups: dict[_Seen, list[_Seen]] = {}
    for part in chain.from_iterable(seen):
        groups.setdefault(same.first(part), []).append(part)
    return [_as_one(parts) for parts in groups.values()]


class _Same:
    """Which parts are one object (a disjoint-set forest). Parts are told apart by identity."""

    def __init__(self) -> None:
        self._parent: dict[_Seen, _Seen] = {}

    def first(self, part: _Seen) -> _Seen:
        """The part that stands for its object."""
        while (parent := self._parent.get(part, part)) is not part:
            part = parent
        return part

    def join(self, one: _Seen, other: _Seen) -> None:
        if (a := self.first(one)) is not (b := self.first(other)):
            self._parent[b] = a


def _pairs(left: Sequence[_Seen], right: Sequence[_Seen], strip: Rectangle) -> Iterator[tuple[_Seen, _Seen]]:
    """Which masks of two tiles are one object, as they agree in the strip that both tiles see; the best pairs first.

    Each mask is in one pair at most, so two neighbours of which one tile sees a single blob stay two.
    """
    clipped = [[(one, one.mask.within(strip)) for one in side if _common(one.box, strip)] for side in (left, right)]
    agreeing = []
    for one, a in clipped[0]:
        for other, b in clipped[1]:
            if not _common(one.box, other.box) or not (shared := a.shared(b)):
                continue
            iou, share = shared / (a.area + b.area - shared), shared / min(a.area, b.area)
            if iou >= SAME or share >= INSIDE:
                agreeing.append((iou, one, other))
    agreeing.sort(key=lambda pair: -pair[0])
    taken: set[_Seen] = set()
    for _, one, other in agreeing:
        if not {one, other} & taken:
            taken |= {one, other}
            yield one, other


def _as_one(parts: Sequence[_Seen]) -> _Seen:
    if len(parts) == 1:
        return parts[0]
    mask = union([part.mask for part in parts])
    x1, y1, x2, y2 = zip(*(part.answer for part in parts), strict=True)
    answer = min(x1), min(y1), max(x2), max(y2)
    return _Seen(mask, mask.box, answer, max(part.score for part in parts), True, parts[0].view)


def _without_parts(objects: Sequence[_Seen]) -> list[_Seen]:
    """Leave out what an edge cut off from a larger object that another tile has found."""
    near = _Near(objects)
    return [
        one
        for one in objects
        if not any(other.mask.area > one.mask.area and one.cut and one.share(other) >= INSIDE for other in near.to(one))
    ]


def _both_scales(in_whole: Sequence[_Seen], in_tiles: Sequence[_Seen], side: int) -> list[_Seen]:
    """The objects of the image. `side` is the length of a tile, in pixels."""
    near, added, dropped = _Near(in_tiles), [], set[_Seen]()
    for one in in_whole:
        pieces = near.to(one)
        if one.length <= side:
            if one.covered(pieces) < MOSTLY and not any(piece.share(one) >= MOSTLY for piece in pieces):
                added.append(one)
        elif not any(piece.is_same(one) for piece in pieces):
            added.append(one)
            dropped.update(piece for piece in pieces if piece.cut and piece.share(one) >= INSIDE)
    return [*(piece for piece in in_tiles if piece not in dropped), *added]


class _Near:
    """Finds which of many objects may have pixels in common with another one."""

    def __init__(self, objects: Sequence[_Seen]) -> None:
        self._objects = objects
        self._boxes = np.array([one.box for one in objects]).reshape(-1, 4)

    def to(self, one: _Seen) -> list[_Seen]:
        """The other objects whose boxes meet the box of this one."""
        x1, y1, x2, y2 = self._boxes.T
        left, top, right, bottom = one.box
        meet = np.flatnonzero((x1 < right) & (x2 > left) & (y1 < bottom) & (y2 > top))
        return [other for number in meet.tolist() if (other := self._objects[number]) is not one]


def _common(one: Rectangle, other: Rectangle) -> Rectangle | None:
    """The rectangle that two of them share, None if it is empty."""
    x1, y1, x2, y2 = max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def _instance(one: _Seen, width: int) -> Instance:
    return Instance(one.score, one.answer, one.mask.area, one.mask.rle(width))
