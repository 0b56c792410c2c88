"""Joins what a model found in the tiles of an image, and in the whole of it, to what the image shows.

An object on a seam is found in two tiles or more, each time a part of it. Two parts are one object if they agree where
their tiles overlap. Then each scale answers for what it sees whole: the tiles for objects no longer than a tile, the
whole view for longer ones; and the whole view for those of which no tile has found anything.

Knows masks as spans, but no model, no batch and no file. The idea to merge by the share of the smaller mask is that of
SAHI (https://github.com/obss/sahi), which compares boxes or polygons; here the masks themselves are compared.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, combinations

from workers.inference.answers import Found, Instance
from workers.inference.spans import Rectangle, Spans, union
from workers.inference.tiles import View

AGREES = 0.5  # IoU, where both tiles see it, from which two parts are one object
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

    @property
    def length(self) -> int:
        """The longer side of its box, in pixels."""
        return max(self.box[2] - self.box[0], self.box[3] - self.box[1])

    def share(self, other: "_Seen") -> float:
        """How much of this mask is in the other one, 0 to 1."""
        return self.mask.shared(other.mask) / self.mask.area if _common(self.box, other.box) else 0.0


def joined(views: Sequence[View], answers: Sequence[tuple[Found, ...]]) -> tuple[Found, ...]:
    """What the image shows, for each prompt. `views` are those of `Tiling.views`, `answers` what was found in each."""
    if len(views) == 1:
        return answers[0]
    return tuple(_joined(views, found) for found in zip(*answers, strict=True))


def _joined(views: Sequence[View], found: Sequence[Found]) -> Found:
    whole = views[0]
    seen = [_in_view(view, one, whole) for view, one in zip(views, found, strict=True)]
    side = max(views[1].width, views[1].height)
    objects = _both_scales(seen[0], _without_parts(_across_seams(views[1:], seen[1:])), side)
    instances = sorted((_instance(one, whole.width) for one in objects), key=lambda one: -one.score)
    return Found(
        presence=max(one.presence for one in found),
        instances=tuple(instances),
        capped=any(one.capped for one in found[1:]),  # what the whole view had no room for, the tiles have
    )


def _in_view(view: View, found: Found, whole: View) -> list[_Seen]:
    near = NEAR * max(view.width, view.height)
    seen = []
    for instance in found.instances:
        mask = Spans.of(instance.rle, view.edges, whole.height)
        if not mask.area:
            continue
        x1, y1, x2, y2 = instance.box
        answer = (x1 + view.x, y1 + view.y, x2 + view.x, y2 + view.y)
        seen.append(_Seen(mask, mask.box, answer, instance.score, _is_cut(mask.box, view, whole, near)))
    return seen


def _is_cut(box: Rectangle, view: View, whole: View, near: float) -> bool:
    """Whether a mask reaches an edge of its view that is not one of the image."""
    (x1, y1, x2, y2), (left, top, right, bottom) = box, view.edges
    return (
        (left > 0 and x1 - left <= near)
        or (top > 0 and y1 - top <= near)
        or (right < whole.width and right - x2 <= near)
        or (bottom < whole.height and bottom - y2 <= near)
    )


def _across_seams(tiles: Sequence[View], seen: Sequence[Sequence[_Seen]]) -> list[_Seen]:
    """The objects of all tiles, with the parts of one object joined."""
    same = _Same()
    for (one, in_one), (other, in_other) in combinations(zip(tiles, seen, strict=True), 2):
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
            if iou >= AGREES or share >= INSIDE:
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
    answers = [part.answer for part in parts]
    (x1, y1), (x2, y2) = ([pick(one[i] for one in answers) for i in at] for pick, at in ((min, (0, 1)), (max, (2, 3))))
    whole = not all(part.cut for part in parts)  # one tile sees all of it
    return _Seen(mask, mask.box, (x1, y1, x2, y2), max(part.score for part in parts), not whole)


def _without_parts(objects: Sequence[_Seen]) -> list[_Seen]:
    """Leave out what an edge cut off from a larger object that another tile has found."""
    by_size = sorted(objects, key=lambda one: -one.mask.area)
    kept: list[_Seen] = []
    for one in by_size:
        if not (one.cut and any(one.share(larger) >= INSIDE for larger in kept)):
            kept.append(one)
    return kept


def _both_scales(in_whole: Sequence[_Seen], in_tiles: Sequence[_Seen], side: int) -> list[_Seen]:
    """The objects of the image. `side` is the length of a tile, in pixels."""
    kept = list(in_tiles)
    for one in in_whole:
        if one.length > side:
            drawn = [piece for piece in kept if _is_same(piece, one)]
            kept = [piece for piece in kept if piece in drawn or not (piece.cut and piece.share(one) >= INSIDE)]
            kept += [] if drawn else [one]
        elif not any(one.share(piece) >= AGREES or piece.share(one) >= AGREES for piece in in_tiles):
            kept.append(one)
    return kept


def _is_same(one: _Seen, other: _Seen) -> bool:
    if not _common(one.box, other.box):
        return False
    shared = one.mask.shared(other.mask)
    return shared >= INSIDE * (one.mask.area + other.mask.area - shared)


def _common(one: Rectangle, other: Rectangle) -> Rectangle | None:
    """The rectangle that two of them share, None if it is empty."""
    x1, y1, x2, y2 = max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def _instance(one: _Seen, width: int) -> Instance:
    return Instance(one.score, one.answer, one.mask.area, one.mask.rle(width))
