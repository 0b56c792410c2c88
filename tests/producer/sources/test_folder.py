"""Folders as people have them: what is an image is taken whatever it is called, and the rest is counted by reason."""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from producer.layout import MASK_MARK
from producer.sources.folder import FolderSource
from producer.sources.selection import LeftOut, told_left_out
from producer.sources.source import ReadOptions
from workers.errors import ErrorClass
from workers.inference.reading.formats import FORMATS, SUFFIXES
from workers.inference.reading.images import ReadRules, UnreadableImage, read_image

JPEG_XL = b"\xff\x0a\xfa\x7f"
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
RUN_YAML = "source: /photos\noutput: /photos/out\nrun: photos\nprompt: [person]\n"


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    return Path("photos")


def picture(path: Path, kind: str = "JPEG", **kept: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), "red").save(path, kind, **kept)


def mask(path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add(b"tEXt", MASK_MARK + b"photos")
    picture(path, "PNG", pnginfo=info)


def file(path: Path, content: bytes = b"text") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def taken(source: FolderSource) -> list[str]:
    """Paths of the rows; survey and rows must agree."""
    paths = [row.path for row in source.rows()]
    assert source.survey().rows == len(paths)
    return paths


def left_out(source: FolderSource) -> dict[str, int]:
    source.survey()
    return {one.reason: one.count for one in source.left_out}


@contextmanager
def listening(path: Path) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        yield


def messy(folder: Path) -> None:
    """What a folder of photographs may hold after some years."""
    picture(folder / "a.JPG")
    picture(folder / "b.jfif")
    picture(folder / "c.gif", "GIF")
    picture(folder / "noext", "PNG")
    picture(folder / "trip" / "scan.001", "TIFF")
    file(folder / "trip" / "late.jpg", JPEG_XL)  # fails with its own reason: somebody called it a JPEG
    file(folder / "trip" / "cut.jpg", b"")
    others = {
        "IMG_1.jxl": JPEG_XL,
        "IMG_2.jxl": JPEG_XL,
        "raw.dng": b"II*\0" + bytes(100),
        "film.mp4": b"\0\0\0\x18ftypisom",
    }
    for name, content in others.items():
        file(folder / name, content)
    file(folder / "new.jp2", b"\xff\x4f\xff\x51")
    file(folder / "notes.txt")
    file(folder / "trip" / "Thumbs.db", b"\xd0\xcf\x11\xe0")
    file(folder / ".DS_Store")
    picture(folder / ".cache" / "deep" / "a.jpg")
    picture(folder / "@eaDir" / "a.JPG" / "SYNOPHOTO_THUMB_XL.jpg")
    picture(folder / "trip" / "#recycle" / "old.jpg")
    picture(folder / "__MACOSX" / "._a.jpg")
    file(folder / "people" / "run.yaml", RUN_YAML.encode())
    mask(folder / "people" / "masks" / "person" / "a.JPG.png")
    picture(folder / "people" / "preview.jpg")
    file(folder / "people" / "results.csv")
    picture(folder / "people" / "mine.jpg")  # the user's own, in spite of its place
    mask(folder / "cars" / "car" / "a.JPG.png")  # of sam3-export --format png
    (folder / "elsewhere").symlink_to("/usr")
    (folder / "trip" / "gone").symlink_to("nowhere")
    (folder / "trip" / "gone.png").symlink_to("nowhere.png")
    (folder / "circle").symlink_to("circle")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "empty" / "emptier").mkdir(parents=True)


def test_every_file_of_a_messy_folder_is_a_row_or_left_out_for_a_reason(photos: Path) -> None:
    messy(photos)
    with listening(photos / "socket"):
        source = FolderSource(photos)
        assert taken(source) == [
            *("a.JPG", "b.jfif", "c.gif", "noext", "people/mine.jpg"),
            *("trip/cut.jpg", "trip/gone.png", "trip/late.jpg", "trip/scan.001"),
        ]
        assert left_out(source) == {
            "JPEG XL": 2,
            "JPEG 2000": 1,
            "camera raw": 1,
            "video": 1,
            "not an image": 2,
            "hidden": 2,
            "in a trash or thumbnail folder": 3,
            "from sam3-run or sam3-export": 5,
            "not followed": 1,
            "link to nothing": 2,
            "pipe, socket or device": 2,
        }
        found = subprocess.run(["find", photos, "!", "-type", "d"], capture_output=True, text=True, check=True)
        counted = source.survey().rows + sum(left_out(source).values())
        assert len(found.stdout.splitlines()) == counted


def test_each_reason_has_an_example_and_what_to_do_about_it(photos: Path) -> None:
    picture(photos / "a.jpg")
    file(photos / "b.jxl", JPEG_XL)
    file(photos / "sub" / "c.jxl", JPEG_XL)
    file(photos / ".hidden" / "a.jpg")
    source = FolderSource(photos)
    source.survey()
    assert source.left_out == (LeftOut("JPEG XL", 2, "b.jxl"), LeftOut("hidden", 1, ".hidden/"))
    assert told_left_out((LeftOut("JPEG XL", 2000, "b.jxl"), LeftOut("hidden", 1, ".hidden/"))) == (
        "2,000 JPEG XL (b.jxl; convert to JPEG), 1 hidden (.hidden/)"
    )


def test_heic_is_taken_by_name_and_content_where_its_extra_is_installed(photos: Path) -> None:
    file(photos / "a.HEIC", HEIC)
    file(photos / "noext", HEIC)
    assert taken(FolderSource(photos)) == ["a.HEIC", "noext"]


def test_without_its_extra_heic_is_left_out_and_the_extra_named(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.inference.reading.formats.HEIC_IS_OPENED", False)
    monkeypatch.setattr("producer.sources.selection.SUFFIXES", (".jpg",))
    picture(photos / "a.jpg")
    file(photos / "b.heic", HEIC)
    source = FolderSource(photos)
    assert taken(source) == ["a.jpg"]
    assert told_left_out(source.left_out) == ("1 HEIC (b.heic; pip install 'sam3-queue[heic]', or convert to JPEG)")


@pytest.mark.parametrize("kind", FORMATS)
def test_what_the_reader_opens_is_taken_whatever_it_is_called(photos: Path, kind: str) -> None:
    for name in ("noext", "scan.001", "x.dat", "y.txt"):
        picture(photos / name, kind)
        assert read_image(str(photos / name), ReadRules()).pixels.shape == (30, 40, 3)
    assert taken(FolderSource(photos)) == ["noext", "scan.001", "x.dat", "y.txt"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_called_an_image_is_a_row_even_if_it_is_none(photos: Path, suffix: str) -> None:
    file(photos / f"page{suffix}", b"<html>moved</html>")
    assert taken(FolderSource(photos)) == [f"page{suffix}"]
    with pytest.raises(UnreadableImage) as refused:
        read_image(str(photos / f"page{suffix}"), ReadRules())
    assert refused.value.error_class == ErrorClass.NOT_AN_IMAGE


@pytest.mark.parametrize("top", [".hidden", "@eaDir", "#recycle"])
def test_the_folder_that_was_named_is_taken_whatever_it_is_called(photos: Path, top: str) -> None:
    picture(photos / top / "a.jpg")
    assert taken(FolderSource(photos / top)) == ["a.jpg"]


def test_a_source_that_was_an_output_folder_before_has_the_user_s_pictures_only(photos: Path) -> None:
    file(photos / "run.yaml", RUN_YAML.encode())
    picture(photos / "a.jpg")
    picture(photos / "preview.jpg")
    mask(photos / "masks" / "person" / "a.jpg.png")
    source = FolderSource(photos)
    assert taken(source) == ["a.jpg"]
    assert left_out(source) == {"from sam3-run or sam3-export": 3}


def test_a_run_file_of_somebody_else_makes_nothing_ours(photos: Path) -> None:
    file(photos / "run.yaml", b"learning_rate: 0.1\n")
    picture(photos / "masks" / "a.png", "PNG")
    picture(photos / "preview.jpg")
    assert taken(FolderSource(photos)) == ["masks/a.png", "preview.jpg"]


def test_masks_of_ours_beside_pictures_are_told_apart(photos: Path) -> None:
    mask(photos / "a.png")
    picture(photos / "b.png", "PNG")
    (photos / "c.png").symlink_to("nowhere")
    source = FolderSource(photos)
    assert taken(source) == ["b.png", "c.png"]
    assert left_out(source) == {"from sam3-run or sam3-export": 1}


def test_masks_that_are_called_like_their_images_are_told_apart(photos: Path) -> None:
    """A mask is a PNG whatever its name is. Where there is no record, the first file of either kind tells."""
    for name in ("copied/a.jpg", "copied/b.jpg", "mixed/a.jpg", "mixed/z.png", "out/person/z.jpg"):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        mask(photos / name)
    (photos / "out" / ".sam3-masks.json").write_text("{}")
    picture(photos / "out" / "person" / "a.jpg")
    picture(photos / "mixed" / "0.jpg")
    assert taken(FolderSource(photos)) == ["mixed/0.jpg", "out/person/a.jpg"]


@pytest.mark.parametrize("record", [".sam3-masks.json", ".sam3-export.json"])
def test_masks_that_were_exported_into_the_source_itself_are_told_apart_from_its_pictures(
    photos: Path, record: str
) -> None:
    file(photos / record, b"{}")
    picture(photos / "z.jpg")
    picture(photos / "person" / "0.png", "PNG")  # before the masks in the order of names
    mask(photos / "person" / "z.jpg.png")
    mask(photos / "person" / "person" / "0.png.png")
    source = FolderSource(photos)
    assert taken(source) == ["person/0.png", "z.jpg"]
    assert left_out(source) == {"from sam3-run or sam3-export": 2, "hidden": 1}


def test_links_of_an_exported_dataset_are_no_second_images(photos: Path) -> None:
    picture(photos / "a.jpg")
    for data in (photos / "data", photos):
        file(data / ".sam3-export.json", b"{}")
        (data / "images" / "train").mkdir(parents=True)
        (data / "images" / "train" / "a.jpg").symlink_to((photos / "a.jpg").absolute())
    picture(photos / "images" / "b.jpg")
    source = FolderSource(photos)
    assert taken(source) == ["a.jpg", "images/b.jpg"]
    assert left_out(source) == {"from sam3-run or sam3-export": 2, "hidden": 2}


def test_the_output_folder_is_counted_too_wherever_it_lies(photos: Path) -> None:
    picture(photos / "a.jpg")
    picture(photos / "deep" / "out" / "masks" / "x.png", "PNG")
    source = FolderSource(photos, ReadOptions(exclude=photos / "deep" / "out"))
    assert taken(source) == ["a.jpg"]
    assert left_out(source) == {"in the output folder": 1}


def test_links_in_a_circle_are_counted_when_links_are_followed(photos: Path) -> None:
    picture(photos / "a" / "1.jpg")
    (photos / "a" / "loop").symlink_to(photos.absolute())
    source = FolderSource(photos, ReadOptions(follow_symlinks=True))
    assert taken(source) == ["a/1.jpg"]
    assert left_out(source) == {"in a circle of links": 1}


def test_a_file_is_opened_only_if_its_name_does_not_decide_and_then_once(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        picture(photos / f"{number}.jpg")
    for name in ("x", "y", "notes"):
        picture(photos / name)
    opened: list[str] = []
    really = os.open

    def noting(path: str, *rest: int) -> int:
        opened.append(os.path.basename(path))
        return really(path, *rest)

    monkeypatch.setattr("producer.sources.selection.os.open", noting)
    source = FolderSource(photos)
    assert source.survey().rows == len(list(source.rows())) == 23
    assert sorted(name for name in opened if name != "0.jpg") == ["notes", "x", "y"]  # the first may be a mask
