"""Which images changed since they were read, and computing them again: with real files, on SQLite and on PostgreSQL."""

import os
import threading
from collections.abc import Callable
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import select

from db.models import Image
from db.runs import cancel_run
from db.session import Sessions, write
from db.values import Redo
from producer.runs import redo as redoing
from producer.runs.load import record
from producer.runs.operate import cancel
from producer.runs.redo import Changes, look_for_changes, redo
from producer.runs.request import RunRequest
from producer.sources import looking
from producer.sources.text.csv_source import CsvSource
from tests.db import scenario
from tests.db.scenario import claim, commit, done, failed
from tests.terminals import PATIENCE
from workers.errors import UsageError
from workers.places import location
from workers.places.location import FileSeen


class Killed(Exception):
    """Stands for kill -9: nobody catches it."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(8):
        (tmp_path / f"{number}.jpg").write_bytes(b"a picture")
    (tmp_path / "faces.csv").write_text("path\n" + "".join(f"{number}.jpg\n" for number in range(8)))
    return tmp_path


@pytest.fixture
def run_id(sessions: Sessions, folder: Path) -> int:
    """Eight images: seven are done, the last could not be decoded."""
    request = RunRequest("faces", ("person",), scenario.FROZEN, chunk_size=4)
    run_id = record(sessions, CsvSource(folder / "faces.csv"), request, lambda done, total: None).run_id
    while (held := scenario.try_claim(sessions, run_id)) is not None:
        commit(sessions, held, [failed(one) if one.row == 8 else done(one, 0.9) for one in held.images])
    note_files(sessions, run_id, folder)
    return run_id


def note_files(sessions: Sessions, run_id: int, folder: Path) -> None:
    """What the reader notes of each file."""
    with sessions.begin() as session:
        for image in session.execute(select(Image).where(Image.run_id == run_id)).scalars():
            seen = os.stat(folder / image.path)
            image.file_size, image.file_mtime_ns = seen.st_size, seen.st_mtime_ns


def replace(picture: Path, content: bytes = b"another picture", *, later_ns: int = 0) -> None:
    before = picture.stat()
    picture.write_bytes(content)
    os.utime(picture, ns=(before.st_atime_ns, before.st_mtime_ns + later_ns))


def pending(sessions: Sessions, run_id: int) -> list[str]:
    return [image.path for image in scenario.images(sessions, run_id) if image.state == "pending"]


def test_a_look_counts_what_changed_and_what_is_gone_apart(sessions: Sessions, run_id: int, folder: Path) -> None:
    assert look_for_changes(sessions, run_id) == Changes(0, 0, 8, 8)
    assert look_for_changes(sessions, run_id).lines() == []

    replace(folder / "2.jpg")  # another size, the same time
    replace(folder / "7.jpg", b"a PICTURE", later_ns=1)  # the same size; it had failed
    (folder / "4.jpg").unlink()

    changes = look_for_changes(sessions, run_id)
    assert (changes.changed, changes.missing, changes.looked) == (2, 1, 8)
    assert changes.lines() == [
        "2 images changed since they were read: --redo changed computes them again",
        "1 image read before, but gone from disk now",
    ]


def test_what_changed_is_computed_again_and_then_is_as_it_was_read(
    sessions: Sessions, run_id: int, folder: Path
) -> None:
    replace(folder / "2.jpg")
    replace(folder / "7.jpg")
    (folder / "4.jpg").unlink()

    assert redo(sessions, run_id, Redo.CHANGED) == 2
    assert pending(sessions, run_id) == ["2.jpg", "7.jpg"]
    assert redo(sessions, run_id, Redo.CHANGED) == 0

    scenario.work_off(sessions, run_id, 0.5)
    (folder / "4.jpg").write_bytes(b"back")
    note_files(sessions, run_id, folder)
    assert redo(sessions, run_id, Redo.CHANGED) == 0


@pytest.mark.parametrize(("which", "count"), [(Redo.ALL, 8), (Redo.EMPTY, 0), (Redo.FAILED, 1), (Redo.CHANGED, 0)])
def test_each_choice_takes_its_own_images(sessions: Sessions, run_id: int, which: Redo, count: int) -> None:
    assert redo(sessions, run_id, which) == count
    assert len(pending(sessions, run_id)) == count


def test_a_redo_that_is_killed_in_any_slice_goes_on_and_takes_nothing_twice(
    sessions: Sessions, run_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redoing, "PAGE_ROWS", 3)
    monkeypatch.setattr(redoing, "SLICE", 2)

    def kill_after(images: int) -> None:
        def tell(looked: int, total: int) -> None:
            if looked >= images:
                raise Killed

        with pytest.raises(Killed):
            redo(sessions, run_id, Redo.ALL, tell)

    kill_after(3)
    first = pending(sessions, run_id)
    held = claim(sessions, run_id)
    scenario.commit_all(sessions, held, 0.5)
    kill_after(1)

    assert redo(sessions, run_id, Redo.ALL) > 0

    assert 0 < len(first) < 8
    scenario.work_off(sessions, run_id, 0.5)
    assert all(chunk.attempts == 0 for chunk in scenario.chunks(sessions, run_id))
    assert sum(chunk.images for chunk in scenario.chunks(sessions, run_id) if chunk.number > 2) == 8
    assert scenario.states(sessions, run_id) == ["done"] * 8


def test_files_that_cannot_be_seen_from_here_are_one_line(sessions: Sessions, run_id: int, folder: Path) -> None:
    for picture in folder.glob("*.jpg"):
        picture.unlink()

    [line] = look_for_changes(sessions, run_id).lines()

    assert line.startswith("none of the images that were read is to be seen from here")


def test_a_look_ends_when_its_time_is_over_and_says_how_far_it_came(
    sessions: Sessions, run_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redoing, "PAGE_ROWS", 3)
    monkeypatch.setattr(looking, "_stat", lost_mount(after=3))
    clock = chain([0.0, 0.0], repeat(PATIENCE))  # the time is over after the first page, however long that took
    monkeypatch.setattr(redoing, "time", SimpleNamespace(monotonic=lambda: next(clock)))

    changes = look_for_changes(sessions, run_id, seconds=PATIENCE)

    assert changes.lines() == ["looked at 3 of 8 images for changes; --redo changed looks at all"]


def test_a_file_that_never_answers_ends_a_redo_in_one_line(
    sessions: Sessions, run_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redoing, "PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(looking, "_stat", lost_mount(after=0))

    with pytest.raises(UsageError, match="does not answer; is a mount lost"):
        redo(sessions, run_id, Redo.CHANGED)

    assert pending(sessions, run_id) == []


def lost_mount(after: int) -> Callable[[str], FileSeen]:
    """Answers for so many files, and then never again."""
    answers = iter(range(after))

    def stat(place: str) -> FileSeen:
        if next(answers, None) is None:
            threading.Event().wait()
        return location.stat(place)

    return stat


def test_a_run_that_loads_or_is_being_cancelled_is_refused(sessions: Sessions, folder: Path) -> None:
    run_id = scenario.create(sessions)
    with pytest.raises(UsageError, match="run faces is loading: --redo is for runs that are active or over"):
        redo(sessions, run_id, Redo.ALL)
    write(sessions, cancel_run, run_id)
    with pytest.raises(UsageError, match="run faces is cancelling: --redo "):
        redo(sessions, run_id, Redo.ALL)


def test_a_cancelled_redo_can_be_begun_anew(sessions: Sessions, run_id: int) -> None:
    assert redo(sessions, run_id, Redo.ALL) == 8
    cancel(sessions, run_id)
    assert scenario.run(sessions, run_id).state == "cancelled"
    assert redo(sessions, run_id, Redo.CHANGED) == 0
    assert scenario.run(sessions, run_id).state == "cancelled"
    assert redo(sessions, run_id, Redo.ALL) == 7  # the one that had failed is cancelled, and for a retry
    assert scenario.run(sessions, run_id).state == "active"
    assert len(pending(sessions, run_id)) == 7
