"""Where an image is: a root and a path are one place, and only that place is asked."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from workers.places import location


@contextmanager
def changed_root(folder: Path) -> Iterator[Path]:
    """A second way to the same folder."""
    link = folder.with_name("link")
    link.symlink_to(folder)
    yield link


def test_a_relative_path_starts_from_the_root_and_an_absolute_one_does_not() -> None:
    assert location.place("/data", "a/b.jpg") == "/data/a/b.jpg"
    assert location.place("/data", "/other/b.jpg") == "/other/b.jpg"
    assert location.is_relative("a/b.jpg")
    assert not location.is_relative("/a/b.jpg")


@pytest.mark.parametrize(
    ("path", "normal"),
    [("./a//b/../c.jpg", "a/c.jpg"), ("//a.jpg", "/a.jpg"), ("../a.jpg", "../a.jpg"), ("a/..", ".")],
)
def test_a_path_has_one_normal_spelling(path: str, normal: str) -> None:
    assert location.normal(path) == normal


@pytest.mark.parametrize(
    ("root", "path", "leaves"),
    [
        ("/data", "a.jpg", False),
        ("/data", "/data/a.jpg", False),
        ("/data", "/data", False),
        ("/data", "/database/a.jpg", True),
        ("/data", "../data/a.jpg", True),
        ("/data", "..", True),
        ("/data", "..a.jpg", False),
        ("/", "/anything", False),
    ],
)
def test_whether_a_path_leaves_its_root_is_seen_by_its_spelling(root: str, path: str, leaves: bool) -> None:
    assert location.leaves(root, path) is leaves


def test_a_place_is_shown_absolute_and_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert location.shown("a\n\x1b.jpg") == rf"{tmp_path}/a\n\x1b.jpg"


def test_what_was_seen_of_a_file_tells_that_it_changed(tmp_path: Path) -> None:
    image = tmp_path / "a.jpg"
    image.write_bytes(b"123")
    os.utime(image, ns=(5, 7))
    assert location.stat(str(image)) == location.FileSeen(3, 7)
    with location.opened(str(image)) as (seen, file):
        assert (seen, file.read()) == (location.FileSeen(3, 7), b"123")


def test_what_is_not_there_is_told_as_the_system_tells_it(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone.jpg")
    with pytest.raises(FileNotFoundError):
        location.stat(gone)
    with pytest.raises(FileNotFoundError), location.opened(gone):
        pass
    with pytest.raises(OSError, match="null"):
        location.stat("a\0.jpg")
    assert isinstance(location.why_not_opened(gone), FileNotFoundError)
    assert not location.exists(gone)
    assert not location.has_neighbours(gone)


def test_a_pipe_is_neither_waited_for_nor_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(location.NotRegular, match="not a regular file"), location.opened(str(tmp_path / "a.jpg")):
        pass


def test_a_link_may_lead_out_of_the_root_only_where_that_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "b.jpg").write_bytes(b"1")
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.jpg").symlink_to(tmp_path / "b.jpg")
    with pytest.raises(location.LinkLeavesRoot), location.opened(str(root / "a.jpg"), str(root)):
        pass
    with location.opened(str(root / "a.jpg")) as (_, file):
        assert file.read() == b"1"
    with changed_root(tmp_path) as link, location.opened(str(link / "b.jpg"), str(link)) as (_, file):
        assert file.read() == b"1"


def test_every_spelling_of_a_file_is_known(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    image = tmp_path / "a.jpg"
    found = set(location.spellings(str(image), str(tmp_path / "in")))
    assert {str(image), "../a.jpg"} <= found
    assert all(os.path.normpath(tmp_path / "in" / spelling) == str(image) for spelling in found)
