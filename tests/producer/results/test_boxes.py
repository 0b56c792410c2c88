"""The box of a mask is pycocotools' own, also where that is not installed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from producer.results import boxes
from producer.results.boxes import NO_BOX, box_from_runs, tight_boxes


@st.composite
def masks(draw: st.DrawFn) -> NDArray[np.uint8]:
    """Height x width of 0 and 1: noise, or the inside of a rectangle, which often covers whole columns or nothing."""
    height, width = draw(st.integers(1, 300)), draw(st.integers(1, 40))
    mask = np.zeros((height, width), np.uint8)
    if draw(st.booleans()):
        seed, share = draw(st.integers(0, 1 << 30)), draw(st.sampled_from([0.001, 0.05, 0.5, 1.0]))
        return (np.random.default_rng(seed).random((height, width)) < share).astype(np.uint8)
    top, bottom = draw(st.sampled_from([0, height // 3])), draw(st.sampled_from([height // 2, height]))
    left, right = draw(st.integers(0, width)), draw(st.integers(0, width))
    mask[top:bottom, left:right] = 1
    return mask


@given(masks())
def test_it_is_the_one_of_pycocotools_and_of_the_pixels(mask: NDArray[np.uint8]) -> None:
    height, width = mask.shape
    rle = coco_mask.encode(np.asfortranarray(mask))
    found = box_from_runs(rle["counts"], height)

    assert tight_boxes([rle["counts"]], height, width) == [found]
    assert list(found) == coco_mask.toBbox(rle).tolist()
    rows, columns = np.nonzero(mask)
    if len(rows):
        assert list(found) == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
    else:
        assert found == NO_BOX


def test_without_pycocotools_the_boxes_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = [np.eye(50, 70, k=shift, dtype=np.uint8) for shift in (-10, 0, 60, 90)]  # the last one has no pixel
    rles = [coco_mask.encode(np.asfortranarray(mask))["counts"] for mask in drawn]
    fast = tight_boxes(rles, 50, 70)
    monkeypatch.setattr(boxes, "_coco", None)

    assert tight_boxes(rles, 50, 70) == fast
    assert fast[-1] == NO_BOX
    assert tight_boxes([], 50, 70) == []
