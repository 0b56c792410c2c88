"""Masks as spans against masks as pixels, with masks of every kind: empty, full, noise, blobs that end a column."""

import numpy as np
import pytest

from workers.inference.shapes import masks
from workers.inference.shapes.rle import Mask
from workers.inference.shapes.spans import Spans, union

HEIGHT, WIDTH = 23, 31
VIEW = (4, 3, 21, 20)  # x1, y1, x2, y2


def drawn(kind: str, height: int, width: int, seed: int = 0) -> Mask:
    noise = np.random.default_rng(seed).random((height, width))
    return {
        "empty": np.zeros((height, width), bool),
        "full": np.ones((height, width), bool),
        "noise": noise > 0.5,
        "sparse": noise > 0.95,
        "dense": noise > 0.05,
        "bottom": np.repeat(np.arange(height)[:, None] > height - 4, width, axis=1),
    }[kind]


KINDS = ("empty", "full", "noise", "sparse", "dense", "bottom")


def spans(mask: Mask) -> Spans:
    height, width = mask.shape
    return Spans.of(masks.encode(mask), (0, 0, width, height), height)


def pixels(mask: Spans) -> Mask:
    return masks.decode(mask.rle(WIDTH), HEIGHT, WIDTH)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_of_a_view_lands_at_its_place_in_the_image(kind: str) -> None:
    x1, y1, x2, y2 = VIEW
    small = drawn(kind, y2 - y1, x2 - x1)
    large = np.zeros((HEIGHT, WIDTH), bool)
    large[y1:y2, x1:x2] = small
    placed = Spans.of(masks.encode(small), VIEW, HEIGHT)
    assert placed.rle(WIDTH) == masks.encode(large)
    assert placed.area == large.sum()


@pytest.mark.parametrize("kind", KINDS)
def test_the_box_is_the_smallest_one_around_the_pixels(kind: str) -> None:
    mask = drawn(kind, HEIGHT, WIDTH)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    expected = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) if mask.any() else (0, 0, 0, 0)
    assert spans(mask).box == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_is_cut_to_a_rectangle(kind: str) -> None:
    x1, y1, x2, y2 = VIEW
    mask = drawn(kind, HEIGHT, WIDTH)
    inside = np.zeros_like(mask)
    inside[y1:y2, x1:x2] = mask[y1:y2, x1:x2]
    assert spans(mask).within(VIEW).rle(WIDTH) == masks.encode(inside)


@pytest.mark.parametrize("one", KINDS)
@pytest.mark.parametrize("other", KINDS)
def test_two_masks_share_and_join_the_pixels_that_both_have(one: str, other: str) -> None:
    a, b = drawn(one, HEIGHT, WIDTH, seed=1), drawn(other, HEIGHT, WIDTH, seed=2)
    assert spans(a).shared(spans(b)) == (a & b).sum()
    both = union([spans(a), spans(b)])
    assert both.rle(WIDTH) == masks.encode(a | b)
    assert both.area == (a | b).sum()
    assert both.within(VIEW).area == spans(a | b).within(VIEW).area
