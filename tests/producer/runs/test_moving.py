"""An input that stands elsewhere than before goes on as the same run. On SQLite and on PostgreSQL."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from db.intake import KnownRun, find_run
from db.models import Image
from db.session import Sessions, reading
from producer.runs.load import Recorded, record
from producer.runs.request import RunRequest
from producer.sources.kinds import open_source
from producer.sources.source import ReadOptions
from tests.db import scenario
from workers.errors import UsageError

REQUEST = RunRequest("faces", ("person",), scenario.FROZEN, chunk_size=4)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(folder: str, *names: str) -> Path:
    for number, name in enumerate(names, start=1):
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(number * b"x")
    return Path(folder)


def write_csv(path: str, *rows: str) -> Path:
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).write_text("path\n" + "".join(f"{row}\n" for row in rows))
    return Path(path)


def load(sessions: Sessions, source: Path, request: RunRequest = REQUEST, root: Path | None = None) -> Recorded:
    return record(sessions, open_source(source, ReadOptions(root=root)), request, lambda done, total: None)


def known(sessions: Sessions) -> KnownRun:
    with reading(sessions) as session:
        found = find_run(session, "faces")
    assert found is not None
    return found


def read_by_a_worker(sessions: Sessions) -> None:
    """All images were read when their files had the sizes that they have now."""
    root = Path(known(sessions).source.root)
    with sessions.begin() as session:
        for image in session.query(Image):
            image.file_size = (root / image.path).stat().st_size


def refusal(sessions: Sessions, source: Path, request: RunRequest = REQUEST) -> str:
    before = known(sessions)
    with pytest.raises(UsageError) as refused:
        load(sessions, source, request)
    assert known(sessions) == before
    return str(refused.value)


def test_a_csv_that_was_moved_with_its_images_goes_on_and_is_told_once(sessions: Sessions, here: Path) -> None:
    make("old", "a.jpg", "b.jpg")
    load(sessions, write_csv("old/images.csv", "a.jpg", "b.jpg"))
    shutil.move("old", "new")

    moved = load(sessions, Path("new/images.csv"))

    assert (moved.new_rows, moved.gone_rows) == (0, 0)
    assert moved.corrected == f"run faces goes on with {here}/new/images.csv, which was {here}/old/images.csv"
    assert (known(sessions).source.path, known(sessions).source.root) == (f"{here}/new/images.csv", f"{here}/new")
    assert load(sessions, Path("new/images.csv")).corrected == ""


def test_a_csv_that_grew_where_it_was_moved_to_goes_on(sessions: Sessions) -> None:
    load(sessions, write_csv("old/images.csv", "a.jpg", "b.jpg"))
    shutil.rmtree("old")
    assert load(sessions, write_csv("new/images.csv", "a.jpg", "b.jpg", "c.jpg")).new_rows == 1
    assert known(sessions).images == 3


def test_a_csv_that_was_moved_without_its_images_still_finds_them(sessions: Sessions, here: Path) -> None:
    make("old", "a.jpg", "b.jpg")
    csv = write_csv("old/images.csv", "a.jpg", "b.jpg")
    load(sessions, csv)
    Path("lists").mkdir()
    csv.rename("lists/images.csv")

    moved = load(sessions, Path("lists/images.csv"))

    assert moved.corrected.endswith(f"its images are still below {here}/old")
    assert known(sessions).source.root == f"{here}/old"
    assert load(sessions, Path("lists/images.csv")).corrected == ""


@pytest.mark.parametrize("other", [["a.jpg", "c.jpg"], ["b.jpg"]])
def test_another_csv_of_that_name_is_refused_unless_it_is_said_to_be_the_old_one(
    sessions: Sessions, here: Path, other: list[str]
) -> None:
    load(sessions, write_csv("old/images.csv", "a.jpg", "b.jpg"))
    shutil.rmtree("old")
    new = write_csv("new/images.csv", *other)
    assert refusal(sessions, new).startswith(
        f"{here}/new/images.csv: does not hold what was recorded from {here}/old/images.csv, which is gone; "
        f"if it was moved and then changed: --moved-from {here}/old/images.csv; "
    )

    said = replace(REQUEST, moved_from="old/images.csv")
    assert load(sessions, new, said).new_rows == len(set(other) - {"a.jpg", "b.jpg"})
    assert load(sessions, new, said).new_rows == 0  # the same command again


def test_a_csv_that_was_read_in_part_only_is_known_by_its_rows(sessions: Sessions) -> None:
    load(sessions, write_csv("old/images.csv", "a.jpg", "b.jpg", "c.jpg"), replace(REQUEST, limit=2))
    shutil.rmtree("old")
    assert "does not hold" in refusal(sessions, write_csv("new/images.csv", "a.jpg", "x.jpg", "c.jpg"))
    assert load(sessions, write_csv("new/images.csv", "a.jpg", "b.jpg", "d.jpg")).new_rows == 1


def test_a_source_that_is_still_there_is_not_left_for_a_copy(sessions: Sessions, here: Path) -> None:
    old = write_csv("old/images.csv", "a.jpg")
    load(sessions, old)
    shutil.copytree("old", "new")
    message = refusal(sessions, Path("new/images.csv"))
    assert f"source {here}/old/images.csv there, {here}/new/images.csv here" in message
    said = replace(REQUEST, moved_from=str(old))
    assert "is still there; move it away" in refusal(sessions, Path("new/images.csv"), said)
    wrong = replace(REQUEST, moved_from="elsewhere.csv")
    assert refusal(sessions, Path("new/images.csv"), wrong) == (
        f"--moved-from {here}/elsewhere.csv: the run was recorded from {here}/old/images.csv"
    )


def test_a_run_that_is_not_there_was_moved_from_nowhere(sessions: Sessions) -> None:
    with pytest.raises(UsageError, match=r"^--moved-from old\.csv: there is no run faces$"):
        load(sessions, write_csv("images.csv", "a.jpg"), replace(REQUEST, moved_from="old.csv"))


def test_a_folder_that_was_moved_goes_on_and_one_with_other_files_does_not(sessions: Sessions, here: Path) -> None:
    load(sessions, make("old", "a.jpg", "in/b.jpg", "in/c.jpg"))
    read_by_a_worker(sessions)
    shutil.move("old", "new")
    make("longer", "in/b.jpg", "a.jpg", "in/c.jpg")  # the same names, other sizes
    make("fewer", "a.jpg", "in/b.jpg")
    for other in ("longer", "fewer"):
        assert "does not hold what was recorded" in refusal(sessions, Path(other))

    make("new", "d.jpg")
    moved = load(sessions, Path("new"))

    assert (moved.new_rows, moved.gone_rows) == (1, 0)
    assert moved.corrected == f"run faces goes on with {here}/new, which was {here}/old"
    assert known(sessions).source.root == f"{here}/new"


def test_a_root_that_was_moved_is_followed_by_the_sizes_of_its_files(sessions: Sessions, here: Path) -> None:
    csv = write_csv("images.csv", "a.jpg", "b.jpg")
    load(sessions, csv, root=make("old", "a.jpg", "b.jpg"))
    read_by_a_worker(sessions)
    os.rename("old", "new")

    moved = load(sessions, csv, root=Path("new"))

    assert (moved.new_rows, moved.corrected) == (0, f"run faces goes on with {here}/new, which was {here}/old")
    assert known(sessions).source.root == f"{here}/new"
