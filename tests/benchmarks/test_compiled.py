"""What torch's compiler makes of the full-size model for a GPU, counted without one; exact for the pinned torch."""

import importlib.metadata
from typing import Any

import pytest
import torch
from transformers import Sam3Config

from benchmarks.architecture import full_size, segmenter_of
from benchmarks.counting import count_ours, count_vision
from workers.inference import torch_precision

PERIOD = 8  # layers of the vision encoder, a quarter of all: then its kinds of attention repeat
BATCH_KERNELS = 700  # at most, of one image

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(importlib.metadata.version("torch") != "2.14.1", reason="the counts are those of torch 2.14.1"),
]


@pytest.fixture(scope="module")
def uncompiled() -> int:
    """Kernels of a forward pass with a quarter of the vision encoder."""
    return count_ours(ours(PERIOD), [("cat",)], found=10, forward_only=True).kernels


@pytest.fixture(scope="module")
def quarter() -> dict[str, Any]:
    from benchmarks.compiled import count_parts  # with torch's compiler, for which no other test should wait

    return count_parts(ours(PERIOD)._model, images=1)


@pytest.fixture(scope="module")
def vision(quarter: dict[str, Any]) -> Any:
    """All of the vision encoder, by what a second quarter adds."""
    from benchmarks.compiled import Fused, count_parts

    first, both = quarter["see"], count_parts(ours(2 * PERIOD)._model, images=1, names=["see"])["see"]
    library, made, read_and_written = (
        getattr(first, name) + 3 * (getattr(both, name) - getattr(first, name)) for name in ("library", "made", "bytes")
    )
    return Fused(library, made, read_and_written)


def ours(layers: int) -> Any:
    config: Any = Sam3Config()
    config.vision_config.backbone_config.num_hidden_layers = layers
    return segmenter_of(*full_size("meta", config=config), "meta", "mixed")


def test_a_quarter_takes_what_was_counted_and_three_fifths_of_the_kernels_that_it_takes_uncompiled(
    quarter: dict[str, Any], uncompiled: int
) -> None:
    from benchmarks.compiled import Fused

    assert quarter == {"see": Fused(50, 43, 2_899_070_464), "find": Fused(212, 152, 2_103_902_332)}
    assert sum(part.kernels for part in quarter.values()) < uncompiled * 0.6


def test_a_batch_of_one_image_takes_fewer_than_700_kernels(quarter: dict[str, Any], vision: Any) -> None:
    assert vision.kernels + quarter["find"].kernels <= BATCH_KERNELS


def test_the_vision_encoder_moves_less_than_two_fifths_of_the_bytes_of_the_librarys(vision: Any) -> None:
    """Though those of its normalisations are counted here, and not there."""
    library, _ = full_size("meta")
    torch_precision.cast(library.vision_encoder.backbone, torch.bfloat16)
    assert vision.bytes <= 0.36 * count_vision(library).elementwise_bytes
