"""Patterns of paths: what matches is what Python's glob finds, and only folders that may hold matches are entered."""

import glob
import os
from pathlib import Path
from typing import Any

import pytest

from producer.sources.folder import FolderSource, PatternSource
from producer.sources.kinds import open_source
from producer.sources.place import is_there
from producer.sources.selection import LeftOut
from producer.sources.source import ReadOptions
from workers.errors import UsageError

FILES = ("1.jpg", "2.PNG", "a/1.jpg", "a/b/1.jpg", "a/b/c/x 1.jpg", "ab/1.jpeg", "ab/b/1.jpg", "b/10.jpg", "[x]/1.jpg")


@pytest.fixture(autouse=True)
def _in_a_folder_of_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in FILES:
        Path("photos", name).parent.mkdir(parents=True, exist_ok=True)
        Path("photos", name).touch()


def matched(pattern: str) -> list[str]:
    source = open_source(Path(pattern), ReadOptions())
    assert isinstance(source, PatternSource)
    rows = [os.path.relpath(os.path.join(source.root, row.path)) for row in source.rows()]
    assert source.survey().rows == len(rows)
    return rows


@pytest.mark.parametrize(
    "pattern",
    [
        "photos/*.jpg",
        "photos/*",
        "photos/**/*.jpg",
        "photos/**",
        "photos/*/1.jp*",
        "photos/**/b/*.jpg",
        "photos/a*/**/1.jpg",
        "photos/**/**/?.jpg",
        "phot?s/[ab]/1*.jpg",
        "photos/[[]x[]]/*.jpg",
        "*/a/b/1.jpg",
        "**/1.jpeg",
        "photos/a/../ab/*",
    ],
)
def test_what_matches_is_what_glob_finds_in_the_order_of_the_paths(pattern: str) -> None:
    found = {os.path.relpath(name) for name in glob.glob(pattern, recursive=True) if os.path.isfile(name)}
    assert found
    assert matched(pattern) == [row.path for row in FolderSource(Path(".")).rows() if row.path in found]


def test_only_folders_that_may_hold_a_match_are_entered(monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[str] = []
    scandir = os.scandir

    def noted(path: str) -> Any:
        entered.append(os.path.relpath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", noted)
    assert matched("photos/a/b/*.jpg") == ["photos/a/b/1.jpg"]
    assert set(entered) == {"photos/a/b"}
    entered.clear()
    assert matched("photos/a*/1.*") == ["photos/a/1.jpg", "photos/ab/1.jpeg"]
    assert set(entered) == {"photos", "photos/a", "photos/ab"}


def test_files_that_match_and_are_no_images_are_counted_and_others_are_not() -> None:
    for name in ("notes.txt", "a/notes.txt", "a/list.csv"):
        Path("photos", name).touch()
    source = open_source(Path("photos/*/*.[jt]*"), ReadOptions())
    source.survey()
    assert source.left_out == (LeftOut("not an image", 1, "a/notes.txt"),)


def test_a_folder_whose_name_has_a_wildcard_is_a_folder() -> None:
    source = open_source(Path("photos/[x]"), ReadOptions())
    assert type(source) is FolderSource
    assert [row.path for row in source.rows()] == ["1.jpg"]


@pytest.mark.parametrize(
    ("pattern", "fault"),
    [
        ("photos/*.gif", "matches no images; * stands for a part of one name, ** for any number of folders"),
        ("nowhere/*.jpg", "not found; check the path"),
        ("1.jpg/*.jpg", "not found; check the path"),
    ],
)
def test_a_pattern_without_matches_is_refused(pattern: str, fault: str) -> None:
    with pytest.raises(UsageError) as refused:
        open_source(Path(pattern), ReadOptions())
    assert str(refused.value) == f"{pattern}: {fault}"


def test_a_pattern_is_there_as_long_as_its_folder() -> None:
    there = {name: is_there(name) for name in ("photos/*.jpg", "photos/*.gif", "nowhere/*.jpg", "photos", "none")}
    assert list(there.values()) == [True, True, False, True, False]
