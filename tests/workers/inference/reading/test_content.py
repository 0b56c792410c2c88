"""Where an image cannot be had, or may not be: missing files, pipes, links, and paths that leave the root."""

import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tests.workers.inference.reading.refusals import RULES, refusal
from workers.errors import ErrorClass
from workers.inference.reading.images import read_image

Save = Callable[..., str]
Swap = Callable[..., None]


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    assert refusal(tmp_path / "a.jpg") == ErrorClass.MISSING
    (tmp_path / "file").touch()
    assert refusal(tmp_path / "file" / "a.jpg") == ErrorClass.MISSING


def test_an_unreadable_file_is_a_matter_of_permission(cat: Image.Image, save: Save) -> None:
    path = save(cat, "a.png")
    os.chmod(path, 0)
    me = os.geteuid()
    try:
        if me == 0:  # root may read everything
            os.seteuid(65534)
        assert refusal(path) == ErrorClass.PERMISSION
    finally:
        os.seteuid(me)


def test_folders_pipes_sockets_and_devices_never_block_and_are_not_even_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    opened: list[str] = []
    monkeypatch.setattr("os.open", lambda path, flags: opened.append(path))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s.jpg"))
        for path in (tmp_path / "pipe.jpg", tmp_path / "folder.jpg", tmp_path / "s.jpg", "/dev/zero"):
            assert refusal(path) == ErrorClass.NOT_AN_IMAGE
    assert opened == []


@pytest.mark.parametrize("becomes", ["pipe", "folder"])
def test_what_is_no_file_any_more_when_it_is_opened_never_blocks(
    cat: Image.Image, save: Save, swapped: Swap, becomes: str
) -> None:
    path = Path(save(cat, "a.png"))

    def swap() -> None:
        path.unlink()
        os.mkfifo(path) if becomes == "pipe" else path.mkdir()

    swapped(before_open=swap)
    assert refusal(path) == ErrorClass.NOT_AN_IMAGE


def test_a_path_with_a_nul_is_a_bad_path() -> None:
    assert refusal("/tmp/a\0b.jpg") == ErrorClass.BAD_PATH


@pytest.fixture
def swapped(monkeypatch: pytest.MonkeyPatch) -> Swap:
    """Let somebody else be quicker: do something right before or right after the file is opened."""
    really = os.open

    def swap(before_open: Callable[[], None] = lambda: None, after_open: Callable[[], None] = lambda: None) -> None:
        def open_it(path: str, flags: int) -> int:
            before_open()
            descriptor = really(path, flags)
            after_open()
            return descriptor

        monkeypatch.setattr("os.open", open_it)

    return swap


def test_a_link_that_is_swapped_between_the_check_and_the_reading_leads_nowhere(
    cat: Image.Image, save: Save, swapped: Swap, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    outside = save(cat, "outside.png")
    Image.new("RGB", (20, 20), "white").save(root / "inside.png")
    link = root / "link.png"

    def point_outside() -> None:
        link.unlink()
        link.symlink_to(outside)

    for when in ("before_open", "after_open"):
        link.unlink(missing_ok=True)
        link.symlink_to("inside.png")
        swapped(**{when: point_outside})
        if when == "before_open":
            assert refusal(link, replace(RULES, root=str(root))) == ErrorClass.OUTSIDE_ROOT
        else:  # what was checked is what is read
            assert read_image(str(link), replace(RULES, root=str(root))).pixels.shape == (20, 20, 3)


def test_below_the_root_everything_is_read_as_usual(cat: Image.Image, save: Save, tmp_path: Path) -> None:
    path = save(cat, "a.png")
    assert read_image(path, replace(RULES, root=str(tmp_path))).pixels.any()
    assert read_image(path, replace(RULES, root=str(tmp_path) + "/")).pixels.any()
    assert read_image(path, replace(RULES, root="/")).pixels.any()


def test_paths_that_leave_the_root_are_refused(cat: Image.Image, save: Save, tmp_path: Path) -> None:
    path = save(cat, "a.png")
    (tmp_path / "root").mkdir()
    rules = replace(RULES, root=str(tmp_path / "root"))
    assert refusal(path, rules) == ErrorClass.OUTSIDE_ROOT
    assert refusal(f"{tmp_path}/root/../a.png", rules) == ErrorClass.OUTSIDE_ROOT
    assert refusal(f"{tmp_path}/root-of-another/a.png", rules) == ErrorClass.OUTSIDE_ROOT
    assert refusal(path, replace(rules, follow_symlinks=True)) == ErrorClass.OUTSIDE_ROOT


def test_a_symbolic_link_out_of_the_root_needs_permission_to_be_followed(
    cat: Image.Image, save: Save, tmp_path: Path
) -> None:
    path = save(cat, "a.png")
    root = tmp_path / "root"
    root.mkdir()
    (root / "link.png").symlink_to(path)
    (root / "folder").symlink_to(tmp_path)
    rules = replace(RULES, root=str(root))
    for link in (root / "link.png", root / "folder" / "a.png"):
        assert refusal(link, rules) == ErrorClass.OUTSIDE_ROOT
        assert read_image(str(link), replace(rules, follow_symlinks=True)).pixels.any()


def test_links_inside_the_root_and_a_root_that_is_a_link_are_fine(cat: Image.Image, save: Save, tmp_path: Path) -> None:
    save(cat, "a.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    assert read_image(str(tmp_path / "link.png"), replace(RULES, root=str(tmp_path))).pixels.any()
    other = tmp_path / "other-name-of-the-folder"
    other.symlink_to(tmp_path)
    assert read_image(str(other / "a.png"), replace(RULES, root=str(other))).pixels.any()
