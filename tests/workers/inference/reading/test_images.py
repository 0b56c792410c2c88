"""The pixels of every format and mode, as a plain script with Pillow would have them."""

import io
import os
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from skimage import data

from tests.workers.inference import handmade
from tests.workers.inference.reading.refusals import RULES, as_jpeg, refusal
from workers.errors import ErrorClass
from workers.inference.reading import images
from workers.inference.reading.images import RGB, read_image

Save = Callable[..., str]


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.webp"])
def test_a_lossless_file_gives_its_pixels(cat: Image.Image, save: Save, name: str) -> None:
    how = {"lossless": True} if name == "a.webp" else {}
    assert np.array_equal(read_image(save(cat, name, **how), RULES).pixels, np.asarray(cat))


@pytest.mark.parametrize("how", [{}, {"progressive": True}, {"subsampling": 0}])
def test_a_jpeg_gives_what_pillow_gives(cat: Image.Image, save: Save, how: dict[str, bool]) -> None:
    path = save(cat, "a.jpg", **how)
    with Image.open(path) as image:
        assert np.array_equal(read_image(path, RULES).pixels, np.asarray(image))


JPEGS: dict[str, tuple[str, dict[str, object]]] = {  # a kind of JPEG: Pillow's mode and how to save it
    "4:4:4": ("RGB", {"subsampling": 0}),
    "4:2:2": ("RGB", {"subsampling": 1}),
    "4:2:0": ("RGB", {"subsampling": 2}),
    "4:1:1": ("RGB", {"subsampling": "4:1:1"}),
    "progressive": ("RGB", {"progressive": True, "quality": 30}),
    "restart markers": ("RGB", {"restart_marker_blocks": 8, "quality": 95}),
    "RGB inside": ("RGB", {"keep_rgb": True}),
    "grey": ("L", {}),
    "grey, progressive": ("L", {"progressive": True}),
}


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("cut", [(0, 0), (1, 0), (0, 1), (7, 13)])
def test_the_fast_decoder_gives_pillows_pixels_to_the_last_bit(
    photographs: dict[str, RGB], kind: str, cut: tuple[int, int]
) -> None:
    mode, how = JPEGS[kind]
    for pixels in photographs.values():
        height, width = pixels.shape[:2]
        jpeg = as_jpeg(Image.fromarray(pixels[: height - cut[0], : width - cut[1]]).convert(mode), **how)
        with Image.open(io.BytesIO(jpeg)) as image:
            fast = images._fast_pixels(image, jpeg)
            assert fast is not None
            assert np.array_equal(fast, np.asarray(image.convert("RGB")))


def test_cmyk_is_left_to_pillow(cat: Image.Image) -> None:
    jpeg = as_jpeg(cat.convert("CMYK"))
    with Image.open(io.BytesIO(jpeg)) as image:
        assert images._fast_pixels(image, jpeg) is None


def test_the_pixels_are_writable_rgb(cat: Image.Image, save: Save) -> None:
    pixels = read_image(save(cat, "a.png"), RULES).pixels
    assert pixels.shape == (300, 451, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable


def test_the_content_decides_not_the_extension(cat: Image.Image, save: Save, tmp_path: Path) -> None:
    path = save(cat, "a.png")
    os.rename(path, tmp_path / "a.jpg")
    assert np.array_equal(read_image(str(tmp_path / "a.jpg"), RULES).pixels, np.asarray(cat))


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "RGBA", "LA"])
def test_other_modes_become_rgb_as_in_a_plain_script(cat: Image.Image, save: Save, mode: str) -> None:
    converted = cat.convert(mode)
    path = save(converted, "a.tif" if mode == "CMYK" else "a.png")
    assert np.array_equal(read_image(path, RULES).pixels, np.asarray(converted.convert("RGB")))


def test_a_cmyk_jpeg_is_not_inverted(cat: Image.Image, save: Save) -> None:
    difference = read_image(save(cat.convert("CMYK"), "a.jpg"), RULES).pixels.astype(int) - np.asarray(cat)
    assert np.abs(difference).mean() < 5


def test_alpha_is_dropped_and_what_was_hidden_shows(cat: Image.Image, save: Save) -> None:
    hidden = cat.copy()
    hidden.putalpha(0)
    assert np.array_equal(read_image(save(hidden, "a.png"), RULES).pixels, np.asarray(cat))


def test_a_palette_with_transparency_keeps_its_colours(cat: Image.Image, save: Save) -> None:
    path = save(cat.quantize(64), "a.png", transparency=bytes([0] * 10))
    assert np.array_equal(read_image(path, RULES).pixels, np.asarray(cat.quantize(64).convert("RGB")))


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bit_grey_keeps_its_high_byte(cat: Image.Image, save: Save, name: str) -> None:
    grey = np.asarray(cat.convert("L")).astype(np.uint16) * 256 + 77
    pixels = read_image(save(Image.fromarray(grey), name), RULES).pixels
    assert np.array_equal(pixels, np.repeat((grey >> 8).astype(np.uint8)[:, :, None], 3, axis=2))


def test_16_bit_colour_keeps_its_high_byte(cat: Image.Image, tmp_path: Path) -> None:
    deep = np.asarray(cat).astype(np.uint16) * 256 + 77
    path = tmp_path / "a.png"
    path.write_bytes(png_of_16_bits(deep))
    assert np.array_equal(read_image(str(path), RULES).pixels, np.asarray(cat))


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_32_bit_samples_are_refused(cat: Image.Image, save: Save, kind: type) -> None:
    deep = Image.fromarray(np.asarray(cat.convert("L")).astype(kind))
    assert refusal(save(deep, "a.tif")) == ErrorClass.UNSUPPORTED


@pytest.mark.parametrize("name", ["a.gif", "a.tif", "a.webp", "a.png"])
def test_of_several_frames_the_first_is_taken(cat: Image.Image, save: Save, name: str) -> None:
    black = Image.new("RGB", cat.size)
    path = save(black, name, save_all=True, append_images=[cat])
    assert not read_image(path, RULES).pixels.any()


def test_a_multi_page_scan_gives_its_first_page() -> None:
    folder = Path(data.__file__).parent
    assert read_image(str(folder / "multipage.tif"), RULES).pixels.shape == (15, 10, 3)


def test_a_picture_of_a_camera_with_a_second_one_inside_gives_the_first(cat: Image.Image, save: Save) -> None:
    path = save(cat, "a.mpo", format="MPO", save_all=True, append_images=[Image.new("RGB", cat.size)])
    assert read_image(path, RULES).pixels.any()


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_unless_raw(cat: Image.Image, save: Save, name: str, orientation: int) -> None:
    how = {"lossless": True} if name == "a.webp" else {}
    plain = read_image(save(cat, f"plain-{name}", **how), RULES).pixels
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(cat, name, exif=exif, **how)
    assert np.array_equal(read_image(path, replace(RULES, orientation="raw")).pixels, plain)
    # What EXIF says about the file's first row and first column.
    upright = {
        1: plain,
        2: plain[:, ::-1],
        3: plain[::-1, ::-1],
        4: plain[::-1],
        5: plain.transpose(1, 0, 2),
        6: plain.transpose(1, 0, 2)[:, ::-1],
        7: plain.transpose(1, 0, 2)[::-1, ::-1],
        8: plain.transpose(1, 0, 2)[::-1],
    }
    assert np.array_equal(read_image(path, RULES).pixels, upright[orientation])


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"]
)
def test_broken_exif_is_ignored(cat: Image.Image, save: Save, exif: bytes) -> None:
    for name in ("a.jpg", "a.png", "a.webp"):
        assert read_image(save(cat, name, exif=exif), RULES).pixels.shape == (300, 451, 3)


def test_an_orientation_that_does_not_exist_is_ignored(cat: Image.Image, save: Save) -> None:
    exif = Image.Exif()
    exif[0x0112] = 99
    assert read_image(save(cat, "a.jpg", exif=exif), RULES).pixels.shape == (300, 451, 3)


def test_colour_profiles_are_not_applied_and_broken_ones_do_no_harm(cat: Image.Image, save: Save) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for icc in (profile, b"no profile at all", profile[:50]):
        assert np.array_equal(read_image(save(cat, "a.png", icc_profile=icc), RULES).pixels, np.asarray(cat))


def test_the_pixel_limit_is_ours_and_exact(cat: Image.Image, save: Save) -> None:
    path = save(cat, "a.png")
    assert read_image(path, replace(RULES, max_pixels=451 * 300)).pixels.any()
    assert refusal(path, replace(RULES, max_pixels=451 * 300 - 1)) == ErrorClass.TOO_LARGE


def test_a_phone_photograph_of_108_megapixels_is_within_the_limit() -> None:
    assert RULES.max_pixels >= 12_000 * 9_000


def png_of_16_bits(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint16]]) -> bytes:
    """Pillow reads 16-bit colour, but cannot write it."""
    height, width, _ = pixels.shape
    rows = io.BytesIO()
    for row in pixels:
        rows.write(b"\0" + row.astype(">u2").tobytes())
    body = handmade.png_chunk(b"IDAT", zlib.compress(rows.getvalue())) + handmade.png_chunk(b"IEND", b"")
    return handmade.png_header(width, height, depth=16) + body
