"""Joins closed outlines to one closed line. Knows points, but not what they are the outlines of.

A way that joins two outlines goes there and back, so it has no area. But OpenCV's `fillPoly`, with which Ultralytics
fills a polygon, draws a way one pixel wide. Therefore ways are short: together they are close to a minimum spanning
tree. A way may cross a third outline, which changes no more than the way's own pixels.
"""

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.int32]
"""Pixels (x, y) of shape (points, 2)."""

Ways = npt.NDArray[np.int32]
"""Numbers of the points at both ends of ways, of shape (ways, 2)."""


def joined(outlines: Sequence[Points]) -> Points:
    """One closed line along all outlines; each outline after the first adds a way, which has two more points.

    The time grows with the pixels of the box around the outlines and with their points, but not with their square.
    """
    if len(outlines) == 1:
        return outlines[0]
    points = np.concatenate(outlines)
    sizes = [len(outline) for outline in outlines]
    owner = np.repeat(np.arange(len(outlines), dtype=np.int32), sizes)
    follows = np.arange(1, len(points) + 1)
    ends = np.cumsum(sizes)
    follows[ends - 1] = ends - sizes
    return points[_one_ring(follows.tolist(), _tree(owner, ways(points, owner)))]


def ways(points: Points, owner: npt.NDArray[np.int32]) -> Ways:
    """Ways between neighbouring outlines, the shortest first, at most one for a pair; they connect all outlines.

    `owner` is the number of the outline of each point. Outlines are neighbours where two pixels side by side have their
    nearest points on them, or where they share a pixel. So there are a few ways for an outline, and not one for each
    pair of outlines.
    """
    found = np.concatenate(list(_neighbours(points, owner)))
    length = ((points[found[:, 0]].astype(np.int64) - points[found[:, 1]]) ** 2).sum(axis=1)
    found = found[np.argsort(length, kind="stable")]
    low, high = np.sort(owner[found], axis=1).T
    _, first = np.unique(low.astype(np.int64) * len(points) + high, return_index=True)
    return found[np.sort(first)]


def _neighbours(points: Points, owner: npt.NDArray[np.int32]) -> Iterator[Ways]:
    """Points of different outlines to which two pixels side by side are nearest, and points at the same pixel."""
    corner = points.min(axis=0)
    across, down = points.max(axis=0) - corner + 1
    x, y = (points - corner).T
    empty = np.ones((down, across), np.uint8)
    empty[y, x] = 0
    _, label = cv2.distanceTransformWithLabels(empty, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    point_of = np.zeros(len(points) + 1, np.int32)  # labels count the pixels of points, from 1
    point_of[label[y, x]] = np.arange(len(points))
    outline = owner[point_of][label]
    beside, below = outline[:, :-1] != outline[:, 1:], outline[:-1] != outline[1:]
    yield point_of[np.stack([label[:, :-1][beside], label[:, 1:][beside]], axis=1)]
    yield point_of[np.stack([label[:-1][below], label[1:][below]], axis=1)]
    same = np.stack([np.arange(len(points), dtype=np.int32), point_of[label[y, x]]], axis=1)
    yield same[owner[same[:, 0]] != owner[same[:, 1]]]


def _tree(owner: npt.NDArray[np.int32], shortest_first: Ways) -> list[tuple[int, int]]:
    """The ways that join outlines which no shorter ways join (Kruskal's algorithm)."""
    above = list(range(int(owner.max()) + 1))

    def top(outline: int) -> int:
        while above[outline] != outline:
            above[outline] = outline = above[above[outline]]
        return outline

    tree = []
    for (here, there), (one, other) in zip(shortest_first.tolist(), owner[shortest_first].tolist(), strict=True):
        one, other = top(one), top(other)
        if one != other:
            above[one] = other
            tree.append((here, there))
    return tree


def _one_ring(follows: list[int], tree: Sequence[tuple[int, int]]) -> list[int]:
    """The numbers of points along all rings, where `follows` has the number of the point after each point.

    A way makes two rings one: the line goes from `here` to `there`, around, back to `there` and then to `here`.
    """
    number = list(range(len(follows)))
    for here, there in tree:
        here_again, there_again = len(number), len(number) + 1
        number += [here, there]
        follows += [follows[here], follows[there]]
        follows[here], follows[there] = there_again, here_again
    line, at = [], 0
    for _ in number:
        line.append(number[at])
        at = follows[at]
    return line
