"""What the tests of reading images share."""

import pytest
from PIL import Image

from workers.inference.reading.images import RGB, refuse_what_pillow_warns_of


@pytest.fixture(autouse=True)
def warnings_as_in_a_worker() -> None:
    """Make Pillow's warnings errors, as in a worker. (pytest has filters of its own, and puts them back.)"""
    refuse_what_pillow_warns_of()


@pytest.fixture
def cat(photographs: dict[str, RGB]) -> Image.Image:
    """A photograph of 451 x 300."""
    return Image.fromarray(photographs["chelsea"])
