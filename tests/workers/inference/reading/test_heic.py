"""HEIC by its extra, and AVIF: the picture as it was, turned exactly once or not at all."""

import io
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pillow_heif
import pytest
from PIL import Image
from skimage import data

from workers.errors import ErrorClass
from workers.inference.reading import images
from workers.inference.reading.formats import FORMATS
from workers.inference.reading.images import ReadRules, UnreadableImage, read_image

PLAIN = data.chelsea()[:192, :256]
Pixels = npt.NDArray[np.uint8]


def heic(orientation: int) -> bytes:
    """As cameras write it: turned by a box of its own, with the same told again in EXIF."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = pillow_heif.from_pillow(Image.fromarray(PLAIN))
    file.info["exif"] = exif.tobytes()
    written = io.BytesIO()
    file.save(written, quality=-1, chroma=444)
    return written.getvalue()


def avif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    written = io.BytesIO()
    Image.fromarray(PLAIN).save(written, "AVIF", quality=100, subsampling="4:4:4", exif=exif)
    return written.getvalue()


UPRIGHT: dict[int, Pixels] = {
    1: PLAIN,
    2: PLAIN[:, ::-1],
    3: PLAIN[::-1, ::-1],
    4: PLAIN[::-1],
    5: PLAIN.transpose(1, 0, 2),
    6: PLAIN.transpose(1, 0, 2)[:, ::-1],
    7: PLAIN.transpose(1, 0, 2)[::-1, ::-1],
    8: PLAIN.transpose(1, 0, 2)[::-1],
}


@pytest.mark.parametrize("rule", ["exif", "raw"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("make", [heic, avif], ids=["HEIC", "AVIF"])
def test_a_picture_is_turned_once_or_not_at_all(
    tmp_path: Path, make: Any, orientation: int, rule: Literal["exif", "raw"]
) -> None:
    (tmp_path / "a.jpg").write_bytes(make(orientation))
    pixels = read_image(str(tmp_path / "a.jpg"), ReadRules(orientation=rule)).pixels
    wanted = UPRIGHT[orientation if rule == "exif" else 1]
    assert pixels.shape == wanted.shape
    assert np.abs(pixels.astype(int) - wanted).mean() < 4


@pytest.mark.parametrize("make", [heic, avif], ids=["HEIC", "AVIF"])
@pytest.mark.parametrize("part", [0.2, 0.5, 0.9])
def test_a_file_that_is_cut_is_truncated(tmp_path: Path, make: Any, part: float) -> None:
    whole = make(1)
    (tmp_path / "a").write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(UnreadableImage) as refused:
        read_image(str(tmp_path / "a"), ReadRules())
    assert refused.value.error_class == ErrorClass.TRUNCATED


def test_without_the_extra_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.inference.reading.formats.HEIC_IS_OPENED", False)
    monkeypatch.setattr(images, "_PILLOW_FORMATS", FORMATS)
    (tmp_path / "a.heic").write_bytes(heic(1))
    with pytest.raises(UnreadableImage) as refused:
        read_image(str(tmp_path / "a.heic"), ReadRules())
    assert refused.value.error_class == ErrorClass.UNSUPPORTED
    assert refused.value.message.startswith("HEIC is opened by an extra: pip install 'sam3-queue[heic]' where the")


def test_one_larger_than_allowed_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(heic(1))
    with pytest.raises(UnreadableImage) as refused:
        read_image(str(tmp_path / "a.heic"), ReadRules(max_pixels=1000))
    assert refused.value.error_class == ErrorClass.TOO_LARGE
