"""Describes instances as COCO does, for all formats that list single instances. Knows no file and no SQL."""

from typing import Any

from db.values import ClassResult, FoundInstance
from db.views.results import ExportedImage
from producer.results.boxes import NO_BOX, Box, tight_boxes
from producer.results.common import ExportRequest, found_in

Annotation = dict[str, Any]
KEYS = ("bbox", "area", "segmentation", "score", "predicted_box")  # of an annotation, in this order


def annotations(request: ExportRequest, image: ExportedImage) -> list[tuple[ClassResult, Annotation]]:
    """The instances of one image, each with the result that it belongs to.

    `bbox` is the tight box of the mask, and `predicted_box` the box of the model's box head, which may reach beyond the
    image; both are x, y, width, height in pixels. `area` is in pixels, `segmentation` is compressed RLE as pycocotools
    takes it, and `score` is from 0 to 1. Source: https://cocodataset.org/#format-data.
    """
    found = found_in(image)
    boxes = tight_boxes([instance.rle for _, instance in found], image.height or 0, image.width or 0)
    return [(result, _described(image, instance, box)) for (result, instance), box in zip(found, boxes, strict=True)]


def has_pixels(annotation: Annotation) -> bool:
    """Whether the mask of the annotation has any pixel."""
    return bool(annotation["bbox"] != NO_BOX)


def _described(image: ExportedImage, instance: FoundInstance, box: Box) -> Annotation:
    """The fields of an annotation.

    The predicted box is rounded to a thousandth of a pixel, and the score to a millionth, which float32 can still tell
    apart.
    """
    x1, y1, x2, y2 = instance.box
    return {
        "bbox": box,
        "area": instance.area,
        "segmentation": {"size": [image.height, image.width], "counts": instance.rle.decode("ascii")},
        "score": round(instance.score, 6),
        "predicted_box": [round(value, 3) for value in (x1, y1, x2 - x1, y2 - y1)],
    }
