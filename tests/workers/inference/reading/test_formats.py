"""Real files of every kind that a photo folder holds are told by their first bytes, as the reader would judge them."""

import io

import pytest
from PIL import Image

from workers.inference.reading.formats import FORMATS, HEAD_BYTES, image_format, other_format


def head_of(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(file, kind)
    return file.getvalue()[:HEAD_BYTES]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_format_that_we_open_is_told_by_its_first_bytes(kind: str) -> None:
    assert image_format(head_of(kind)) == kind
    assert other_format(head_of(kind)) is None


def test_a_bigtiff_is_a_tiff() -> None:
    assert image_format(b"II+\0\x08\0\0\0") == "TIFF"
    assert image_format(b"MM\0+\0\x08\0\0") == "TIFF"


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl ", "JPEG XL"),
        (b"\xff\x0a\xfa\x7f", "JPEG XL"),
        (b"\0\0\0\x14ftypqt  \0\0\2\0qt  ", "video"),
        (b"\0\0\0\x20ftypmp42\0\0\0\0mp42isom", "video"),
        (b"\0\0\0\x18ftyp3gp4\0\0\2\0isom3gp4", "video"),
        (b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom", "camera raw"),
        (b"\0\0\0\x18ftypisom\0\0\2\0isomiso2", "video"),
        (head_of("JPEG2000"), "JPEG 2000"),
        (head_of("ICO"), "ICO"),
        (b"%PDF-1.7", "PDF"),
        (b"FUJIFILMCCD-RAW 0201", "camera raw"),
        (b"II*\0\x10\0\0\0CR\2\0", "camera raw"),
        (b"II\x1a\0\0\0HEAPCCDR", "camera raw"),
    ],
)
def test_a_format_that_we_do_not_open_is_named(head: bytes, name: str | None) -> None:
    assert other_format(head) == name
    assert image_format(head) is None


HEIC_HEADS = [
    b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic",
    b"\0\0\0\x18ftypheix\0\0\0\0mif1heix",
]


@pytest.mark.parametrize("head", HEIC_HEADS)
def test_heic_is_opened_where_its_extra_is_installed_and_named_where_it_is_not(
    head: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for installed in (True, False):
        monkeypatch.setattr("workers.inference.reading.formats.HEIC_IS_OPENED", installed)
        assert (image_format(head), other_format(head)) == (("HEIC", None) if installed else (None, "HEIC"))


def test_avif_is_told_by_its_own_brand_or_by_one_that_it_agrees_with() -> None:
    for head in (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", b"\0\0\0\x14ftypavis\0\0\0\0msf1"):
        assert image_format(head) == "AVIF"


def test_what_stands_behind_the_brands_is_no_brand() -> None:
    assert image_format(b"\0\0\0\x14ftypM4A \0\0\0\0mp42heicavif") is None
    assert other_format(b"\0\0\0\x14ftypM4A \0\0\0\0mp42heicavif") is None


@pytest.mark.parametrize(
    "head",
    [b"", b"B", b"BM", b"BMW 320d, red\nand more of a text", b"RIFF\x10\0\0\0WAVEfmt ", b"<html>", b"GIF8", b"\0"],
)
def test_what_is_no_image_has_no_format(head: bytes) -> None:
    assert (image_format(head), other_format(head)) == (None, None)
