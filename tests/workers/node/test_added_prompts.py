"""A node computes of images of a done run only the prompts that were added. On SQLite and on PostgreSQL."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image as Picture
from sqlalchemy import select

from db.intake import NewRow
from db.models import Result
from db.session import Sessions, read, reading
from db.views import status
from tests.db import scenario
from tests.fakes import FakeSegmenter
from tests.workers import runs
from tests.workers.node.conftest import Start, begin, work_off
from workers.inference.protocol import Options, Pixels
from workers.node.node import Node
from workers.node.refusals import Declined

COUNT = 3


class Asked(FakeSegmenter):
    """Notes the prompts that it is asked for, image by image."""

    def __init__(self) -> None:
        super().__init__()
        self.prompts: list[tuple[str, ...]] = []

    def predict(
        self, batch: Sequence[Pixels], prompts: Sequence[tuple[str, ...]], options: Options
    ) -> list[tuple[Pixels, tuple[str, ...]]]:
        self.prompts += prompts
        return super().predict(batch, prompts, options)


@pytest.fixture
def segmenter() -> Asked:
    return Asked()


@pytest.fixture
def node(start: Start, segmenter: Asked) -> Node:
    return start(segmenter, batch_size=2)


def done_run(node: Node, sessions: Sessions, folder: Path) -> int:
    run_id = runs.load(sessions, folder, runs.pictures(folder, COUNT))
    work_off(node, sessions, run_id)
    node.model.segmenter_for(runs.view(sessions, run_id)).prompts.clear()  # type: ignore[attr-defined]
    return run_id


def results(sessions: Sessions) -> list[tuple[int, ...]]:
    """Image, prompt and fence of each."""
    with reading(sessions) as session:
        columns = (Result.image_id, Result.prompt_id, Result.fence)
        return [tuple(row) for row in session.execute(select(*columns).order_by(*columns[:2]))]


def test_only_the_added_prompt_is_asked(node: Node, sessions: Sessions, segmenter: Asked, tmp_path: Path) -> None:
    run_id = done_run(node, sessions, tmp_path)
    scenario.change_prompts(sessions, run_id, add=["hat"])

    work_off(node, sessions, run_id)

    assert segmenter.prompts == [("hat",)] * COUNT
    assert len(results(sessions)) == 2 * COUNT
    assert scenario.run(sessions, run_id).state == "done"


def test_of_a_file_that_has_changed_all_prompts_are_asked(
    node: Node, sessions: Sessions, segmenter: Asked, tmp_path: Path
) -> None:
    run_id = done_run(node, sessions, tmp_path)
    scenario.change_prompts(sessions, run_id, add=["hat"])
    Picture.new("RGB", (90, 80), "white").save(tmp_path / "0001.png")

    work_off(node, sessions, run_id)

    assert segmenter.prompts == [("hat",), ("person", "hat"), ("hat",)]
    assert [image.width for image in scenario.images(sessions, run_id)] == [40, 90, 42]
    assert not any(image.adds for image in scenario.images(sessions, run_id))


def test_an_image_whose_file_is_gone_keeps_what_it_has(node: Node, sessions: Sessions, tmp_path: Path) -> None:
    run_id = done_run(node, sessions, tmp_path)
    before = results(sessions)
    scenario.change_prompts(sessions, run_id, add=["hat"])
    (tmp_path / "0001.png").unlink()

    work_off(node, sessions, run_id)

    now = read(sessions, status.progress, run_id)
    assert (now.state, now.images.segmented, now.images.failed, now.incomplete) == ("done", COUNT, 0, 1)
    assert len(results(sessions)) == 2 * COUNT - 1
    assert set(before) <= set(results(sessions))


def test_images_without_a_prompt_left_are_done_as_they_are_and_not_read(
    node: Node, sessions: Sessions, segmenter: Asked, tmp_path: Path
) -> None:
    run_id = done_run(node, sessions, tmp_path)
    before = results(sessions)
    scenario.change_prompts(sessions, run_id, add=["hat"])
    scenario.change_prompts(sessions, run_id, drop=["hat"])
    shutil.rmtree(tmp_path)

    work_off(node, sessions, run_id)

    assert segmenter.prompts == []
    assert results(sessions) == before
    now = read(sessions, status.progress, run_id)
    assert (now.state, now.images.segmented, now.incomplete) == ("done", COUNT, 0)


def test_a_run_goes_on_when_an_added_prompt_that_the_model_refuses_is_dropped(
    node: Node, sessions: Sessions, tmp_path: Path
) -> None:
    run_id = done_run(node, sessions, tmp_path)
    too_long = " ".join(["hat"] * 40)
    scenario.change_prompts(sessions, run_id, add=[too_long])
    with pytest.raises(Declined, match="too many words"):
        begin(node, sessions, run_id)

    scenario.change_prompts(sessions, run_id, add=["hat"], drop=[too_long])
    [chunk] = [chunk for chunk in scenario.chunks(sessions, run_id) if chunk.state == "queued"]
    scenario.change_chunk(sessions, chunk.id, state="pending")
    work_off(node, sessions, run_id)

    assert scenario.run(sessions, run_id).state == "done"
    assert len(results(sessions)) == 2 * COUNT


def test_copies_are_computed_once_for_the_added_prompt(
    node: Node, sessions: Sessions, segmenter: Asked, tmp_path: Path
) -> None:
    run_id = run_of_copies(node, sessions, tmp_path, NewRow("b.png"))
    segmenter.prompts.clear()
    scenario.change_prompts(sessions, run_id, add=["hat"])

    work_off(node, sessions, run_id)

    assert segmenter.prompts == [("hat",)]
    assert len(results(sessions)) == 4


def test_a_copy_with_a_result_for_the_same_text_and_another_class_is_none(
    node: Node, sessions: Sessions, segmenter: Asked, tmp_path: Path
) -> None:
    run_id = run_of_copies(node, sessions, tmp_path, NewRow("b.png", prompts=("person",)))
    segmenter.prompts.clear()
    scenario.change_prompts(sessions, run_id, add=["person=people"])

    work_off(node, sessions, run_id)

    assert segmenter.prompts == [("person",)]
    assert len(results(sessions)) == 3


def run_of_copies(node: Node, sessions: Sessions, folder: Path, second: NewRow) -> int:
    Picture.new("RGB", (30, 20), "white").save(folder / "a.png")
    shutil.copy(folder / "a.png", folder / "b.png")
    run_id = runs.load(sessions, folder, [NewRow("a.png"), second], dedupe=True)
    work_off(node, sessions, run_id)
    return run_id
