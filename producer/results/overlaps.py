"""Leaves out instances that others overlap (non-maximum suppression). Knows masks as COCO RLE and boxes; no classes.

Overlaps of masks are those of pycocotools, and of boxes those of torchvision: tests compare the figures.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from db.values import FoundInstance

Numbers = npt.NDArray[np.float64]


def not_overlapped(
    found: Sequence[FoundInstance],
    size: tuple[int, int],
    *,
    nms: float | None,
    contain: float | None,
    boxes: bool = False,
) -> list[int]:
    """Which of these instances, which are in the order of falling scores, stay; by index, in this order.

    The instance with the highest score stays. Another one is left out if its IoU (intersection over union) with one
    that stays is more than `nms`, or if the intersection is at least the share `contain` of the smaller of the two. So
    of two instances of which one contains the other, the one with the higher score stays. `size` is (height, width) of
    the masks; with `boxes` the boxes that the model predicted are compared instead.
    """
    if len(found) < 2:
        return list(range(len(found)))
    iou, of_smaller = _of_boxes(found) if boxes else _of_masks(found, size)
    hides = iou > (np.inf if nms is None else nms)
    if contain is not None:
        hides |= of_smaller >= contain
    hidden = np.zeros(len(found), bool)
    stay: list[int] = []
    for one in range(len(found)):
        if not hidden[one]:
            stay.append(one)
            hidden |= hides[one]
    return stay


def _of_masks(found: Sequence[FoundInstance], size: tuple[int, int]) -> tuple[Numbers, Numbers]:
    """For each two instances: the IoU of their masks, and the share of the smaller one that lies in both.

    The IoU is that of pycocotools; pixels are whole, so that the intersection follows from it and from the areas.
    """
    masks = [{"size": list(size), "counts": instance.rle} for instance in found]
    iou: Numbers = coco_mask.iou(masks, masks, [0] * len(masks))
    areas = np.array([instance.area for instance in found], np.float64)
    both = np.rint(iou * np.add.outer(areas, areas) / (1 + iou))
    return iou, _shares(both, areas)


def _of_boxes(found: Sequence[FoundInstance]) -> tuple[Numbers, Numbers]:
    """For each two instances: the IoU of their boxes, and the share of the smaller box that lies in both.

    Source: `nms_kernel_impl` in https://github.com/pytorch/vision/blob/main/torchvision/csrc/ops/cpu/nms_kernel.cpp.
    """
    boxes = np.array([instance.box for instance in found])
    least, most = boxes[:, None, :2], boxes[:, None, 2:]
    across = np.maximum(np.minimum(most, most.swapaxes(0, 1)) - np.maximum(least, least.swapaxes(0, 1)), 0)
    both = across[..., 0] * across[..., 1]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    with np.errstate(invalid="ignore"):
        return both / (np.add.outer(areas, areas) - both), _shares(both, areas)


def _shares(both: Numbers, areas: Numbers) -> Numbers:
    with np.errstate(invalid="ignore"):  # an instance without an area overlaps none
        shares: Numbers = both / np.minimum.outer(areas, areas)
    return shares
