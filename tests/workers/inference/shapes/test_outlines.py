"""Masks of low resolution to the RLE of their enlarged form, against torch's own enlarging."""

import sys
import threading
import time
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from workers.inference.shapes import masks, outlines

Doubles = np.ndarray[Any, np.dtype[np.float64]]


def enlarged(small: outlines.Floats, height: int, width: int, cut: float) -> bytes:
    """The RLE of the whole frame, made by torch."""
    large = torch.nn.functional.interpolate(
        torch.from_numpy(small)[None, None], size=(height, width), mode="bilinear", align_corners=False
    )
    return masks.encode((large[0, 0] > cut).numpy())


def exactly(small: outlines.Floats, height: int, width: int) -> Doubles:
    """The values enlarged in double precision."""
    double = torch.from_numpy(small).double()[None, None]
    exact = torch.nn.functional.interpolate(double, size=(height, width), mode="bilinear", align_corners=False)
    return cast(Doubles, exact[0, 0].numpy())


def scene(kind: str, rng: np.random.Generator, rows: int, columns: int) -> outlines.Floats:
    """Probabilities of this shape, each kind of another difficulty."""
    if kind == "noise":  # an edge in every cell
        return rng.random((rows, columns), dtype=np.float32)
    y, x = np.mgrid[:rows, :columns]
    (cy, cx), radius = rng.uniform(0, (rows, columns)), rng.uniform(0, max(rows, columns))
    distance = radius - np.hypot(y - cy, x - cx)  # often over the edges of the frame, or all inside
    steepness = {"soft": 0.3, "sharp": 30}[kind]
    return torch.from_numpy(distance * steepness).float().sigmoid().numpy()


def assert_torchs(small: outlines.Floats, height: int, width: int, cut: float, within: float = 1e-6) -> None:
    """To the last pixel; but for pixels whose value is the cut itself, where rounding decides."""
    ((rle, area),) = outlines.encode(small[None], height, width, cut)
    ours = masks.decode(rle, height, width)
    assert area == ours.sum()
    assert rle == masks.encode(ours)  # no run of length 0 in between
    if rle != enlarged(small, height, width, cut):
        differ = ours != masks.decode(enlarged(small, height, width, cut), height, width)
        assert np.abs(exactly(small, height, width)[differ] - cut).max(initial=0) < within


@settings(max_examples=400, deadline=None)
@given(
    kind=st.sampled_from(["noise", "soft", "sharp"]),
    seed=st.integers(0, 2**32),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    cut=st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9, 1.0]),
)
def test_a_mask_enlarged_or_shrunk_is_torchs_to_the_last_pixel(
    kind: str, seed: int, shape: tuple[int, int], size: tuple[int, int], cut: float
) -> None:
    assert_torchs(scene(kind, np.random.default_rng(seed), *shape), *size, cut)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), height=st.integers(1, 300), width=st.integers(1, 300))
def test_random_logits_of_the_models_size_are_torchs_too(seed: int, height: int, width: int) -> None:
    coarse = torch.randn(1, 1, 9, 7, generator=torch.Generator().manual_seed(seed))
    logits = torch.nn.functional.interpolate(coarse, size=288, mode="bicubic")[0, 0].mul(6).numpy()
    assert_torchs(logits, height, width, 0.0, within=1e-4)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), height=st.integers(8, 300), width=st.integers(8, 300))
def test_plateaus_at_the_cut_differ_only_in_pixels_that_rounding_decides(seed: int, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    small = (np.round(rng.random(rng.integers(1, 40, 2)) * 4) / 4).astype(np.float32)
    ours = masks.decode(outlines.encode(small[None], height, width, 0.5)[0][0], height, width)
    exact = exactly(small, height, width)
    assert np.abs(exact[ours != (exact > 0.5)] - 0.5).max(initial=0) < 1e-4


@pytest.mark.parametrize("size", [(1080, 1920), (1024, 1024), (3000, 4000), (288, 288), (100, 900), (37, 4000)])
def test_a_real_silhouette_is_enlarged_or_shrunk_to_the_last_pixel(horse: masks.Mask, size: tuple[int, int]) -> None:
    logits = np.where(np.asarray(Image.fromarray(horse).resize((288, 288))), 4.0, -4.0) + np.random.default_rng(
        0
    ).normal(size=(288, 288))
    for small, cut in ((1 / (1 + np.exp(-logits)), 0.5), (logits, 0.0)):  # the library's rule and Meta's
        ((rle, area),) = outlines.encode(small.astype(np.float32)[None], *size, cut)
        assert rle == enlarged(small.astype(np.float32), *size, cut)
        assert 0 < area < size[0] * size[1]


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("size", [(30, 50), (3, 5), (1, 1), (1, 900), (900, 1)])
def test_a_mask_may_be_empty_or_the_whole_frame(value: float, size: tuple[int, int]) -> None:
    ((rle, area),) = outlines.encode(np.full((1, 8, 8), value, np.float32), *size, 0.5)
    assert rle == masks.encode(np.full(size, bool(value)))
    assert area == value * size[0] * size[1]


def test_a_single_nan_among_many_masks_is_said() -> None:
    small = np.zeros((3, 8, 8), np.float32)
    small[1, 7, 0] = np.nan
    with pytest.raises(ValueError, match="nan in a mask; try --dtype fp32"):
        outlines.encode(small, 30, 50, 0.5)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), kinds=st.lists(st.sampled_from(["noise", "soft", "sharp"]), max_size=8))
def test_many_masks_at_once_are_what_each_is_alone(seed: int, kinds: list[str]) -> None:
    rng = np.random.default_rng(seed)
    small = np.empty((len(kinds), 30, 20), np.float32)
    for number, kind in enumerate(kinds):
        small[number] = scene(kind, rng, 30, 20)
    each = [one for mask in small for one in outlines.encode(mask[None], 97, 61, 0.5)]
    assert outlines.encode(small, 97, 61, 0.5) == each


def test_the_order_in_memory_does_not_matter() -> None:
    small = scene("soft", np.random.default_rng(3), 40, 30)[None]
    assert outlines.encode(np.asfortranarray(small), 97, 61, 0.5) == outlines.encode(small, 97, 61, 0.5)


def test_another_thread_runs_while_a_mask_is_made() -> None:
    """Python takes the lock from no thread here: each has it until it lets go of it by itself."""
    small, ended, turns = scene("noise", np.random.default_rng(0), 288, 288), threading.Event(), 0

    def other() -> None:
        nonlocal turns
        while not ended.is_set():
            turns += 1
            time.sleep(0)  # lets go of the lock

    thread, usual = threading.Thread(target=other), sys.getswitchinterval()
    asked = small[None], outlines._axis(288, 4000), outlines._axis(288, 3000), np.float32(0.5)
    outlines._encode(*asked)  # compiled now, which takes turns with other threads in its own way
    sys.setswitchinterval(1000)
    try:
        thread.start()
        limit = time.monotonic() + 60
        seen = False
        while not seen and time.monotonic() < limit:
            before = turns
            outlines._encode(*asked)
            seen = turns > before
    finally:
        sys.setswitchinterval(usual)
        ended.set()
        thread.join()
    assert seen
