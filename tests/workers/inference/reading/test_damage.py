"""Files that are cut or damaged: none is taken for a picture that it is not."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tests.workers.inference.reading.refusals import RULES, as_jpeg, refusal
from workers.errors import ErrorClass
from workers.inference.reading import images
from workers.inference.reading.images import UnreadableImage

Save = Callable[..., str]


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.bmp", "a.gif", "a.tif"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_rejected_and_named(cat: Image.Image, save: Save, name: str, part: float) -> None:
    path = Path(save(cat, name))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    assert refusal(path) == ErrorClass.TRUNCATED


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's word on damaged EXIF
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_damaged_at_random_has_the_outcome_that_pillow_gives_it(
    cat: Image.Image, monkeypatch: pytest.MonkeyPatch, progressive: bool
) -> None:
    rng = np.random.default_rng(progressive)
    whole = as_jpeg(cat, progressive=progressive)
    damaged = [damage(whole, rng) for _ in range(150)]
    ours = [outcome(jpeg) for jpeg in damaged]
    monkeypatch.setattr(images, "_fast_pixels", lambda image, data: None)
    pillows = [outcome(jpeg) for jpeg in damaged]
    assert ours == pillows
    assert len({type(one) for one in ours}) == 2  # some were pictures still, some were refused


def test_a_progressive_jpeg_cut_anywhere_is_truncated(cat: Image.Image, save: Save) -> None:
    path = Path(save(cat, "a.jpg", progressive=True))
    whole = path.read_bytes()
    for size in (3, 20, 200, 300, len(whole) // 3, len(whole) - 50):
        path.write_bytes(whole[:size])
        assert refusal(path) == ErrorClass.TRUNCATED, size


def test_damage_in_the_middle_is_a_decoder_error_and_not_a_picture(cat: Image.Image, save: Save) -> None:
    path = Path(save(cat, "a.png"))
    whole = bytearray(path.read_bytes())
    middle = len(whole) // 2
    whole[middle : middle + 100] = b"\xff" * 100
    path.write_bytes(whole)
    assert refusal(path) == ErrorClass.DECODER_CRASH


def test_anything_else_that_the_decoder_raises_is_a_decoder_crash(
    cat: Image.Image, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(image: Image.Image) -> None:
        raise ZeroDivisionError("in the decoder")

    path = save(cat, "a.png")
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", explode)
    assert refusal(path) == ErrorClass.DECODER_CRASH


def damage(jpeg: bytes, rng: np.random.Generator) -> bytes:
    """Cut, flip a bit, insert, blank, append or drop some bytes."""
    at = int(rng.integers(2, len(jpeg)))
    some = rng.bytes(int(rng.integers(1, 50)))
    flipped = bytes([jpeg[at] ^ 1 << int(rng.integers(8))])
    return [
        jpeg[:at],
        jpeg[:at] + flipped + jpeg[at + 1 :],
        jpeg[:at] + some + jpeg[at:],
        jpeg[:at] + bytes(len(some)) + jpeg[at + len(some) :],
        jpeg + some,
        jpeg[:at] + jpeg[at + len(some) :],
    ][int(rng.integers(6))]


def outcome(jpeg: bytes) -> bytes | tuple[ErrorClass, str]:
    """The picture, or why it was refused."""
    try:
        return images._decode(jpeg, RULES)[0].tobytes()
    except UnreadableImage as refused:
        return refused.error_class, refused.message
