"""Masks and preview keep up with what is committed, without holding anything up."""

from pathlib import Path
from typing import Any

import pytest

from db.session import Sessions, reading
from db.views import run_views
from producer.results import follow
from producer.results.choice import Choice
from producer.results.common import ExportRequest, read_images
from producer.results.exports.png import MaskWriter, export_png
from producer.results.files.helpers import Helpers
from producer.results.files.marks import JPEG_COMMENT, JPEG_START
from producer.results.follow import Follower, Trail
from tests.db.scenario import claim, commit, commit_all, done, failed, load, numbered, take_back, work_off
from tests.terminals import wait_until

# pycocotools' compiled decode does not follow numpy 2's protocol yet; the masks are right.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def new_rows(trail: Trail) -> list[int]:
    return [row for rows in trail.new_rows() for row in rows]


def test_every_image_is_told_once_soon_after_it_is_done(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(14), chunk_size=4)
    trail = Trail(sessions, run_id)
    assert new_rows(trail) == []

    first, second = claim(sessions, run_id), claim(sessions, run_id)
    commit(sessions, second, [done(image) for image in second.images[1:3]])
    assert new_rows(trail) == [6, 7], "nothing found is done too"
    assert new_rows(trail) == []
    commit(sessions, first, [done(first.images[0], 0.9), failed(first.images[1])])
    commit(sessions, second, [done(second.images[0], 0.9)])
    assert sorted(new_rows(trail)) == [1, 5]

    take_back(sessions, first)
    take_back(sessions, second)
    told = new_rows(trail)
    work_off(sessions, run_id, 0.9)
    assert sorted(told + new_rows(trail)) == [3, 4, *range(8, 15)]
    assert new_rows(trail) == []


def test_only_so_many_chunks_are_watched_and_no_image_is_missed(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "OPEN_CHUNKS", 2)
    run_id = load(sessions, numbered(20), chunk_size=2)
    trail = Trail(sessions, run_id)
    assert new_rows(trail) == []
    first = claim(sessions, run_id)  # and is kept for long
    for _ in range(3):
        commit_all(sessions, claim(sessions, run_id), 0.9)
    assert new_rows(trail) == list(range(3, 9))
    assert len(trail.watched) <= 2
    commit_all(sessions, first, 0.9)
    work_off(sessions, run_id, 0.9)
    assert sorted(new_rows(trail)) == [1, 2, *range(9, 21)]
    assert not trail.watched


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def request_of(sessions: Sessions, tmp_path: Path) -> Any:
    def make(run_id: int) -> ExportRequest:
        with reading(sessions) as session:
            view = run_views.run_view(session, run_id)
        assert view is not None
        return ExportRequest(view, Choice(view.frozen.threshold), tmp_path / "masks")

    return make


def masks(request: ExportRequest) -> list[str]:
    return sorted(path.name for path in request.out.rglob("*.png"))


def exported(sessions: Sessions, request: ExportRequest) -> tuple[int, int]:
    """How many masks a whole export has to write after the following, and how many it keeps."""
    summary = export_png(request, read_images(sessions, request), lambda count: None)
    return summary.files - summary.kept, summary.kept


def test_masks_are_written_while_the_run_goes_on_and_not_again_at_its_end(
    sessions: Sessions, tmp_path: Path, request_of: Any, said: list[str]
) -> None:
    run_id = load(sessions, numbered(12))
    request = request_of(run_id)
    with Follower(sessions, request, tmp_path / "preview.jpg", said.append):
        held = claim(sessions, run_id)
        commit(sessions, held, [done(held.images[0], 0.9), done(held.images[1]), failed(held.images[2])])
        wait_until(lambda: masks(request) == ["000001.jpg.png"], "the mask of the first commit")
        commit(sessions, held, [done(held.images[3], 0.9)])
        commit_all(sessions, claim(sessions, run_id), 0.9)
        wait_until(lambda: len(masks(request)) == 6, "the masks of two chunks")
    work_off(sessions, run_id, 0.9)
    assert len(masks(request)) == 6, "nobody follows any more"
    assert exported(sessions, request) == (4, 6)
    assert said == []


def test_no_transaction_is_open_while_files_are_written(
    sessions: Sessions, tmp_path: Path, request_of: Any, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = load(sessions, numbered(8))
    work_off(sessions, run_id, 0.9)
    open_ones = []
    add, call = MaskWriter.add, Helpers.call

    def noted(work: Any) -> Any:
        def note(*given: Any) -> Any:
            open_ones.append(sessions.kw["bind"].pool.checkedout())
            return work(*given)

        return note

    monkeypatch.setattr(MaskWriter, "add", noted(add))
    monkeypatch.setattr(Helpers, "call", noted(call))
    monkeypatch.setattr(follow, "FIRST_PREVIEW", 8)
    follower = Follower(sessions, request_of(run_id), tmp_path / "preview.jpg", said.append)
    follower.look()
    follower.close()
    assert open_ones == [0] * 9
    assert (tmp_path / "preview.jpg").exists()


def test_the_preview_comes_early_and_is_drawn_again_when_there_is_twice_as_much(
    sessions: Sessions, tmp_path: Path, request_of: Any, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = load(sessions, numbered(100), chunk_size=2)
    drawn = []

    def sheet(self: object, function: object, view: object, tiles: list[object]) -> bytes:
        drawn.append(len(tiles))
        return JPEG_START + JPEG_COMMENT

    monkeypatch.setattr(Helpers, "call", sheet)
    monkeypatch.setattr("producer.results.files.folder_writer.FEW", 1000)
    follower = Follower(sessions, request_of(run_id), tmp_path / "preview.jpg", said.append)
    for _ in range(50):
        commit_all(sessions, claim(sessions, run_id), 0.9)
        follower.look()
    follower.close()
    assert drawn == [10, 20, 25, 25]
    assert (tmp_path / "preview.jpg").read_bytes() == JPEG_START + JPEG_COMMENT


def test_what_goes_wrong_is_told_once_and_disturbs_nobody(
    sessions: Sessions, tmp_path: Path, request_of: Any, said: list[str]
) -> None:
    run_id = load(sessions, numbered(8))
    request = request_of(run_id)
    (request.out / "person" / "000001.jpg.png").mkdir(parents=True)
    with Follower(sessions, request, tmp_path / "preview.jpg", said.append):
        commit_all(sessions, claim(sessions, run_id), 0.9)
        wait_until(lambda: said, "a word on the folder in the way")
        work_off(sessions, run_id, 0.9)
    [line] = said
    assert line.startswith(f"masks and preview wait until the run is over: {request.out}/person/000001.jpg.png is a f")
