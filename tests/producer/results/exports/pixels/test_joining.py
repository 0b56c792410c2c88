"""Outlines are joined by short ways, of which few are looked at."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producer.results.exports.pixels.joining import Points, joined, ways

pytestmark = pytest.mark.filterwarnings("error")


def outlines_of(mask: np.ndarray) -> list[Points]:
    found, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    return [np.asarray(one[:, 0], np.int32) for one in found]


def noise(height: int, width: int, share: float) -> list[Points]:
    return outlines_of((np.random.default_rng(1).random((height, width)) < share).astype(np.uint8))


def specks(*places: tuple[int, int]) -> list[Points]:
    return [np.array([place], np.int32) for place in places]


def steps(line: Points) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The steps of a closed line, each with its two ends in order."""
    points = [tuple(point) for point in line.tolist()]
    return [(min(one, other), max(one, other)) for one, other in zip(points, points[1:] + points[:1], strict=True)]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_ways_looked_at_grow_with_the_outlines_and_not_with_their_pairs(share: float) -> None:
    outlines = noise(200, 260, share)
    owner = np.repeat(np.arange(len(outlines), dtype=np.int32), [len(one) for one in outlines])
    assert len(outlines) > 1500
    assert len(ways(np.concatenate(outlines), owner)) < 4 * len(outlines)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 24), st.integers(1, 24), st.floats(0.05, 0.95), st.integers(0, 1000))
def test_the_line_has_every_outline_and_a_way_there_and_back_to_each(
    height: int, width: int, share: float, seed: int
) -> None:
    mask = (np.random.default_rng(seed).random((height, width)) < share).astype(np.uint8)
    if not (outlines := outlines_of(mask)):
        return
    line = joined(outlines)
    assert len(line) == sum(map(len, outlines)) + 2 * (len(outlines) - 1)
    rest = steps(line)
    for step in (step for outline in outlines for step in steps(outline)):
        rest.remove(step)
    there_and_back = sorted(rest)
    assert there_and_back[::2] == there_and_back[1::2]
    pixels = np.zeros_like(mask)
    cv2.fillPoly(pixels, [line], 1)
    assert (pixels >= mask).all()


def test_parts_are_joined_to_the_nearest_part_whatever_their_order() -> None:
    left, right = [(0, y) for y in range(0, 60, 6)], [(90, y) for y in range(3, 63, 6)]
    mixed = [place for pair in zip(left, right, strict=True) for place in pair]
    for places in (mixed, mixed[::-1]):
        lengths = [abs(x - u) + abs(y - v) for (x, y), (u, v) in set(steps(joined(specks(*places))))]
        assert sorted(filter(None, lengths)) == [6] * 18 + [93]


def test_outlines_that_share_their_only_pixel_are_joined() -> None:
    assert joined(specks((3, 3), (3, 3), (3, 3))).tolist() == [[3, 3]] * 7


def test_one_outline_stays_as_it_is() -> None:
    square = np.array([(0, 0), (0, 5), (5, 5), (5, 0)], np.int32)
    assert np.array_equal(joined([square]), square)
