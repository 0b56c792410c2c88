"""What tests of reading share: the usual rules, how an image is refused by them, and JPEGs that are made for that."""

import io
from pathlib import Path

import pytest
from PIL import Image

from workers.errors import ErrorClass
from workers.inference.reading.images import ReadRules, UnreadableImage, read_image

RULES = ReadRules()


def refusal(path: str | Path, rules: ReadRules = RULES) -> ErrorClass:
    with pytest.raises(UnreadableImage) as refused:
        read_image(str(path), rules)
    assert refused.value.message
    assert "\n" not in refused.value.message
    return refused.value.error_class


def as_jpeg(image: Image.Image, **how: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **how)
    return file.getvalue()
