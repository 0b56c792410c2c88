"""When images are missing: is their mount lost, were they moved, or are they deleted?"""

import threading
from pathlib import Path

import pytest

from db import claims, corrections
from db.intake import NewRow
from db.outcomes import ImageFailed, Outcome
from db.session import Sessions, read, write
from db.views.run_views import run_view
from tests.db import scenario
from tests.workers import runs
from tests.workers.node.doorbell.conftest import Segmenter, answer
from workers.node.faults import Infrastructure
from workers.node.mount import check_mount
from workers.node.tasks import segment_chunk

# The SQL below is told of on both databases in tests/db, and whole workers in tests/integration.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def test_a_lost_mount_fails_no_image_and_a_deleted_file_only_itself(
    segmenter: Segmenter, sessions: Sessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount = tmp_path / "mount"
    mount.mkdir()
    names = [f"mount/{row.path}" for row in runs.pictures(mount, 6)]
    run_id = runs.load(sessions, tmp_path, [NewRow(name) for name in names], chunk_size=2)
    first, second, third = runs.ring(sessions, run_id)
    answer(runs.message(first))

    mount.rename(tmp_path / "away")
    with pytest.raises(Infrastructure, match=r"was read before and is gone .* is a mount lost\?"):
        segment_chunk(runs.message(second))
    assert scenario.states(sessions, run_id) == ["done"] * 2 + ["pending"] * 4

    (tmp_path / "away").rename(mount)
    for name in names[4:]:
        (tmp_path / name).unlink()
    answer(runs.message(third))
    assert scenario.states(sessions, run_id) == ["done"] * 2 + ["pending"] * 2 + ["failed"] * 2


def test_whoever_deletes_the_images_that_are_done_loses_no_mount(
    segmenter: Segmenter, sessions: Sessions, tmp_path: Path
) -> None:
    names = [row.path for row in runs.pictures(tmp_path, 6)]
    run_id = runs.load(sessions, tmp_path, [NewRow(name) for name in names], chunk_size=2)
    first, second, _ = runs.ring(sessions, run_id)
    answer(runs.message(first))
    for name in names[:4]:
        (tmp_path / name).unlink()
    answer(runs.message(second))
    assert scenario.states(sessions, run_id) == ["done"] * 2 + ["failed"] * 2 + ["pending"] * 2


def test_a_mount_that_hangs_is_lost_too_and_does_not_hang_the_worker(
    segmenter: Segmenter, sessions: Sessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulated: opening the file that was read before never comes back."""
    run_id = runs.load(sessions, tmp_path, runs.pictures(tmp_path, 2), chunk_size=2)
    [first] = runs.ring(sessions, run_id)
    answer(runs.message(first))
    released = threading.Event()
    monkeypatch.setattr("workers.node.mount._lost", lambda *_: released.wait())
    run, late = read(sessions, run_view, run_id), [ImageFailed(3, "timeout", "took too long")]
    assert run is not None
    with pytest.raises(Infrastructure, match=r"was read before and no longer answers: does a mount hang\?"):
        check_mount(sessions, run, (), late, seconds=0.2)
    released.set()


def test_a_mount_that_is_back_when_its_loss_is_noticed_was_lost_too(
    segmenter: Segmenter, sessions: Sessions, tmp_path: Path
) -> None:
    run_id = runs.load(sessions, tmp_path, runs.pictures(tmp_path, 4), chunk_size=2)
    first, second = runs.ring(sessions, run_id)
    answer(runs.message(first))
    run, claim = read(sessions, run_view, run_id), write(sessions, claims.claim, run_id, second.chunk_id, 1)
    assert run is not None
    assert claim is not None
    batch = [ImageFailed(image.id, "missing", "cannot be opened") for image in claim.images]
    with pytest.raises(Infrastructure, match=r"was missing and is there again: was a mount lost\?"):
        check_mount(sessions, run, claim.images, batch, seconds=10)
    write(sessions, claims.release, claim)


@pytest.mark.parametrize("moved", ["folder", "run"])
def test_images_that_are_moved_while_a_batch_is_read_are_not_missing(
    segmenter: Segmenter, sessions: Sessions, tmp_path: Path, moved: str
) -> None:
    """The first two were read, then the folder was renamed, or the run was told that its images are elsewhere."""
    photos = tmp_path / "photos"
    run_id = runs.load(sessions, photos, runs.pictures(photos, 4), chunk_size=4)
    [rung] = runs.ring(sessions, run_id)
    run, claim = read(sessions, run_view, run_id), write(sessions, claims.claim, run_id, rung.chunk_id, 1)
    assert run is not None
    assert claim is not None
    batch: list[Outcome] = [scenario.done(image, 0.9) for image in claim.images[:2]]
    batch += [ImageFailed(image.id, "missing", "cannot be opened") for image in claim.images[2:]]
    for image in claim.images[2:]:
        (photos / image.path).unlink()
    check_mount(sessions, run, claim.images, batch, seconds=10)  # files that are simply missing
    if moved == "folder":
        photos.rename(tmp_path / "elsewhere")
    else:
        write(sessions, corrections.move, run_id, "faces.csv", str(tmp_path / "elsewhere"))
    with pytest.raises(Infrastructure, match=r"is a mount lost|were moved to"):
        check_mount(sessions, run, claim.images, batch, seconds=10)
    write(sessions, claims.release, claim)
