"""Images that are equal byte by byte are computed once in a run with --dedupe, and each keeps results of its own.

On SQLite and on PostgreSQL, by a node in this process; the forward passes are counted.
"""

import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Picture
from sqlalchemy import select

from db import claims
from db.models import Image, Instance, Result
from db.redo import last_chunk_before, redo_slice
from db.session import Sessions, read, reading, write
from tests.db import scenario
from tests.fakes import FakeSegmenter
from tests.workers import runs
from tests.workers.node.conftest import Start, begin, work_off
from workers.node.attempt import outcomes
from workers.node.node import Node

COLOURS = ("white", "black", "grey")
COPIES = 6


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six copies of each of three images: 00.png is white, 01.png black, 02.png grey, 03.png white, and so on."""
    for number in range(COPIES * len(COLOURS)):
        path = tmp_path / f"{number:02}.png"
        if number < len(COLOURS):
            Picture.new("RGB", (20 + number, 30), COLOURS[number]).save(path)
        else:
            shutil.copy(tmp_path / f"{number % len(COLOURS):02}.png", path)
    return tmp_path


@pytest.fixture
def segmenter() -> FakeSegmenter:
    return FakeSegmenter()


@pytest.fixture
def node(start: Start, segmenter: FakeSegmenter) -> Node:
    return start(segmenter, batch_size=2)


def computed(segmenter: FakeSegmenter) -> int:
    """How many images went through the model; its first one was the self-test's."""
    return sum(segmenter.forwards[1:])


def load(sessions: Sessions, folder: Path, name: str = "faces", dedupe: bool = True) -> int:
    """Three chunks of six rows."""
    rows = scenario.rows(*(f"{number:02}.png" for number in range(COPIES * len(COLOURS))))
    return runs.load(sessions, folder, rows, name, chunk_size=6, dedupe=dedupe)


def rows_of(sessions: Sessions, run_id: int) -> dict[int, Any]:
    """All that the run's images have, by row."""
    with reading(sessions) as session:
        found: dict[int, Any] = {}
        columns = (Image.row, Image.state, Image.width, Image.height, Image.file_size, Image.warning)
        for row, *facts in session.execute(select(*columns).where(Image.run_id == run_id)):
            found[row] = [facts]
        ours = select(Image.row).where(Image.run_id == run_id)
        results = ours.join(Result, Result.image_id == Image.id).add_columns(
            Result.presence, Result.instances, Result.capped
        )
        instances = ours.join(Instance, Instance.image_id == Image.id).add_columns(
            Instance.rank, Instance.score, Instance.x2, Instance.y2, Instance.area, Instance.rle
        )
        for statement in (results, instances):
            for row, *rest in session.execute(statement):
                found[row].append(rest)
    return found


def redo(sessions: Sessions, run_id: int, *rows: int) -> None:
    ids = [image.id for image in scenario.images(sessions, run_id) if image.row in rows]
    write(sessions, redo_slice, run_id, ids, read(sessions, last_chunk_before, run_id))


def test_each_content_goes_through_the_model_once_and_each_image_has_the_rows_that_it_had_without(
    node: Node, segmenter: FakeSegmenter, sessions: Sessions, folder: Path
) -> None:
    plain = load(sessions, folder, "plain", dedupe=False)
    work_off(node, sessions, plain)
    before = computed(segmenter)
    run_id = load(sessions, folder)

    work_off(node, sessions, run_id)

    assert computed(segmenter) == before + len(COLOURS)
    assert rows_of(sessions, run_id) == rows_of(sessions, plain)
    chunks, others = (scenario.chunks(sessions, id) for id in (run_id, plain))
    counters = ("state", "images", "segmented", "empty", "instances", "failed")
    assert [[getattr(one, name) for name in counters] for one in chunks] == [
        [getattr(one, name) for name in counters] for one in others
    ]
    assert len({image.content for image in scenario.images(sessions, run_id)}) == len(COLOURS)
    scenario.delete(sessions, run_id)
    assert len(rows_of(sessions, plain)) == COPIES * len(COLOURS)


def test_a_worker_that_was_killed_in_the_middle_leaves_what_it_committed_to_the_next(
    node: Node, segmenter: FakeSegmenter, sessions: Sessions, folder: Path
) -> None:
    plain = load(sessions, folder, "plain", dedupe=False)
    work_off(node, sessions, plain)
    before = computed(segmenter)
    run_id = load(sessions, folder)
    attempt = begin(node, sessions, run_id)
    assert attempt is not None
    with closing(outcomes(attempt)) as batches:  # white and black are committed, grey is computed and lost
        attempt.chunk.commit(next(batches))
        next(batches)
    [held] = scenario.running(sessions)
    scenario.change_chunk(sessions, held.chunk_id, lease_until=1.0)
    [held] = scenario.running(sessions)
    assert write(sessions, claims.take_back, held, crashed=True)

    work_off(node, sessions, run_id)

    assert computed(segmenter) == before + len(COLOURS) + 1
    assert rows_of(sessions, run_id) == rows_of(sessions, plain)


def test_two_nodes_that_compute_the_same_content_at_once_both_commit_it(
    node: Node, segmenter: FakeSegmenter, sessions: Sessions, folder: Path
) -> None:
    plain = load(sessions, folder, "plain", dedupe=False)
    work_off(node, sessions, plain)
    before = computed(segmenter)
    run_id = load(sessions, folder)
    both = [attempt for attempt in (begin(node, sessions, run_id), begin(node, sessions, run_id)) if attempt]
    streams = [list(outcomes(attempt)) for attempt in both]  # before either has committed anything
    for attempt, batches in zip(both, streams, strict=True):
        for batch in batches:
            attempt.chunk.commit(batch)
    assert computed(segmenter) == before + 2 * len(COLOURS)
    work_off(node, sessions, run_id)
    assert computed(segmenter) == before + 2 * len(COLOURS)
    assert rows_of(sessions, run_id) == rows_of(sessions, plain)


def test_a_copy_that_failed_is_retried_without_the_model_and_a_redo_computes_only_what_it_names(
    node: Node, segmenter: FakeSegmenter, sessions: Sessions, folder: Path
) -> None:
    (folder / "09.png").rename(folder / "away")
    run_id = load(sessions, folder)
    work_off(node, sessions, run_id)
    assert scenario.states(sessions, run_id).count("failed") == 1
    (folder / "away").rename(folder / "09.png")

    assert scenario.retry(sessions, run_id) == 1
    work_off(node, sessions, run_id)
    assert computed(segmenter) == len(COLOURS)
    found = rows_of(sessions, run_id)
    assert [found[row][1:] for row in (4, 7, 10, 13)] == [found[1][1:]] * 4

    redo(sessions, run_id, 4)
    work_off(node, sessions, run_id)
    assert computed(segmenter) == len(COLOURS) + 1
    assert rows_of(sessions, run_id) == found

    shutil.copy(folder / "01.png", folder / "03.png")  # a white one becomes black
    redo(sessions, run_id, 4)
    work_off(node, sessions, run_id)
    changed = rows_of(sessions, run_id)
    assert changed[4][1:] == found[2][1:]
    assert {row: facts for row, facts in changed.items() if row != 4} == {
        row: facts for row, facts in found.items() if row != 4
    }
