"""Masks to COCO RLE and back, against pycocotools' own reading of it and torch's own enlarging."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco
from skimage import data

from workers.inference import masks


@pytest.fixture
def horse() -> masks.Mask:
    with Image.open(Path(data.__file__).parent / "horse.png") as image:
        return np.asarray(image.convert("L")) < 128


def test_a_real_silhouette_survives_the_round_trip(horse: masks.Mask) -> None:
    rle = masks.encode(horse)
    height, width = horse.shape
    assert np.array_equal(masks.decode(rle, height, width), horse)
    assert masks.area(rle, height, width) == horse.sum()
    assert len(rle) < 2000


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools with numpy 2
def test_pycocotools_reads_the_bytes_with_the_image_size(horse: masks.Mask) -> None:
    height, width = horse.shape
    decoded = coco.decode({"size": [height, width], "counts": masks.encode(horse)})
    assert np.array_equal(decoded, horse)


def test_memory_order_does_not_matter(horse: masks.Mask) -> None:
    assert masks.encode(np.asfortranarray(horse)) == masks.encode(np.ascontiguousarray(horse))
    assert masks.encode(horse.astype(np.uint8)) == masks.encode(horse)


def test_noise_with_very_many_runs_survives_too() -> None:
    mask = np.random.default_rng(0).random((97, 61)) > 0.5
    assert np.array_equal(masks.decode(masks.encode(mask), 97, 61), mask)


@pytest.mark.parametrize("filled", [False, True])
def test_empty_and_full_masks_are_masks_too(filled: bool) -> None:
    mask = np.full((3, 5), filled)
    rle = masks.encode(mask)
    assert np.array_equal(masks.decode(rle, 3, 5), mask)
    assert masks.area(rle, 3, 5) == mask.sum()


def test_iou_is_intersection_over_union() -> None:
    left, right, nothing = np.zeros((3, 10, 20), dtype=bool)
    left[:, :10] = True
    right[:, 5:15] = True
    one, other, empty = (masks.encode(mask) for mask in (left, right, nothing))
    assert masks.iou(one, other, 10, 20) == pytest.approx(50 / 150)
    assert masks.iou(one, one, 10, 20) == 1
    assert masks.iou(one, empty, 10, 20) == 0
    assert masks.iou(empty, empty, 10, 20) == 1


# Enlarged


def enlarged(small: masks.Floats, height: int, width: int, cut: float) -> bytes:
    """The RLE of the whole frame, made by torch."""
    large = torch.nn.functional.interpolate(
        torch.from_numpy(small)[None, None], size=(height, width), mode="bilinear", align_corners=False
    )
    return masks.encode((large[0, 0] > cut).numpy())


def scene(kind: str, rng: np.random.Generator, side: int) -> masks.Floats:
    """Probabilities of shape (side, side), each kind of another difficulty."""
    if kind == "noise":  # an edge in every cell
        return rng.random((side, side), dtype=np.float32)
    y, x = np.mgrid[:side, :side]
    centre, radius = rng.uniform(0, side, (2, 1, 1)), rng.uniform(0, side)
    distance = radius - np.hypot(*(np.stack((y, x)) - centre))  # often over the edges of the frame, or all inside
    steepness = {"soft": 0.3, "sharp": 30}[kind]
    return torch.from_numpy(distance * steepness).float().sigmoid().numpy()


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(["noise", "soft", "sharp"]),
    seed=st.integers(0, 2**32),
    side=st.integers(1, 40),
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    cut=st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9, 1.0]),
)
def test_an_enlarged_mask_is_torchs_to_the_last_pixel(
    kind: str, seed: int, side: int, height: int, width: int, cut: float
) -> None:
    small = scene(kind, np.random.default_rng(seed), side)
    ours, theirs = masks.encode_enlarged(small, height, width, cut), enlarged(small, height, width, cut)
    if ours != theirs:  # then only where the value is the cut itself, but for rounding
        differ = masks.decode(ours, height, width) != masks.decode(theirs, height, width)
        assert np.abs(exactly(small, height, width)[differ] - cut).max(initial=0) < 1e-6


def exactly(small: masks.Floats, height: int, width: int) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """The values enlarged in double precision."""
    double = torch.from_numpy(small).double()[None, None]
    exact = torch.nn.functional.interpolate(double, size=(height, width), mode="bilinear", align_corners=False)
    return cast("np.ndarray[Any, np.dtype[np.float64]]", exact[0, 0].numpy())


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), height=st.integers(8, 300), width=st.integers(8, 300))
def test_plateaus_at_the_cut_differ_only_in_pixels_that_rounding_decides(seed: int, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    small = (np.round(rng.random(rng.integers(1, 40, 2)) * 4) / 4).astype(np.float32)
    ours = masks.decode(masks.encode_enlarged(small, height, width, 0.5), height, width)
    exact = exactly(small, height, width)
    assert np.abs(exact[ours != (exact > 0.5)] - 0.5).max(initial=0) < 1e-4


@pytest.mark.parametrize("size", [(1080, 1920), (1024, 1024), (3000, 4000), (288, 288), (100, 900), (37, 4000)])
def test_a_real_silhouette_is_enlarged_or_shrunk_to_the_last_pixel(horse: masks.Mask, size: tuple[int, int]) -> None:
    logits = np.where(np.asarray(Image.fromarray(horse).resize((288, 288))), 4.0, -4.0) + np.random.default_rng(
        0
    ).normal(size=(288, 288))
    for small, cut in ((1 / (1 + np.exp(-logits)), 0.5), (logits, 0.0)):  # the library's rule and Meta's
        rle = masks.encode_enlarged(small.astype(np.float32), *size, cut)
        assert rle == enlarged(small.astype(np.float32), *size, cut)
        assert 0 < masks.area(rle, *size) < size[0] * size[1]


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_an_enlarged_mask_may_be_empty_or_the_whole_frame(value: float) -> None:
    rle = masks.encode_enlarged(np.full((8, 8), value, np.float32), 30, 50, 0.5)
    assert rle == masks.encode(np.full((30, 50), bool(value)))
