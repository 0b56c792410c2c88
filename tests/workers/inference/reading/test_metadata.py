"""Nothing that lies beside a picture costs it: no wrong checksum, no size, no bomb. What turns it still turns it."""

import io
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from skimage import data

from tests.memory import traced
from tests.workers.inference import handmade
from workers.errors import ErrorClass
from workers.inference.reading import images, metadata
from workers.inference.reading.images import ReadRules, UnreadableImage, read_image

RULES = ReadRules()
CAT = Image.fromarray(data.chelsea()[:96, :128])
TURNED = np.asarray(CAT).transpose(1, 0, 2)[:, ::-1]
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="6"/></x:xmpmeta>'


def saved(kind: str = "PNG", **how: Any) -> bytes:
    file = io.BytesIO()
    CAT.save(file, kind, **how)
    return file.getvalue()


def with_chunk(chunk: bytes, *, behind: bool = False) -> bytes:
    png = saved()
    at = png.rindex(b"IEND") - 4 if behind else 33
    return png[:at] + chunk + png[at:]


def damaged(kind: bytes, body: bytes) -> bytes:
    chunk = bytearray(handmade.png_chunk(kind, body))
    chunk[-1] ^= 0xFF
    return bytes(chunk)


def read(path: Path, content: bytes) -> np.ndarray[Any, Any]:
    path.write_bytes(content)
    return read_image(str(path), RULES).pixels


@pytest.mark.parametrize("behind", [False, True], ids=["before the pixels", "behind them"])
@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt", b"tIME", b"pHYs", b"gAMA", b"cHRM", b"sRGB", b"iCCP",
                                  b"eXIf", b"bKGD", b"sBIT", b"tRNS", b"acTL", b"fcTL", b"prVt"])  # fmt: skip
def test_a_wrong_checksum_beside_the_picture_costs_nothing(tmp_path: Path, kind: bytes, behind: bool) -> None:
    content = with_chunk(damaged(kind, b"k\0\0whatever"), behind=behind)
    assert np.array_equal(read(tmp_path / "a.png", content), np.asarray(CAT))


def test_a_wrong_checksum_of_the_picture_itself_is_refused(tmp_path: Path) -> None:
    png = bytearray(saved())
    png[png.index(b"IDAT") + 40] ^= 0xFF
    (tmp_path / "a.png").write_bytes(png)
    with pytest.raises(UnreadableImage) as refused:
        read_image(str(tmp_path / "a.png"), RULES)
    assert refused.value.error_class == ErrorClass.DECODER_CRASH


MEGABYTES = np.random.default_rng(0).bytes(1_500_000)
LARGE: dict[str, Callable[[], bytes]] = {
    "XMP": lambda: with_chunk(handmade.png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + bytes(1_500_000))),
    "packed XMP": lambda: with_chunk(
        handmade.png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(MEGABYTES))
    ),
    "EXIF": lambda: with_chunk(handmade.png_chunk(b"eXIf", b"II*\0\x08\0\0\0\0\0" + MEGABYTES)),
    "a colour profile": lambda: with_chunk(handmade.png_chunk(b"iCCP", b"k\0\0" + zlib.compress(MEGABYTES))),
    "a text": lambda: with_chunk(handmade.png_chunk(b"zTXt", b"k\0\0" + zlib.compress(MEGABYTES)), behind=True),
    "a JPEG's profile": lambda: saved("JPEG", icc_profile=MEGABYTES, quality=100, subsampling=0),
    "a WEBP's profile": lambda: saved("WEBP", icc_profile=MEGABYTES, lossless=True),
    "a WEBP's XMP": lambda: saved("WEBP", xmp=MEGABYTES, lossless=True),
}


@pytest.mark.parametrize("content", LARGE.values(), ids=LARGE)
def test_megabytes_beside_the_picture_cost_nothing(tmp_path: Path, content: Callable[[], bytes]) -> None:
    off = np.abs(read(tmp_path / "a", content()).astype(int) - np.asarray(CAT))
    assert off.max() < 12


# Made in their tests: each process reads this file, and one of them runs these.
BOMBS = {
    "text": lambda: handmade.png_chunk(b"iTXt", b"k\0\1\0\0\0" + handmade.packed_zeros(100)),
    "XMP": lambda: handmade.png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + handmade.packed_zeros(100)),
    "EXIF as text": lambda: handmade.png_chunk(b"zTXt", b"Raw profile type exif\0\0" + handmade.packed_zeros(100)),
    "colour profile": lambda: handmade.png_chunk(b"iCCP", b"k\0\0" + handmade.packed_zeros(100)),
    "many texts": lambda: handmade.png_chunk(b"zTXt", b"k\0\0" + handmade.packed_zeros(1)) * 70,
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_bomb_beside_the_picture_is_never_unpacked(bomb: Callable[[], bytes]) -> None:
    content = with_chunk(bomb())
    with traced() as memory:
        pixels, _ = images._decode(content, RULES)
    assert np.array_equal(pixels, np.asarray(CAT))
    assert memory.peak < 20_000_000


def exif() -> Image.Exif:
    block = Image.Exif()
    block[0x0112] = 6
    return block


def png_info(key: str, text: str, *, packed: bool) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_itxt(key, text, zip=packed) if key.startswith("XML") else info.add_text(key, text, zip=packed)
    return info


RAW_EXIF = f"\nexif\n{len(exif().tobytes()):8}\n{exif().tobytes().hex()}\n"
SAYING_HOW_IT_STANDS: dict[str, bytes] = {
    "eXIf": saved(exif=exif()),
    "XMP": saved(pnginfo=png_info("XML:com.adobe.xmp", XMP.decode(), packed=False)),
    "packed XMP": saved(pnginfo=png_info("XML:com.adobe.xmp", XMP.decode(), packed=True)),
    "EXIF as packed text": saved(pnginfo=png_info("Raw profile type exif", RAW_EXIF, packed=True)),
    "EXIF as text": saved(pnginfo=png_info("Raw profile type exif", RAW_EXIF, packed=False)),
}


@pytest.mark.parametrize("png", SAYING_HOW_IT_STANDS.values(), ids=SAYING_HOW_IT_STANDS)
def test_what_says_how_a_png_stands_is_still_heard_beside_damage(tmp_path: Path, png: bytes) -> None:
    content = png[:33] + damaged(b"tIME", bytes(7)) + png[33:]
    assert np.array_equal(read(tmp_path / "a.png", content), TURNED)


def test_a_jpeg_keeps_what_its_colours_and_its_axes_depend_on_and_no_more() -> None:
    jpeg = saved("JPEG", exif=exif(), xmp=XMP, icc_profile=MEGABYTES[:100_000], comment=b"hello")
    kept = metadata.without_metadata(jpeg)
    assert b"ICC_PROFILE" in jpeg
    assert b"ICC_PROFILE" not in kept
    assert b"hello" not in kept
    assert b"Exif\0\0" in kept
    assert XMP in kept
    assert b"JFIF" in kept


def test_a_file_without_anything_beside_its_picture_is_not_copied() -> None:
    for content in (saved(), saved("BMP"), b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n"):
        assert metadata.without_metadata(content) is content
