"""The bundled model on a picture that is much larger than what it was trained on, with very many objects."""

from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from workers.inference.items import Item, Segmented
from workers.inference.models.sam3_model import Sam3Segmenter
from workers.inference.protocol import Options
from workers.inference.reading.images import ReadRules
from workers.inference.shapes import masks
from workers.inference.shapes.spans import Spans
from workers.inference.stream.pipeline import Pace, segment
from workers.inference.tiles import Tiling
from workers.tiny.files import CHECKPOINT
from workers.tiny.scenes import Crowd, draw_crowd

SIDE, COLUMNS = 2048, 10  # pixels, and so many objects squared: three times as many as the model answers an image

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def crowd() -> Crowd:
    return draw_crowd(seed=5, side=SIDE, columns=COLUMNS)


@pytest.fixture(scope="module")
def picture(crowd: Crowd, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("crowd") / "crowd.png"
    Image.fromarray(crowd.image).save(path, compress_level=1)
    return str(path)


@pytest.fixture(scope="module")
def model() -> Sam3Segmenter:
    return Sam3Segmenter(CHECKPOINT, model_name="tiny")


def truth(crowd: Crowd) -> COCO:
    """The drawn objects as the ground truth of COCOeval."""
    drawn = []
    for number, member in enumerate(crowd.members, 1):
        height, width = member.mask.shape
        place = (member.x, member.y, member.x + width, member.y + height)
        rle = Spans.of(masks.encode(member.mask), place, SIDE).rle(SIDE)
        shape = {"size": [SIDE, SIDE], "counts": rle.decode()}
        drawn.append({"id": number, "image_id": 1, "category_id": 1, "iscrowd": 0} | as_coco(shape, member.mask))
    coco = COCO()
    images, categories = [{"id": 1, "width": SIDE, "height": SIDE}], [{"id": 1, "name": "shape"}]
    coco.dataset = {"info": {}, "images": images, "categories": categories, "annotations": drawn}
    coco.createIndex()
    return coco


def as_coco(shape: dict[str, Any], mask: masks.Mask) -> dict[str, object]:
    return {"segmentation": shape, "area": int(np.count_nonzero(mask)), "bbox": [0, 0, *mask.shape]}


def found(picture: str, model: Sam3Segmenter, tiling: Tiling | None) -> Segmented:
    items = [Item(1, picture, ("shape",), tiling)]
    [[outcome]] = segment(items, model, ReadRules(), Options(score_floor=0.05), Pace(threads=2))
    assert isinstance(outcome, Segmented)
    return outcome


def average_recall(truth: COCO, outcome: Segmented) -> float:
    """AR@1000 of masks: the recall with up to 1,000 masks of the image, averaged over IoU from 0.5 to 0.95."""
    results = [
        {"image_id": 1, "category_id": 1, "score": one.score}
        | {"segmentation": {"size": [SIDE, SIDE], "counts": one.rle.decode()}}
        for one in outcome.found[0].instances
    ]
    judge = COCOeval(truth, truth.loadRes(results), "segm")
    judge.params.maxDets = [1, 100, 1000]
    judge.evaluate()
    judge.accumulate()
    return float(judge.eval["recall"][:, 0, 0, -1].mean())


def test_tiles_find_a_hundred_small_objects_of_which_the_whole_picture_shows_none(
    crowd: Crowd, picture: str, model: Sam3Segmenter
) -> None:
    drawn = truth(crowd)
    assert len(crowd.members) == 100
    in_tiles = found(picture, model, Tiling(360, 180))
    assert (in_tiles.width, in_tiles.height) == (SIDE, SIDE)
    assert average_recall(drawn, in_tiles) >= 0.9
    assert 95 <= sum(one.score >= 0.5 for one in in_tiles.found[0].instances) <= 105  # and hardly any twice
    assert average_recall(drawn, found(picture, model, None)) < 0.1
