"""How a folder is walked: in the order of its paths, through links, and past what cannot be read."""

import os
from pathlib import Path

import pytest

from db.intake import NewRow
from producer.sources.folder import FolderSource
from producer.sources.selection import LeftOut
from producer.sources.source import ReadOptions
from workers.errors import UsageError


def make(*names: str) -> Path:
    for name in names:
        Path("photos", name).parent.mkdir(parents=True, exist_ok=True)
        Path("photos", name).touch()
    return Path("photos")


def test_a_folder_is_read_recursively_in_the_order_of_its_paths() -> None:
    names = ["a.jpg", "a/2.PNG", "a/b/1.jpeg", "c.webp", "d.TIF", "e.tiff", "f.bmp"]
    folder = make(*names, "notes.txt", ".git/x.jpg", "a/.hidden.jpg", "out/masks/a.png")
    source = FolderSource(folder, ReadOptions(exclude=Path("photos/out")))
    assert list(source.rows()) == [NewRow(name) for name in sorted(names)]
    assert list(source.rows(5)) == [NewRow("e.tiff"), NewRow("f.bmp")]
    assert (source.columns.names, source.columns.image, source.columns.prompt) == (("path",), "path", None)
    assert (source.root, source.place, source.confined) == (source.place, str(Path.cwd() / "photos"), False)


def test_a_folder_s_survey_counts_and_sees_that_something_was_added() -> None:
    folder = make("a.jpg", "b/c.jpg")
    os.utime(folder / "b", ns=(10**18, 10**18))
    os.utime(folder, ns=(5, 5))
    survey = FolderSource(folder).survey(2, None)
    assert (survey.size, survey.rows, survey.mtime_ns) == (2, 2, 10**18)
    assert (survey.sha256, survey.continues) == (None, False)


def test_symlinked_folders_are_followed_only_if_asked_and_never_in_a_circle() -> None:
    folder = make("a/1.jpg")
    Path("elsewhere").mkdir()
    Path("elsewhere/2.jpg").touch()
    Path("photos/b").symlink_to(Path("elsewhere").absolute())
    Path("photos/a/loop").symlink_to(folder.absolute())
    Path("photos/gone.jpg").symlink_to("nowhere.jpg")
    assert [row.path for row in FolderSource(folder).rows()] == ["a/1.jpg", "gone.jpg"]
    followed = FolderSource(folder, ReadOptions(follow_symlinks=True))
    assert [row.path for row in followed.rows()] == ["a/1.jpg", "b/2.jpg", "gone.jpg"]


def test_names_that_no_database_stores_are_rejected_rows() -> None:
    folder = make("a.jpg", "b\n.jpg")
    Path(os.fsdecode(b"photos/caf\xe9.jpg")).touch()
    _, line_break, latin = FolderSource(folder).rows()
    assert line_break.rejected == (
        "bad_path",
        r"photos/b\n.jpg: the path holds \n, which is no text; rename the file or its folder",
    )
    assert latin == NewRow(
        r"caf\xe9.jpg",
        rejected=(
            "bad_path",
            r"photos/caf\xe9.jpg: the path holds \xe9, which is no text; rename the file or its folder",
        ),
    )


def test_a_folder_without_images_is_refused() -> None:
    make("notes.txt", ".cache/a.jpg")
    Path("file.jpg").touch()
    Path("empty").mkdir()
    advice = "give a folder with JPEG, PNG, WEBP, TIFF, BMP, GIF or AVIF files"
    left_out = "1 hidden (.cache/), 1 not an image (notes.txt)"
    expected = {
        "photos": f"photos: no images in it or below it; left out: {left_out}; {advice}; if such files name images, "
        "give 'photos/**/*.txt'",
        "empty": f"empty: no images in it or below it; {advice}",
        "nowhere": "nowhere: not found; check the path",
        "file.jpg": "file.jpg: is no folder; check the path",
    }
    for name, message in expected.items():
        with pytest.raises(UsageError) as refused:
            FolderSource(Path(name))
        assert str(refused.value) == message


def test_a_folder_cannot_be_its_own_output() -> None:
    with pytest.raises(UsageError, match=r"^photos: is the output folder too; choose another with -o$"):
        FolderSource(make("a.jpg"), ReadOptions(exclude=Path("photos")))


@pytest.mark.usefixtures("nobody_special")
def test_a_folder_that_may_not_be_read_is_told_and_only_at_the_top_refused() -> None:
    folder = make("a.jpg", "private/b.jpg", "private/c.jpg", "private.txt")
    Path("photos/private.txt").chmod(0)
    private = Path("photos/private")
    private.chmod(0)
    try:
        source = FolderSource(folder)
        assert source.survey().rows == 1
        assert source.left_out == (LeftOut("unreadable", 2, "private.txt"),)
        assert [row.path for row in source.rows()] == ["a.jpg"]
        with pytest.raises(UsageError, match=r"^photos/private: permission denied; make it readable for this user$"):
            FolderSource(private)
    finally:
        private.chmod(0o700)


def test_a_folder_that_vanishes_while_it_is_read_is_told() -> None:
    folder = make("a.jpg", "b/c.jpg")
    rows = FolderSource(folder).rows()
    next(rows)
    Path("photos/b/c.jpg").unlink()
    Path("photos/b").rmdir()
    with pytest.raises(UsageError, match=r"^photos/b: not found; check the path$"):
        next(rows)
