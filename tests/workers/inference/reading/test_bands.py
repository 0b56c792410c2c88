"""TIFFs that Pillow declines: the ordinary ones give the pixels that were written, all others say what they are."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from skimage import data

from tests.workers.inference import handmade
from workers.errors import ErrorClass
from workers.inference.reading.images import ReadRules, UnreadableImage, read_image

RULES = ReadRules()
CAT = data.chelsea()[:96, :128]
FIVE = np.concatenate([CAT, CAT[::-1, :, :2]], axis=2)
CONVERT = "is not opened; convert to one of JPEG, PNG, WEBP, TIFF, BMP, GIF, AVIF"
NO_RANGE = "such samples have no agreed range; convert to 8 or 16 bits, unsigned"


def written(path: Path, pixels: npt.NDArray[Any], **how: Any) -> str:
    tifffile.imwrite(path, pixels, **{"photometric": "minisblack", "metadata": None} | how)
    return str(path)


def refusal(path: str) -> tuple[ErrorClass, str]:
    with pytest.raises(UnreadableImage) as refused:
        read_image(path, RULES)
    return refused.value.error_class, refused.value.message


def expected(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """By the rule of bands: the first three of three to five are the colours, else the first one is grey."""
    eight = values if values.dtype == np.uint8 else (values >> 8).astype(np.uint8)
    chosen = eight[..., :3] if values.shape[2] > 2 else eight[..., :1]
    return np.broadcast_to(chosen, CAT.shape).astype(np.uint8)


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("deep", [False, True], ids=["8 bits", "16 bits"])
@pytest.mark.parametrize("planes", ["contig", "separate"])
@pytest.mark.parametrize("tile", [None, (64, 64)], ids=["strips", "tiles"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_one_to_five_bands_are_opened_whatever_way_they_are_stored(
    tmp_path: Path, bands: int, deep: bool, planes: str, tile: tuple[int, int] | None, compression: str | None
) -> None:
    values = FIVE[..., :bands].astype(np.uint16) * 256 + 77 if deep else FIVE[..., :bands]
    stored = np.moveaxis(values, 2, 0) if planes == "separate" else values
    if bands == 1:
        path = written(tmp_path / "a.tif", values[..., 0], tile=tile, compression=compression)
    else:
        path = written(tmp_path / "a.tif", stored, planarconfig=planes, tile=tile, compression=compression)
    assert np.array_equal(read_image(path, RULES).pixels, expected(values))


@pytest.mark.parametrize(
    ("compression", "deep"),
    [*product(["lzw", "zlib", "packbits", "zstd", "lzma"], [False, True]), ("jpeg", False)],  # JPEG has 8 bits only
)
def test_each_usual_compression_of_colours_that_say_black_is_zero_is_opened(
    tmp_path: Path, compression: str, deep: bool
) -> None:
    values = CAT.astype(np.uint16) * 256 + 77 if deep else CAT
    how = {"predictor": True} if compression in ("lzw", "zlib") else {}
    path = written(tmp_path / "a.tif", values, planarconfig="contig", compression=compression, **how)
    off = np.abs(read_image(path, RULES).pixels.astype(int) - expected(values))
    assert off.mean() < (3 if compression == "jpeg" else 1e-9)


def test_a_bigtiff_of_either_byte_order_is_opened(tmp_path: Path) -> None:
    for order in "<>":
        path = written(tmp_path / "a.tif", CAT, photometric="rgb", bigtiff=True, byteorder=order)
        assert np.array_equal(read_image(path, RULES).pixels, CAT)


def packed(values: npt.NDArray[np.uint16], bits: int) -> bytes:
    """Samples of so many bits, each row from a byte of its own."""
    spread = (values[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(spread.reshape(len(values), -1).astype(np.uint8), axis=1).tobytes()


@pytest.mark.parametrize(("bits", "samples"), [(10, 1), (14, 1), (10, 3), (12, 3)])
def test_packed_samples_are_brought_to_8_bits_by_their_own_range(tmp_path: Path, bits: int, samples: int) -> None:
    shown = CAT[..., :samples]
    content = packed(shown.astype(np.uint16) << (bits - 8), bits)
    every = (258, 3, 1, bits) if samples == 1 else (258, 3, 3, bytes([bits, 0] * 3))
    tags: list[handmade.Tag] = [(262, 3, 1, 1 if samples == 1 else 2), (277, 3, 1, samples)]
    file = handmade.tiff(128, 96, every, *tags, (273, 4, 1, content), (279, 4, 1, len(content)))
    (tmp_path / "a.tif").write_bytes(file)
    assert np.array_equal(read_image(str(tmp_path / "a.tif"), RULES).pixels, np.broadcast_to(shown, CAT.shape))


@pytest.mark.parametrize(("orientation", "rule"), [(6, "exif"), (6, "raw"), (1, "exif")])
def test_the_orientation_is_applied_once_unless_raw(tmp_path: Path, orientation: int, rule: Any) -> None:
    tag = [(274, "H", 1, orientation, True)]
    path = written(tmp_path / "a.tif", np.moveaxis(FIVE, 2, 0), planarconfig="separate", extratags=tag)
    upright = CAT.transpose(1, 0, 2)[:, ::-1] if (orientation, rule) == (6, "exif") else CAT
    assert np.array_equal(read_image(path, ReadRules(orientation=rule)).pixels, upright)


OTHERS: dict[str, tuple[npt.NDArray[Any], str]] = {
    "3 floats": (CAT.astype(np.float32), f"3 x 32 bits, float: {NO_RANGE}"),
    "short floats": (CAT[..., 0].astype(np.float16), f"1 x 16 bits, float: {NO_RANGE}"),
    "3 wide": (CAT.astype(np.uint32), f"3 x 32 bits, unsigned: {NO_RANGE}"),
    "3 signed": (CAT.astype(np.int16), f"3 x 16 bits, signed: {NO_RANGE}"),
    "heights": (CAT[..., 0].astype(np.int16), f"1 x 16 bits, signed: {NO_RANGE}"),
    "signed bytes": (CAT[..., 0].astype(np.int8), f"1 x 8 bits, signed: {NO_RANGE}"),
    "complex": (CAT[..., 0].astype(np.complex64), f"1 x 64 bits, complex float: {NO_RANGE}"),
    "6 bands": (np.concatenate([CAT, CAT], axis=2), f"6 x 8 bits, unsigned, {CONVERT}"),
}


@pytest.mark.parametrize(("pixels", "said"), OTHERS.values(), ids=OTHERS)
def test_what_has_no_agreed_range_or_no_colours_is_told_as_what_it_is(
    tmp_path: Path, pixels: npt.NDArray[Any], said: str
) -> None:
    how = {"planarconfig": "contig"} if pixels.ndim == 3 else {}
    assert refusal(written(tmp_path / "a.tif", pixels, **how)) == (ErrorClass.UNSUPPORTED, f"TIFF with {said}")


@pytest.mark.parametrize(("compression", "said"), [("lerc", "LERC"), ("webp", "WebP"), ("jpeg2000", "JPEG 2000")])
def test_a_compression_that_is_not_opened_is_named(tmp_path: Path, compression: str, said: str) -> None:
    path = written(tmp_path / "a.tif", CAT, photometric="rgb", compression=compression)
    error_class, message = refusal(path)
    assert error_class == ErrorClass.UNSUPPORTED
    assert f"compressed by {said}, {CONVERT}" in message


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
@pytest.mark.parametrize("part", [0.3, 0.7, 0.99])
def test_missing_strips_are_refused_and_not_black(tmp_path: Path, compression: str | None, part: float) -> None:
    """tifffile gives black for what is not there."""
    path = Path(
        written(
            tmp_path / "a.tif",
            np.moveaxis(FIVE, 2, 0),
            planarconfig="separate",
            compression=compression,
            rowsperstrip=16,
        )
    )
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    assert refusal(str(path))[0] == ErrorClass.TRUNCATED
