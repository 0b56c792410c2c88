"""Images as nobody wants them: each is told in one line, and nothing of it gets into a result or out of its file."""

import ast
import io
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from PIL import Image
from skimage import data

from tests.workers.inference import handmade
from workers.errors import ErrorClass
from workers.inference.items import Item, Unreadable
from workers.inference.protocol import Options
from workers.inference.reading import images
from workers.inference.reading.images import ReadRules, UnreadableImage, read_image
from workers.inference.stream.pipeline import Pace, segment

RULES = ReadRules()
CAT = Image.fromarray(data.chelsea())
CONVERT = "is not opened; convert to one of JPEG, PNG, WEBP, TIFF, BMP, GIF, AVIF"
NO_RANGE = "such samples have no agreed range; convert to 8 or 16 bits, unsigned"
CUT = "the file's header is cut or damaged"
ENDS = "the file ends before its picture does"
LIMIT = "over the limit of 120,000,000"


def saved(kind: str, image: Image.Image = CAT, **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def other(beginning: bytes) -> Callable[[], bytes]:
    return lambda: beginning + bytes(3000)


# What the file holds, and what is said of it.
REFUSED: dict[str, tuple[Callable[[], bytes], ErrorClass, str]] = {
    "empty": (lambda: b"", ErrorClass.NOT_AN_IMAGE, "the file is empty"),
    "text": (lambda: b"hello", ErrorClass.NOT_AN_IMAGE, "the content is no image"),
    "text that begins like a BMP": (lambda: b"BMW, Audi", ErrorClass.NOT_AN_IMAGE, "the content is no image"),
    "HTML": (
        lambda: b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        ErrorClass.NOT_AN_IMAGE,
        "the content is no image",
    ),
    "Git LFS": (
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        ErrorClass.NOT_AN_IMAGE,
        "the file only names one that Git LFS keeps; run git lfs pull",
    ),
    "zeros": (lambda: bytes(5000), ErrorClass.NOT_AN_IMAGE, "the content is no image"),
    "half a PNG": (
        lambda: half(saved("PNG")),
        ErrorClass.TRUNCATED,
        f"{ENDS} (image file is truncated)",
    ),
    "a JPEG's first bytes": (lambda: saved("JPEG")[:20], ErrorClass.TRUNCATED, CUT),
    "a JPEG without a picture": (lambda: b"\xff\xd8\xff\xd9", ErrorClass.TRUNCATED, CUT),
    "a TIFF without a strip": (
        lambda: handmade.tiff(100, 100, strip=(0xFFFFFFF0, 30_000)),
        ErrorClass.TRUNCATED,
        f"{ENDS} (image file is truncated (0 bytes not processed))",
    ),
    "a BMP whose rows end early": (
        lambda: handmade.bmp(1000, 1000, bits=8, packing=1, data=b"\0\1"),
        ErrorClass.TRUNCATED,
        f"{ENDS} (ValueError: not enough image data)",
    ),
    "PNG header": (
        lambda: handmade.png_header(60_000, 60_000) + handmade.png_chunk(b"IDAT", b""),
        ErrorClass.TOO_LARGE,
        f"60000 x 60000 pixels, {LIMIT}",
    ),
    "JPEG header": (
        lambda: handmade.jpeg_of_size(saved("JPEG"), handmade.JPEG_LIMIT, handmade.JPEG_LIMIT),
        ErrorClass.TOO_LARGE,
        f"65500 x 65500 pixels, {LIMIT}",
    ),
    "TIFF header": (
        lambda: handmade.tiff(60_000, 60_000),
        ErrorClass.TOO_LARGE,
        f"60000 x 60000 pixels, {LIMIT}",
    ),
    "BMP header": (lambda: handmade.bmp(60_000, 60_000), ErrorClass.TOO_LARGE, f"60000 x 60000 pixels, {LIMIT}"),
    "GIF header": (
        lambda: handmade.gif(65_535, 65_535, handmade.gif_frame(0, 0, 10, 10)),
        ErrorClass.TOO_LARGE,
        f"65535 x 65535 pixels, {LIMIT}",
    ),
    "GIF frame larger than its canvas": (
        lambda: handmade.gif(100, 100, handmade.gif_frame(0, 0, 65_535, 65_535)),
        ErrorClass.TOO_LARGE,
        f"65535 x 65535 pixels, {LIMIT}",
    ),
    "a second PNG header": (
        lambda: handmade.png(handmade.png_header(20_000, 20_000)[8:]),
        ErrorClass.TOO_LARGE,
        f"20000 x 20000 pixels, {LIMIT}",
    ),
    "one pixel": (
        lambda: saved("PNG", Image.new("RGB", (1, 1))),
        ErrorClass.TOO_SMALL,
        "1 x 1 pixels; a side needs at least 8",
    ),
    "a line": (
        lambda: saved("PNG", Image.new("RGB", (20_000, 1))),
        ErrorClass.TOO_SMALL,
        "20000 x 1 pixels; a side needs at least 8",
    ),
    "no width": (lambda: handmade.png_header(0, 100), ErrorClass.TRUNCATED, CUT),
    "a GIF without a frame": (lambda: handmade.gif(100, 100), ErrorClass.TRUNCATED, CUT),
    "a WebP animation without a frame": (
        lambda: handmade.webp_canvas(1000, 1000),
        ErrorClass.DECODER_CRASH,
        "cannot be decoded (could not create decoder object)",
    ),
    "half an AVIF": (lambda: half(saved("AVIF")), ErrorClass.TRUNCATED, CUT),
    "JPEG XL": (other(b"\xff\x0a\xfa\x7f"), ErrorClass.UNSUPPORTED, f"JPEG XL {CONVERT}"),
    "a film": (
        other(b"\0\0\0\x18ftypisom\0\0\2\0isomiso2"),
        ErrorClass.UNSUPPORTED,
        "video is no image; save the frames that you want as images",
    ),
    "JPEG 2000": (lambda: saved("JPEG2000"), ErrorClass.UNSUPPORTED, f"JPEG 2000 {CONVERT}"),
    "ICO": (lambda: saved("ICO"), ErrorClass.UNSUPPORTED, f"ICO {CONVERT}"),
    "PDF": (lambda: saved("PDF"), ErrorClass.UNSUPPORTED, f"PDF {CONVERT}"),
    "EPS": (other(b"%!PS-Adobe-3.0 EPSF-3.0\n"), ErrorClass.UNSUPPORTED, f"PostScript {CONVERT}"),
    "PSD": (other(b"8BPS\0\1"), ErrorClass.UNSUPPORTED, f"Photoshop {CONVERT}"),
    "FITS": (other(b"SIMPLE  =                    T"), ErrorClass.UNSUPPORTED, f"FITS {CONVERT}"),
    "SVG": (
        lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        ErrorClass.NOT_AN_IMAGE,
        "the content is no image",
    ),
    "PPM": (lambda: saved("PPM"), ErrorClass.NOT_AN_IMAGE, "the content is no image"),
    "32-bit numbers": (
        lambda: saved("TIFF", Image.new("I", (50, 50))),
        ErrorClass.UNSUPPORTED,
        f"TIFF with 1 x 32 bits, signed: {NO_RANGE}",
    ),
    "floats": (
        lambda: saved("TIFF", Image.new("F", (50, 50))),
        ErrorClass.UNSUPPORTED,
        f"TIFF with 1 x 32 bits, float: {NO_RANGE}",
    ),
}


@pytest.mark.parametrize(("content", "error_class", "message"), REFUSED.values(), ids=REFUSED)
def test_a_bad_image_is_refused_with_its_class_and_one_line(
    tmp_path: Path, content: Callable[[], bytes], error_class: ErrorClass, message: str
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content())
    with pytest.raises(UnreadableImage) as refused:
        read_image(str(path), RULES)
    assert (refused.value.error_class, refused.value.message) == (error_class, message)


def test_files_that_cannot_be_had_say_why(tmp_path: Path) -> None:
    with (tmp_path / "sparse.png").open("wb") as file:
        file.truncate(3 * 1024**3)  # takes no space on disk
    expected = {
        "gone.jpg": (ErrorClass.MISSING, "cannot be opened: No such file or directory"),
        "/proc/self/mem": (ErrorClass.MISSING, "cannot be opened: Input/output error"),
        "sparse.png": (ErrorClass.TOO_LARGE, "3,221,225,472 bytes, over the limit of 536,870,912"),
    }
    for name, said in expected.items():
        with pytest.raises(UnreadableImage) as refused:
            read_image(str(tmp_path / name), RULES)
        assert (refused.value.error_class, refused.value.message) == said


def test_pixels_that_unpack_to_more_than_the_picture_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(handmade.png(pixels=handmade.packed_zeros(100)))
    assert read_image(str(tmp_path / "a.png"), RULES).pixels.shape == (100, 100, 3)


def test_every_bad_image_fails_alone_and_its_neighbours_are_segmented(tmp_path: Path, fake: Any) -> None:
    items: list[Item] = []
    expected: dict[int, ErrorClass | None] = {}
    for number, (content, error_class, _) in enumerate(REFUSED.values()):
        good, bad = tmp_path / f"{number}-good.png", tmp_path / f"{number}-bad.jpg"
        Image.new("RGB", (20, 20), "white").save(good)
        bad.write_bytes(content())
        items += [Item(2 * number, str(good), ("cat",)), Item(2 * number + 1, str(bad), ("cat",))]
        expected |= {2 * number: None, 2 * number + 1: error_class}
    batches = segment(items, fake, RULES, Options(), Pace(batch_size=4))
    outcomes = [outcome for batch in batches for outcome in batch]
    assert [outcome.id for outcome in outcomes] == list(expected)
    assert {one.id: one.error_class if isinstance(one, Unreadable) else None for one in outcomes} == expected


# Warnings


def test_what_pillow_merely_warns_of_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit of Pillow's own stands for whatever a later release may warn of."""
    (tmp_path / "a.png").write_bytes(saved("PNG"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 451 * 300 - 1)
    with pytest.raises(UnreadableImage, match="DecompressionBombWarning") as refused:
        read_image(str(tmp_path / "a.png"), RULES)
    assert refused.value.error_class == ErrorClass.DECODER_CRASH


HARMLESS = {
    "an animation's broken header": lambda: handmade.png(handmade.png_chunk(b"acTL", bytes(8))),
    "a broken table of further pictures": lambda: (
        saved("JPEG")[:2] + b"\xff\xe2\0\x64MPF\0II*\0\x08\0\0\0" + 86 * b"\xff" + saved("JPEG")[2:]
    ),
    "EXIF that ends early": lambda: saved("JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(24)),
    "EXIF whose data lie outside": lambda: saved(
        "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\1\0\x0f\x01\2\0\xff\xff\0\0\xf0\xff\0\0" + bytes(4)
    ),
    "a TIFF whose maker's name lies outside": lambda: handmade.tiff(100, 100, (271, 2, 0xFFFFFF, 8)),
}


@pytest.mark.parametrize("content", HARMLESS.values(), ids=HARMLESS)
def test_a_warning_about_something_beside_the_picture_costs_nothing(
    tmp_path: Path, content: Callable[[], bytes]
) -> None:
    (tmp_path / "a").write_bytes(content())
    pixels = read_image(str(tmp_path / "a"), RULES).pixels
    with Image.open(tmp_path / "a") as image:
        assert np.array_equal(pixels, np.asarray(image.convert("RGB")))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Image.open(tmp_path / "a") as image:
            image.getexif()
    assert any(re.match("|".join(images._HARMLESS), str(one.message)) for one in caught)


TAGS_OF_THE_PICTURE = {"bits": (258, 3), "photometric": (262, 3), "strips": (273, 4)}


@pytest.mark.parametrize(("number", "kind"), TAGS_OF_THE_PICTURE.values(), ids=TAGS_OF_THE_PICTURE)
def test_a_tiff_without_a_tag_that_its_picture_needs_is_refused_and_not_guessed(
    tmp_path: Path, number: int, kind: int
) -> None:
    """Pillow leaves out a tag whose data lie outside of the file, and only warns."""
    (tmp_path / "a.tif").write_bytes(handmade.tiff(100, 100, (number, kind, 0xFFFFFF, 8)))
    with pytest.raises(UnreadableImage) as refused:
        read_image(str(tmp_path / "a.tif"), RULES)
    assert (refused.value.error_class, refused.value.message) == (ErrorClass.TRUNCATED, CUT)


def test_whatever_we_let_pass_is_something_that_pillow_says() -> None:
    """A phrase that a release of Pillow changed would be refused from then on: this is where it is noticed."""
    plugins = ("Image", "JpegImagePlugin", "PngImagePlugin", "TiffImagePlugin")
    texts = [Path(PIL.__file__).with_name(f"{name}.py").read_text() for name in plugins]
    said = {
        node.value
        for text in texts
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    for beginning in images._HARMLESS:
        assert any(re.match(beginning, one) for one in said), beginning
