"""When ours is near enough to the library, with answers that are made up."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.gpu import parity
from workers.inference.answers import Found, Instance
from workers.inference.items import Segmented
from workers.inference.shapes import masks

ROW = {"least IoU": 1.0, "mean IoU": 1.0, "largest difference of a score": 0.0}
ROW["median difference of a box, px of 1920"] = 0.0
ROW[parity.SIDE] = parity.FULL_SIDE


@pytest.mark.parametrize(
    ("precision", "name", "value", "near"),
    [
        ("fp32", "least IoU", 0.99, False),
        ("mixed", "least IoU", 0.8, True),
        ("mixed", "mean IoU", 0.8, False),
        ("mixed", "largest difference of a score", 0.011, False),
        ("mixed", "median difference of a box, px of 1920", 1.1, False),
    ],
)
def test_fp32_is_judged_by_its_worst_mask_and_lower_precision_by_the_mean(
    precision: str, name: str, value: float, near: bool
) -> None:
    assert parity.holds(ROW, precision)
    assert parity.holds(ROW | {name: value}, precision) is near


def test_a_pixel_is_a_smaller_part_of_what_a_smaller_model_sees() -> None:
    far = ROW | {"median difference of a box, px of 1920": 1.1}
    assert not parity.holds(far, "mixed")
    assert parity.holds(far | {parity.SIDE: parity.FULL_SIDE / 2}, "mixed")


def test_an_instance_is_compared_with_the_one_of_the_nearest_box_unless_its_mask_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "picture.png"
    Image.new("RGB", (8, 8)).save(path)
    empty, left = np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8)
    left[:, :4] = 1
    drawn = [
        (0.9, (0.0, 0.0, 4.0, 8.0), left),
        (0.8, (4.0, 0.0, 8.0, 8.0), empty),
        (0.7, (4.0, 0.0, 8.0, 8.0), 1 - left),
    ]
    instances = tuple(
        Instance(score, box, int(mask.sum()), masks.encode(mask)) for score, box, mask in drawn if mask.any()
    )
    ours = Segmented(0, 8, 8, (Found(1.0, instances, capped=False),))

    scores, boxes, shown = zip(*drawn, strict=True)
    theirs = {"scores": torch.tensor(scores), "boxes": torch.tensor(boxes), "masks": torch.from_numpy(np.stack(shown))}
    monkeypatch.setattr(parity, "plain_loop", lambda *_: [theirs])
    matches = parity._matches(ours, str(path), None, None)
    assert [match.iou for match in matches] == [1.0, 1.0]
    assert max(max(match.score, match.box) for match in matches) < 1e-6
