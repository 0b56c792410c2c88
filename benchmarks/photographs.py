"""Photographs as files for the benchmarks: real ones of scikit-image's, resized and noised. Knows no models.

The same seed gives the same pixels everywhere, and the same files for the same Pillow.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from skimage import data

SEED = 20261122
DIFFERENT = 8  # files with pixels of their own; the others are further names of these
NOISE = 4.0  # standard deviation, so that files are about as large as a camera's
QUALITY = 90


@dataclass(frozen=True)
class Kind:
    """Photographs of one size and format. `subjects`: names of functions of `skimage.data`."""

    name: str
    width: int
    height: int
    suffix: str
    subjects: tuple[str, ...] = ("coffee", "rocket", "chelsea", "astronaut")


FULL_HD = Kind("1080p JPEG", 1920, 1080, ".jpg")
KINDS = (
    Kind("640x480 JPEG", 640, 480, ".jpg"),
    FULL_HD,
    Kind("1024x1024 PNG", 1024, 1024, ".png", ("astronaut",)),  # a portrait
    Kind("12 MP JPEG", 4032, 3024, ".jpg"),
)


def write(kind: Kind, folder: Path, count: int) -> list[str]:
    """Write `count` files of a kind into a new `folder`; returns their paths."""
    folder.mkdir(parents=True)
    paths = [folder / f"{number:05}{kind.suffix}" for number in range(count)]
    for number, path in enumerate(paths):
        if number < DIFFERENT:
            how: dict[str, Any] = {"quality": QUALITY} if kind.suffix == ".jpg" else {}
            _photograph(kind, number).save(path, **how)
        else:
            os.link(paths[number % DIFFERENT], path)
    return [str(path) for path in paths]


def _photograph(kind: Kind, number: int) -> Image.Image:
    subject = getattr(data, kind.subjects[number % len(kind.subjects)])()
    resized = Image.fromarray(subject).resize((kind.width, kind.height), Image.Resampling.BICUBIC)
    rng = np.random.default_rng([SEED, number])
    noise = rng.normal(0, NOISE, (kind.height, kind.width, 1)).astype(np.float32)
    return Image.fromarray((np.asarray(resized) + noise).clip(0, 255).astype(np.uint8))
