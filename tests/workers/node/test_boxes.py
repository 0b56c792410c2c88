"""A node gives the model the boxes of each image, or declines a run whose boxes its model does not take."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from db.intake import NewRow
from db.models import Run
from db.session import Sessions
from tests.db import scenario
from tests.fakes import FakeSegmenter
from tests.workers import runs
from tests.workers.node.conftest import Start, declined, work_off
from workers.inference.boxes import Box
from workers.inference.protocol import Options, Pixels

BOX, NOT_BOX = Box(1.0, 2.0, 30.5, 20.0, True), Box(3.0, 2.0, 9.0, 20.0, False)


class TakesBoxes(FakeSegmenter):
    """Notes the boxes that it is given, by the width of their image."""

    def __init__(self) -> None:
        super().__init__()
        self.facts = replace(self.facts, takes_boxes=True)
        self.given: dict[int, tuple[Box, ...]] = {}
        self.prompts: set[tuple[str, ...]] = set()

    def predict(self, batch: Sequence[Pixels], prompts: Sequence[tuple[str, ...]], options: Options) -> Any:
        self.given |= {pixels.width: pixels.boxes for pixels in batch}
        self.prompts |= set(prompts)
        return super().predict(batch, prompts, options)


def load(sessions: Sessions, folder: Path, boxes: Sequence[tuple[Box, ...] | None]) -> int:
    """A run of images that are 40, 41, ... pixels wide and 30 high, with these boxes."""
    rows = [
        NewRow(row.path, boxes=of_row) for row, of_row in zip(runs.pictures(folder, len(boxes)), boxes, strict=True)
    ]
    run_id = runs.load(sessions, folder, rows)
    with sessions.begin() as session:
        session.execute(update(Run).where(Run.id == run_id).values(box_column="boxes"))
    return run_id


def test_boxes_reach_the_model_with_their_image_and_a_wrong_one_fails_its_image_alone(
    start: Start, sessions: Sessions, tmp_path: Path
) -> None:
    segmenter = TakesBoxes()
    beyond = BOX._replace(y2=200.0)
    run_id = load(sessions, tmp_path, [(BOX, NOT_BOX), None, (beyond,), (NOT_BOX,)])
    work_off(start(segmenter), sessions, run_id)

    assert {width: segmenter.given.get(width) for width in (40, 41, 42, 43)} == {
        40: (BOX, NOT_BOX),
        41: (),
        42: None,
        43: (NOT_BOX,),
    }
    failed = scenario.images(sessions, run_id)[2]
    assert scenario.states(sessions, run_id) == ["done", "done", "failed", "done"]
    assert (failed.error_class, failed.error) == (
        "bad_box",
        "the box 1, 2, 30.5, 200 reaches beyond the image, which has 42 x 30 pixels as it is segmented",
    )


def test_a_prompt_that_is_added_later_is_asked_with_the_boxes_of_each_row(
    start: Start, sessions: Sessions, tmp_path: Path
) -> None:
    segmenter = TakesBoxes()
    node = start(segmenter)
    run_id = load(sessions, tmp_path, [(BOX, NOT_BOX), None, (NOT_BOX,)])
    work_off(node, sessions, run_id)
    scenario.change_prompts(sessions, run_id, add=["hat"])
    segmenter.given.clear()
    segmenter.prompts.clear()

    work_off(node, sessions, run_id)

    assert segmenter.prompts == {("hat",)}
    assert {width: segmenter.given.get(width) for width in (40, 41, 42)} == {40: (BOX, NOT_BOX), 41: (), 42: (NOT_BOX,)}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_model_that_takes_no_boxes_declines_the_run_before_anything_is_claimed(
    start: Start, sessions: Sessions, tmp_path: Path
) -> None:
    run_id = load(sessions, tmp_path, [(BOX,)])
    node = start(FakeSegmenter())
    declined(node, sessions, run_id)
    assert runs.reported(sessions).message == "its rows have boxes, which fake does not take; a SAM3 does"
    assert runs.view(sessions, run_id).weights_sha256 is None
