"""Samples of more than 8 bits: what the file declares is what counts, and a picture that fills little of it is told."""

import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image
from skimage import data

from tests.workers.inference import handmade
from workers.errors import ErrorClass
from workers.inference.reading.images import (
    ReadImage,
    ReadRules,
    UnreadableImage,
    read_image,
)
from workers.inference.reading.samples import LITTLE_RANGE
from workers.places.location import FileSeen

RULES = ReadRules()
STRETCH = ReadRules(stretch=True)
CAT = data.chelsea()
GREY = CAT[..., 1]
Deep = npt.NDArray[np.uint16]


def packed_12_bits(values: Deep) -> bytes:
    """Two samples in three bytes, each row from a byte of its own."""
    padded = np.pad(values, ((0, 0), (0, values.shape[1] % 2))).astype(np.uint32)
    pairs = padded[:, ::2] << 12 | padded[:, 1::2]
    rows = (
        np.stack([pairs >> 16 & 255, pairs >> 8 & 255, pairs & 255], axis=2).astype(np.uint8).reshape(len(values), -1)
    )
    return rows[:, : (values.shape[1] * 12 + 7) // 8].tobytes()


def tiff_12_bits(values: Deep, *more: handmade.Tag) -> bytes:
    height, width = values.shape
    packed = packed_12_bits(values)
    grey: list[handmade.Tag] = [(258, 3, 1, 12), (262, 3, 1, 1), (277, 3, 1, 1), (273, 4, 1, packed)]
    return handmade.tiff(width, height, *grey, (279, 4, 1, len(packed)), *more)


def read(path: Path, content: bytes, rules: ReadRules = RULES) -> ReadImage:
    path.write_bytes(content)
    return read_image(str(path), rules)


def written(path: Path, pixels: npt.NDArray[Any], **how: Any) -> str:
    kind = "rgb" if pixels.ndim == 3 else "minisblack"
    tifffile.imwrite(path, pixels, **{"photometric": kind, "metadata": None} | how)
    return str(path)


def wide(pixels: npt.NDArray[np.uint8]) -> Deep:
    """The same picture in 16 bits, with something in the low byte."""
    return pixels.astype(np.uint16) * 256 + 77


def as_rgb(grey: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.repeat(grey[..., None], 3, axis=2)


# By the bits that the file declares


def test_12_bits_are_brought_to_8_by_their_own_range(tmp_path: Path) -> None:
    image = read(tmp_path / "a.tif", tiff_12_bits(GREY.astype(np.uint16) * 16 + 5))
    assert np.array_equal(image.pixels, as_rgb(GREY))
    assert image.warning is None


@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("planes", ["contig", "separate"])
def test_16_bit_colours_of_a_tiff_keep_their_high_bytes(
    tmp_path: Path, byteorder: str, compression: str | None, planes: str
) -> None:
    deep = wide(CAT) if planes == "contig" else np.moveaxis(wide(CAT), 2, 0)
    how = {"byteorder": byteorder, "compression": compression, "planarconfig": planes}
    image = read_image(written(tmp_path / "a.tif", deep, **how), RULES)
    assert np.array_equal(image.pixels, CAT)
    assert image.warning is None


def test_16_bits_in_which_0_is_white_are_no_negative(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tif", 65535 - wide(GREY), photometric="miniswhite")
    assert np.array_equal(read_image(path, RULES).pixels, as_rgb(GREY))
    path = written(tmp_path / "b.tif", 65535 - wide(GREY), photometric="miniswhite", byteorder=">")
    assert np.array_equal(read_image(path, RULES).pixels, as_rgb(GREY))  # which Pillow does not open


# What fills little of its range


def png_16_bits(values: Deep, colour: int, *chunks: bytes) -> bytes:
    """`colour`: 0 grey, 2 RGB, 4 grey with alpha, 6 RGB with alpha."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = bytearray(handmade.png_header(values.shape[1], values.shape[0], depth=16)[8:])
    kind = header[8:16] + bytes([16, colour, 0, 0, 0])
    body = [handmade.png_chunk(b"IHDR", bytes(kind)), *chunks, handmade.png_chunk(b"IDAT", zlib.compress(rows))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body) + handmade.png_chunk(b"IEND", b"")


@pytest.mark.parametrize(("values", "warned"), [(GREY, True), (GREY.astype(np.uint16) * 16, True),
                                                (GREY.astype(np.uint16) * 40, False),
                                                (GREY.astype(np.uint16) * 4 + 40_000, True)],
                         ids=["8 bits", "12 bits", "0..10000", "bright but of one grey"])  # fmt: skip
@pytest.mark.parametrize("name", ["grey.tif", "colour.tif", "planes.tif", "grey.png", "colour.png"])
def test_a_picture_that_fills_less_than_a_sixteenth_of_16_bits_is_done_with_a_warning(
    tmp_path: Path, name: str, values: Deep, warned: bool
) -> None:
    deep = values.astype(np.uint16)
    kind, _, suffix = name.partition(".")
    pixels = deep if kind == "grey" else np.stack([deep] * 3, axis=0 if kind == "planes" else 2)
    if suffix == "png":
        image = read(tmp_path / name, png_16_bits(pixels, 0 if kind == "grey" else 2))
    else:
        how: dict[str, Any] = {"planarconfig": "separate"} if kind == "planes" else {}
        image = read_image(written(tmp_path / name, pixels, **how), RULES)
    assert image.warning == (LITTLE_RANGE if warned else None)
    assert np.array_equal(image.pixels, as_rgb((deep >> 8).astype(np.uint8)))


def test_12_bits_that_fill_little_of_12_bits_are_warned_of_too(tmp_path: Path) -> None:
    assert read(tmp_path / "a.tif", tiff_12_bits(GREY.astype(np.uint16) // 2)).warning == LITTLE_RANGE


def test_a_hot_pixel_hides_nothing(tmp_path: Path) -> None:
    deep = GREY.astype(np.uint16)
    deep[7, 7] = 65535
    path = written(tmp_path / "a.tif", deep)
    assert read_image(path, RULES).warning == LITTLE_RANGE
    assert np.array_equal(read_image(path, STRETCH).pixels, as_rgb(expected(deep)))


def test_the_bits_that_a_png_calls_significant_change_nothing(tmp_path: Path) -> None:
    """By its standard samples fill 16 bits all the same."""
    chunk = handmade.png_chunk(b"sBIT", bytes([12]))
    image = read(tmp_path / "a.png", png_16_bits(wide(GREY), 0, chunk))
    assert np.array_equal(image.pixels, as_rgb(GREY))
    assert image.warning is None


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg"])
def test_8_bits_are_never_warned_of_nor_stretched(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    Image.fromarray(GREY // 20).save(path)
    plain, stretched = read_image(str(path), RULES), read_image(str(path), STRETCH)
    assert np.array_equal(plain.pixels, stretched.pixels)
    assert plain.warning is stretched.warning is None


# Stretched


def expected(values: Deep) -> npt.NDArray[np.uint8]:
    low, high = np.percentile(values, 0.1, method="inverted_cdf"), np.percentile(values, 99.9, method="inverted_cdf")
    return ((values.astype(float) - low) * 255 / (high - low)).clip(0, 255).round().astype(np.uint8)


DARK = CAT.astype(np.uint16) * 3 + 500  # fills 1.2 % of 16 bits
ALPHA = np.full((*GREY.shape, 1), 40_000, np.uint16)


@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("extra", [None, "unspecified", "assocalpha", "unassalpha"])
def test_a_tiff_is_stretched_from_its_own_range_with_one_range_for_all_colours(
    tmp_path: Path, byteorder: str, compression: str | None, extra: str | None
) -> None:
    deep = DARK if extra is None else np.concatenate([DARK, ALPHA], axis=2)
    how: dict[str, Any] = {"byteorder": byteorder, "compression": compression}
    if extra:
        how["extrasamples"] = [extra]
    image = read_image(written(tmp_path / "a.tif", deep, **how), STRETCH)
    assert np.array_equal(image.pixels, expected(DARK))
    assert image.warning is None


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_colours_in_separate_planes_are_stretched_too(tmp_path: Path, compression: str | None) -> None:
    path = written(tmp_path / "a.tif", np.moveaxis(DARK, 2, 0), planarconfig="separate", compression=compression)
    assert np.array_equal(read_image(path, STRETCH).pixels, expected(DARK))
    path = written(tmp_path / "b.tif", np.moveaxis(CAT, 2, 0), planarconfig="separate")
    assert np.array_equal(read_image(path, STRETCH).pixels, CAT)


@pytest.mark.parametrize("colour", [0, 2, 4, 6], ids=["grey", "RGB", "grey and alpha", "RGBA"])
def test_a_png_is_stretched_from_its_own_range(tmp_path: Path, colour: int) -> None:
    shown = DARK[..., :1] if colour in (0, 4) else DARK
    deep = np.concatenate([shown, ALPHA], axis=2) if colour in (4, 6) else shown
    image = read(tmp_path / "a.png", png_16_bits(deep, colour), STRETCH)
    assert np.array_equal(image.pixels, np.broadcast_to(expected(shown), CAT.shape))
    assert image.warning is None


def test_grey_is_stretched_in_every_layout_and_upright(tmp_path: Path) -> None:
    grey = DARK[..., 0]
    layouts: list[dict[str, Any]] = [{"byteorder": ">"}, {"compression": "zlib"}, {"tile": (64, 64)}]
    for how in layouts:
        path = written(tmp_path / "a.tif", grey, **how)
        assert np.array_equal(read_image(path, STRETCH).pixels, as_rgb(expected(grey)))
    turned = written(tmp_path / "d.tif", DARK, extratags=[(274, "H", 1, 6, True)])
    upright = expected(DARK).transpose(1, 0, 2)[:, ::-1]
    assert np.array_equal(read_image(turned, STRETCH).pixels, upright)
    assert np.array_equal(read_image(turned, replace(STRETCH, orientation="raw")).pixels, expected(DARK))
    assert np.array_equal(read(tmp_path / "e.tif", tiff_12_bits(grey), STRETCH).pixels, as_rgb(expected(grey)))


def test_a_picture_of_one_value_stays_as_it_is(tmp_path: Path) -> None:
    flat = np.full((20, 20), 0x4321, np.uint16)
    for rules in (RULES, STRETCH):
        assert (read_image(written(tmp_path / "a.tif", flat), rules).pixels == 0x43).all()


def test_inks_are_not_stretched_and_stay_warned_of(tmp_path: Path) -> None:
    inks = np.zeros((40, 40, 4), np.uint16)
    path = written(tmp_path / "a.tif", inks, photometric="separated")
    assert read_image(path, STRETCH).warning == LITTLE_RANGE


# The file as it was read


def test_size_and_time_of_the_file_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(CAT).save(path)
    assert read_image(str(path), RULES).file == seen(path)


def test_size_and_time_are_told_also_of_a_file_that_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(CAT).save(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UnreadableImage) as refused:
        read_image(str(path), RULES)
    assert refused.value.error_class == ErrorClass.TRUNCATED
    assert refused.value.file == seen(path)


def seen(path: Path) -> FileSeen:
    return FileSeen(path.stat().st_size, path.stat().st_mtime_ns)


def test_of_a_file_that_is_too_large_to_be_read_they_are_told_and_of_one_that_is_not_there_nothing(
    tmp_path: Path,
) -> None:
    (tmp_path / "a").write_bytes(bytes(100))
    for name, size in {"a": 100, "missing": None}.items():
        with pytest.raises(UnreadableImage) as refused:
            read_image(str(tmp_path / name), replace(RULES, max_bytes=99))
        assert (refused.value.file.size if refused.value.file else None) == size
