"""What a decoder would have to unpack is bounded before it begins: small files that would take gigabytes or minutes."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage import data

from tests.workers.inference import handmade
from workers.errors import ErrorClass
from workers.inference.reading import bands, bounds, images
from workers.inference.reading.images import ReadRules, UnreadableImage, read_image

RULES = ReadRules()
CAT = Image.fromarray(data.chelsea())


@pytest.fixture
def no_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever decodes fails the test."""

    def decoded(*given: Any, **named: Any) -> None:
        raise AssertionError("a decoder was asked")

    monkeypatch.setattr(images, "_fast_pixels", decoded)
    monkeypatch.setattr(images, "_load", decoded)
    monkeypatch.setattr(bands, "read", decoded)


def refusal(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(UnreadableImage) as refused:
        read_image(str(path), RULES)
    assert refused.value.error_class == ErrorClass.TOO_LARGE
    return refused.value.message


def tiled(width: int, length: int, across: int, down: int, bits: int = 8, samples: int = 3) -> bytes:
    every: handmade.Tag = (258, 3, samples, bytes([bits, 0] * samples))
    tiles: list[handmade.Tag] = [(322, 4, 1, across), (323, 4, 1, down), (324, 4, 1, b"x" * 100), (325, 4, 1, 100)]
    return handmade.tiff(width, length, every, (262, 3, 1, 2), (277, 3, 1, samples), (259, 3, 1, 8), *tiles)


def test_a_small_picture_in_one_huge_tile_is_too_large(tmp_path: Path, no_decoder: None) -> None:
    said = refusal(tmp_path / "a.tif", tiled(100, 100, 24_000, 24_000))
    assert said == ("100 x 100 pixels in tiles of 24000 x 24000: 576,000,000 pixels to unpack for a picture of 10,000")


def test_many_half_empty_tiles_are_too_large(tmp_path: Path, no_decoder: None) -> None:
    assert "pixels to unpack for a picture of" in refusal(tmp_path / "a.tif", tiled(16, 1_000_000, 4096, 4096))


def test_more_pieces_than_any_picture_needs_are_too_large(tmp_path: Path, no_decoder: None) -> None:
    assert "of them, over the limit of 524,288" in refusal(tmp_path / "a.tif", tiled(10_000, 10_000, 1, 16))
    strips: list[handmade.Tag] = [(273, 4, 600_000, bytes(2_400_000)), (278, 4, 1, 1)]
    assert "600,000 of them" in refusal(tmp_path / "b.tif", handmade.tiff(100, 100, *strips))


def test_more_bytes_a_pixel_than_honest_pictures_have_are_too_large(tmp_path: Path, no_decoder: None) -> None:
    said = refusal(tmp_path / "a.tif", tiled(10_000, 11_000, 1024, 1024, bits=16, samples=5))
    assert "bytes to unpack, over the limit of 960,000,000" in said


@pytest.mark.parametrize(
    "how", [{"tile": (512, 512)}, {"tile": (16, 16)}, {"rowsperstrip": 1}, {"rowsperstrip": 10_000}]
)
def test_ordinary_tiles_and_strips_are_within_bounds(tmp_path: Path, how: dict[str, Any]) -> None:
    tifffile.imwrite(tmp_path / "a.tif", data.chelsea(), photometric="rgb", metadata=None, **how)
    assert np.array_equal(read_image(str(tmp_path / "a.tif"), RULES).pixels, data.chelsea())


def test_a_header_that_says_two_things_about_the_picture_is_refused(tmp_path: Path) -> None:
    """Decoders do not agree on which of the two is meant: one was checked and the other unpacked."""
    file = bytearray(tiled(100, 100, 112, 112))
    at = file.index(b"\x43\x01\x04\0")  # 323 becomes a second 322
    file[at : at + 2] = b"\x42\x01"
    file[at + 8 : at + 12] = (24_000).to_bytes(4, "little")
    (tmp_path / "a.tif").write_bytes(file)
    with pytest.raises(UnreadableImage, match="two things about its picture"):
        read_image(str(tmp_path / "a.tif"), RULES)


# Scans


def progressive(**how: Any) -> bytes:
    file = io.BytesIO()
    CAT.save(file, "JPEG", progressive=True, **how)
    return file.getvalue()


def repeated(jpeg: bytes, times: int) -> bytes:
    """The last scan so many times more."""
    last, end = jpeg.rindex(b"\xff\xda"), jpeg.rindex(b"\xff\xd9")
    return jpeg[:end] + jpeg[last:end] * times + jpeg[end:]


def test_the_scans_of_an_encoder_are_counted_and_within_bounds(tmp_path: Path) -> None:
    assert bounds.scans(progressive(), 100) == 10
    file = io.BytesIO()
    CAT.save(file, "JPEG", restart_marker_blocks=1)
    assert bounds.scans(file.getvalue(), 100) == 1
    assert bounds.scans(progressive(exif=b"Exif\0\0" + b"\xff\xda" * 500), 100) == 10


def test_a_jpeg_whose_end_was_erased_to_ones_is_counted_in_one_pass() -> None:
    """As flash memory does it. Looked at from each of these bytes anew, they would take hours, with Python's lock."""
    whole = progressive()
    assert bounds.scans(whole[:-1000] + b"\xff" * (1 << 22), 100) == 10
    assert bounds.scans(whole[:-1000] + b"\xff" * (1 << 22) + b"\0" + whole[-1000:], 100) == 10


def test_a_jpeg_with_more_than_100_scans_is_too_large(tmp_path: Path, no_decoder: None) -> None:
    said = refusal(tmp_path / "a.jpg", repeated(progressive(), 91))
    assert said == "more than 100 scans, each of which paints the picture again"


def test_a_jpeg_with_100_scans_is_opened(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(repeated(progressive(), 90))
    assert read_image(str(tmp_path / "a.jpg"), RULES).pixels.shape == (300, 451, 3)


def test_of_the_largest_pictures_fewer_scans_are_taken() -> None:
    jpeg = repeated(progressive(), 15)
    assert bounds.too_much_jpeg(jpeg, 12_000_000, 120_000_000) is None
    assert bounds.too_much_jpeg(jpeg, 120_000_000, 120_000_000) is not None
    assert bounds.too_much_jpeg(progressive(), 120_000_000, 120_000_000) is None
