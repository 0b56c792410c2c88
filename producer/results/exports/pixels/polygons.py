"""Traces masks as polygons. Knows pixels and numbers, but no files. Imports little, as helper processes import it.

A format that has one polygon for an instance gets one line for all of its parts and holes: the outline of each other
part or hole is joined to the rest by a way there and back, which has no area.
"""

import json
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from producer.results.exports.pixels.joining import Points, joined

CLOSE = 0.99  # IoU of a polygon with few points and its mask
FEW_POINTS_EPSILON = 1.0  # pixels that a polygon with few points may be away from the outline


def outlines(height: int, width: int, rle: bytes) -> tuple[list[Points], list[int]]:
    """The outlines of a mask's parts and holes, and for each the number of the part that it is a hole of, or -1.

    `rle` are compressed COCO RLE counts. Points are the outermost pixels of the mask, as OpenCV's `findContours` gives
    them.
    """
    mask = np.ascontiguousarray(coco_mask.decode({"size": [height, width], "counts": rle}))
    found, hierarchy = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if not found:
        return [], []
    return [np.asarray(one[:, 0], np.int32) for one in found], [int(of) for *_, of in hierarchy.reshape(-1, 4)]


def one_polygon(height: int, width: int, rle: bytes) -> Points:
    """One polygon around a mask with all its parts and holes, of at least three points; none for an empty mask.

    It has few points if its pixels, filled by OpenCV's `fillPoly`, still have an IoU of `CLOSE` with the mask.
    """
    exact, _ = outlines(height, width, rle)
    return _of_three(_few_or_exact(exact)) if exact else np.empty((0, 2), np.int32)


def yolo_label(height: int, width: int, instances: Sequence[tuple[int, bytes]]) -> bytes:
    """The lines of a YOLO segmentation label: the number of the class and a polygon, from 0 to 1, for each instance.

    A point lies a quarter of a pixel into its pixel. So both readers that round after they have multiplied by the size,
    as supervision does, and readers that cut decimals off, as Ultralytics does, find this pixel. Source: https://docs.ultralytics.com/datasets/segment/.
    """
    lines = []
    for number, rle in instances:
        points = (one_polygon(height, width, rle) + 0.25) / (width, height)
        if len(points):
            lines.append(f"{number} " + " ".join(f"{value:.6f}" for value in points.ravel().tolist()) + "\n")
    return "".join(lines).encode()


def _few_or_exact(exact: Sequence[Points]) -> Points:
    """One line along outlines, with few points if that is close enough."""
    few = [np.asarray(cv2.approxPolyDP(one[:, None], FEW_POINTS_EPSILON, True)[:, 0], np.int32) for one in exact]
    line = joined(few)
    return line if _overlap(line, exact) >= CLOSE else joined(exact)


def _of_three(points: Points) -> Points:
    """The polygon with at least three points, as formats want it: its last point is repeated."""
    return np.concatenate([points, np.repeat(points[-1:], max(0, 3 - len(points)), axis=0)])


def _overlap(polygon: Points, exact: Sequence[Points]) -> float:
    """The IoU of the pixels of a polygon and of exact outlines."""
    everything = np.concatenate(exact)
    corner = everything.min(axis=0)
    across, down = everything.max(axis=0) - corner + 1
    drawn = []
    for lines in ([polygon], exact):
        pixels = np.zeros((down, across), np.uint8)
        cv2.fillPoly(pixels, [line - corner for line in lines], 1)
        drawn.append(pixels > 0)
    one, other = drawn
    return float((one & other).sum() / (one | other).sum())


def labelme_shapes(
    height: int, width: int, found: Sequence[tuple[str, float, bytes]], facts: Mapping[str, object]
) -> bytes:
    """A file of LabelMe with `facts` and a polygon for each part of each instance, with the holes of the part.

    `found` are labels, scores from 0 to 1, and compressed COCO RLE counts. Parts of an instance have one `group_id`.
    Source: `write_label_file` in labelme/_label_file.py.
    """
    shapes = [
        {
            "label": label,
            "points": polygon.tolist(),
            "group_id": number,
            "description": f"score {score:.3f}",
            "shape_type": "polygon",
            "flags": {},
            "mask": None,
        }
        for number, (label, score, rle) in enumerate(found, start=1)
        for polygon in parts(height, width, rle)
    ]
    content = {"version": "5.5.0", "flags": {}, "shapes": shapes, **facts, "imageHeight": height, "imageWidth": width}
    return (json.dumps(content, ensure_ascii=False, indent=2) + "\n").encode()


def parts(height: int, width: int, rle: bytes) -> list[Points]:
    """A polygon of at least three points for each part of a mask; its holes are joined to it."""
    lines, parents = outlines(height, width, rle)
    together = {number: [line] for number, (line, of) in enumerate(zip(lines, parents, strict=True)) if of < 0}
    for line, of in zip(lines, parents, strict=True):
        if of >= 0:
            together[of].append(line)
    return [_of_three(_few_or_exact(lines)) for lines in together.values()]
