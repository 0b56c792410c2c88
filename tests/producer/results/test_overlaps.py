"""Non-maximum suppression gives the figures of torchvision and of pycocotools."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torchvision.ops import nms

from db.values import FoundInstance
from producer.results.overlaps import not_overlapped
from tests.producer.results.finished import ellipse
from workers.inference.shapes.rle import Mask, decode

SIZE = (48, 64)


def found(seed: int, count: int = 60) -> list[FoundInstance]:
    """Random ellipses with boxes of their own, highest score first."""
    random = np.random.default_rng(seed)
    instances = []
    for _ in range(count):
        centre, radii = random.uniform((0, 0), (64, 48)), random.uniform(2, 20, 2)
        rle = coco_mask.encode(np.asfortranarray(ellipse((64, 48), tuple(centre), tuple(radii))))
        x, y = random.uniform((0, 0), (50, 40))
        across, down = random.uniform(1, 30, 2)
        box = (float(x), float(y), float(x + across), float(y + down))
        score = float(random.uniform(0.3, 1))
        instances.append(FoundInstance(score, box, int(coco_mask.area(rle)), rle["counts"]))
    return sorted(instances, key=lambda one: -one.score)


@pytest.mark.parametrize("iou", [0.1, 0.5, 0.7])
def test_boxes_stay_that_torchvision_keeps(iou: float) -> None:
    left_out = 0
    for seed in range(20):
        instances = found(seed)
        boxes = torch.tensor([one.box for one in instances], dtype=torch.float64)
        scores = torch.tensor([one.score for one in instances], dtype=torch.float64)

        stay = not_overlapped(instances, SIZE, nms=iou, contain=None, boxes=True)

        assert stay == nms(boxes, scores, iou).tolist()
        left_out += len(instances) - len(stay)
    assert left_out > 0


@pytest.mark.parametrize("iou", [0.1, 0.5, 0.7])
def test_masks_stay_whose_iou_by_their_pixels_is_low(iou: float) -> None:
    for seed in range(10):
        instances = found(seed)
        masks = [decoded(one) for one in instances]
        expected: list[int] = []
        for one, mask in enumerate(masks):
            if all((mask & masks[n]).sum() <= iou * (mask | masks[n]).sum() for n in expected):
                expected.append(one)

        assert not_overlapped(instances, SIZE, nms=iou, contain=None) == expected
        assert len(expected) < len(instances)


@pytest.mark.parametrize("share", [0.5, 0.9, 1.0])
def test_of_two_masks_of_which_one_contains_the_other_the_better_one_stays(share: float) -> None:
    for seed in range(10):
        instances = found(seed)
        masks = [decoded(one) for one in instances]
        expected: list[int] = []
        for one, mask in enumerate(masks):
            smaller = [min(mask.sum(), masks[n].sum()) for n in expected]
            if all((mask & masks[n]).sum() < share * least for n, least in zip(expected, smaller, strict=True)):
                expected.append(one)

        assert not_overlapped(instances, SIZE, nms=None, contain=share) == expected
        assert len(expected) < len(instances)


def test_a_box_or_a_mask_without_an_area_stays_and_hides_nothing() -> None:
    empty = coco_mask.encode(np.zeros(SIZE, np.uint8, order="F"))["counts"]
    instances = [FoundInstance(score, (5.0, 5.0, 5.0, 5.0), 0, empty) for score in (0.9, 0.8)]

    for boxes in (True, False):
        assert not_overlapped(instances, SIZE, nms=0.5, contain=0.5, boxes=boxes) == [0, 1]


def decoded(instance: FoundInstance) -> Mask:
    return decode(instance.rle, *SIZE)
