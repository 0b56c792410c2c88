"""A node cuts large images as the run says, or as a retry said for some of them. On SQLite and on PostgreSQL."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture
from sqlalchemy import select, update

from db.models import Image, Instance, Result
from db.redo import last_chunk_before, redo_slice
from db.runs import RetryFilter
from db.session import Sessions, read, reading, write
from db.values import Redo
from producer.runs.operate import retry
from producer.runs.redo import redo
from tests.db import scenario
from tests.fakes import FakeSegmenter
from tests.workers import runs
from tests.workers.node.conftest import Start, work_off
from workers.inference.shapes.masks import encode
from workers.node.node import Node

SIZE = (150, 100)  # width, height; with tiles of 64 pixels that share 16 there are 1 + 3 x 2 views
VIEWS = 7


@pytest.fixture
def segmenter() -> FakeSegmenter:
    return FakeSegmenter()


@pytest.fixture
def node(start: Start, segmenter: FakeSegmenter) -> Node:
    return start(segmenter, batch_size=4)


@pytest.fixture
def picture(tmp_path: Path) -> bytes:
    """Three images that show the same bright bar; returns its RLE."""
    bar = np.zeros((SIZE[1], SIZE[0]), bool)
    bar[20:40, 30:110] = True
    for number in range(3):
        Picture.fromarray(np.repeat(bar[..., None] * np.uint8(255), 3, axis=2)).save(tmp_path / f"{number}.png")
    return encode(bar)


def load(sessions: Sessions, folder: Path, **frozen: Any) -> int:
    return runs.load(sessions, folder, scenario.rows("0.png", "1.png", "2.png"), **frozen)


def masks(sessions: Sessions) -> list[bytes]:
    with reading(sessions) as session:
        return list(session.execute(select(Instance.rle).order_by(Instance.image_id)).scalars())


def looked_at(segmenter: FakeSegmenter) -> int:
    """How many views went through the model; its first one was the self-test's."""
    return sum(segmenter.forwards[1:])


def test_a_run_with_tiles_looks_at_each_image_and_at_its_tiles(
    node: Node, sessions: Sessions, segmenter: FakeSegmenter, tmp_path: Path, picture: bytes
) -> None:
    work_off(node, sessions, load(sessions, tmp_path, tile="64", overlap=16))
    assert looked_at(segmenter) == 3 * VIEWS
    assert masks(sessions) == [picture] * 3


def test_auto_leaves_images_whole_that_are_not_very_large(
    node: Node, sessions: Sessions, segmenter: FakeSegmenter, tmp_path: Path, picture: bytes
) -> None:
    work_off(node, sessions, load(sessions, tmp_path, tile="auto"))
    assert looked_at(segmenter) == 3
    assert masks(sessions) == [picture] * 3


def test_images_with_a_capped_result_are_computed_again_in_tiles_and_stay_so(
    node: Node, sessions: Sessions, segmenter: FakeSegmenter, tmp_path: Path, picture: bytes
) -> None:
    run_id = load(sessions, tmp_path)
    work_off(node, sessions, run_id)
    second = scenario.images(sessions, run_id)[1].id
    with sessions.begin() as session:
        session.execute(update(Result).where(Result.image_id == second).values(capped=True))
        [chunk] = scenario.chunks(sessions, run_id)
    scenario.change_chunk(sessions, chunk.id, capped=1)
    before = looked_at(segmenter)

    assert redo(sessions, run_id, Redo.CAPPED, tiling="64/16/0") == 1
    work_off(node, sessions, run_id)

    assert looked_at(segmenter) == before + VIEWS
    assert masks(sessions) == [picture] * 3
    assert redo(sessions, run_id, Redo.CAPPED) == 0

    # Computed again for another reason, it is cut in the same way, and the others are not cut.
    ids = [image.id for image in scenario.images(sessions, run_id)]
    write(sessions, redo_slice, run_id, ids, read(sessions, last_chunk_before, run_id))
    work_off(node, sessions, run_id)
    assert looked_at(segmenter) == before + VIEWS + VIEWS + 2


def test_failed_images_may_be_tried_again_in_tiles(
    node: Node, sessions: Sessions, segmenter: FakeSegmenter, tmp_path: Path, picture: bytes
) -> None:
    run_id = load(sessions, tmp_path)
    whole = (tmp_path / "2.png").read_bytes()
    (tmp_path / "2.png").write_bytes(whole[:100])
    work_off(node, sessions, run_id)
    (tmp_path / "2.png").write_bytes(whole)

    assert retry(sessions, run_id, RetryFilter(tiling="64/16/0")) == 1
    work_off(node, sessions, run_id)

    assert looked_at(segmenter) == 2 + VIEWS
    with reading(sessions) as session:
        assert list(session.execute(select(Image.tiling).order_by(Image.row)).scalars()) == [None, None, "64/16/0"]
    assert masks(sessions) == [picture] * 3


def test_equal_files_that_are_cut_in_different_ways_are_not_taken_for_each_other(
    node: Node, sessions: Sessions, segmenter: FakeSegmenter, tmp_path: Path, picture: bytes
) -> None:
    run_id = load(sessions, tmp_path, dedupe=True)
    with sessions.begin() as session:
        session.execute(update(Image).where(Image.row == 2).values(tiling="64/16/0"))
    work_off(node, sessions, run_id)
    assert looked_at(segmenter) == 1 + VIEWS
    assert masks(sessions) == [picture] * 3
