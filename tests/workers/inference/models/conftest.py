"""A tiny SAM3 and the same one in the library, their pictures, and checkpoints of the families beside it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from transformers import Sam3Model, Sam3Processor

from tests.workers.inference.models.sam3_answers import Library
from workers.inference.models.sam3_model import Sam3Segmenter
from workers.inference.reading.images import RGB
from workers.tiny.pair import write_random_pair
from workers.tiny.tracker import write_random_tracker


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A Grounding DINO and a SAM2 that find something in every photograph."""
    detector, _, masks = write_random_pair(tmp_path_factory.mktemp("pair")).partition("+")
    return Path(detector), Path(masks)


@pytest.fixture(scope="session")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SAM3 whose tracker finds something in every photograph."""
    return write_random_tracker(tmp_path_factory.mktemp("tracker"))


@pytest.fixture(scope="module")
def segmenter(checkpoint: Path) -> Sam3Segmenter:
    return Sam3Segmenter(checkpoint, model_name="tiny")


@pytest.fixture(scope="session")
def pictures(photographs: dict[str, RGB]) -> list[RGB]:
    """Eight photographs of eight sizes and shapes, from 100 x 900 to 1411 x 1411 pixels."""
    folder = Path(data.__file__).parent
    more = []
    for name in ("retina.jpg", "hubble_deep_field.jpg", "motorcycle_left.png"):
        with Image.open(folder / name) as image:
            more.append(np.array(image.convert("RGB")))
    more.append(np.array(Image.fromarray(photographs["chelsea"]).resize((100, 900))))
    return [*photographs.values(), *more]


@pytest.fixture(scope="session")
def picture_files(pictures: list[RGB], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("pictures")
    paths = [str(folder / f"{number}.png") for number in range(len(pictures))]
    for path, pixels in zip(paths, pictures, strict=True):
        Image.fromarray(pixels).save(path)
    return paths


@pytest.fixture(scope="session")
def library(checkpoint: Path) -> Library:
    model = Sam3Model.from_pretrained(checkpoint, dtype=torch.float32)
    return Library(model, Sam3Processor.from_pretrained(checkpoint))
