"""Leaves out instances that others overlap (non-maximum suppression). Knows masks as COCO RLE and boxes; no classes.

Overlaps of masks are those of pycocotools, and of boxes those of torchvision: tests compare the figures.
"""

from collections.abc import Callable, Sequence

from db.values import FoundInstance

Overlaps = Callable[[int, int], tuple[float, float]]  # of two instances by index: IoU, and share of the smaller one
NOTHING = 0.0, 0.0


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
    overlaps = _of_boxes(found) if boxes else _of_masks(found, size, contained=contain is not None)
    most, share = (2.0 if nms is None else nms), (2.0 if contain is None else contain)  # no overlap is 2
    stay: list[int] = []
    for one in range(len(found)):
        for other in stay:
            iou, of_smaller = overlaps(one, other)
            if iou > most or of_smaller >= share:
                break
        else:
            stay.append(one)
    return stay


def _of_masks(found: Sequence[FoundInstance], size: tuple[int, int], *, contained: bool) -> Overlaps:
    """Source: `rleIou` in https://github.com/cocodataset/cocoapi/blob/master/common/maskApi.c. For a crowd it gives the
    share of the first mask that lies in the second one."""
    from pycocotools import mask as coco_mask  # in the extras `export` and `worker` only

    masks = [{"size": list(size), "counts": instance.rle} for instance in found]
    ious = coco_mask.iou(masks, masks, [0] * len(masks)).tolist()
    if not contained:
        return lambda one, other: (ious[one][other], 0.0)
    shares = coco_mask.iou(masks, masks, [1] * len(masks)).tolist()
    return lambda one, other: (ious[one][other], max(shares[one][other], shares[other][one]))


def _of_boxes(found: Sequence[FoundInstance]) -> Overlaps:
    """Source: `nms_kernel_impl` in https://github.com/pytorch/vision/blob/main/torchvision/csrc/ops/cpu/nms_kernel.cpp."""
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (instance.box for instance in found)]

    def overlaps(one: int, other: int) -> tuple[float, float]:
        (a1, b1, a2, b2), (c1, d1, c2, d2) = found[one].box, found[other].box
        across, down = min(a2, c2) - max(a1, c1), min(b2, d2) - max(b1, d1)
        if across <= 0 or down <= 0:
            return NOTHING
        both = across * down
        return both / (areas[one] + areas[other] - both), both / min(areas[one], areas[other])

    return overlaps
