"""Masks to COCO RLE and back, against pycocotools' own reading of it."""

import numpy as np
import pytest
from pycocotools import mask as coco

from workers.inference.shapes import masks


def test_a_real_silhouette_survives_the_round_trip(horse: masks.Mask) -> None:
    rle = masks.encode(horse)
    height, width = horse.shape
    assert np.array_equal(masks.decode(rle, height, width), horse)
    assert masks.area(rle, height, width) == horse.sum()
    assert len(rle) < 2000


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools with numpy 2
def test_pycocotools_reads_the_bytes_with_the_image_size(horse: masks.Mask) -> None:
    height, width = horse.shape
    decoded = coco.decode({"size": [height, width], "counts": masks.encode(horse)})
    assert np.array_equal(decoded, horse)


def test_memory_order_does_not_matter(horse: masks.Mask) -> None:
    assert masks.encode(np.asfortranarray(horse)) == masks.encode(np.ascontiguousarray(horse))
    assert masks.encode(horse.astype(np.uint8)) == masks.encode(horse)


def test_noise_with_very_many_runs_survives_too() -> None:
    mask = np.random.default_rng(0).random((97, 61)) > 0.5
    assert np.array_equal(masks.decode(masks.encode(mask), 97, 61), mask)


@pytest.mark.parametrize("filled", [False, True])
def test_empty_and_full_masks_are_masks_too(filled: bool) -> None:
    mask = np.full((3, 5), filled)
    rle = masks.encode(mask)
    assert np.array_equal(masks.decode(rle, 3, 5), mask)
    assert masks.area(rle, 3, 5) == mask.sum()


def test_iou_is_intersection_over_union() -> None:
    left, right, nothing = np.zeros((3, 10, 20), dtype=bool)
    left[:, :10] = True
    right[:, 5:15] = True
    one, other, empty = (masks.encode(mask) for mask in (left, right, nothing))
    assert masks.iou(one, other, 10, 20) == pytest.approx(50 / 150)
    assert masks.iou(one, one, 10, 20) == 1
    assert masks.iou(one, empty, 10, 20) == 0
    assert masks.iou(empty, empty, 10, 20) == 1
