"""What torch's compiler makes of the full-size model for a GPU, counted without one; exact for the pinned torch."""

import importlib.metadata
from typing import Any

import pytest
from transformers import Sam3Config

from benchmarks.architecture import full_size, segmenter_of
from benchmarks.compiled import Fused, count_parts
from benchmarks.counting import count_ours, count_vision

PERIOD = 8  # layers of the vision encoder, a quarter of all: then its kinds of attention repeat

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(importlib.metadata.version("torch") != "2.14.1", reason="the counts are those of torch 2.14.1"),
]


def test_a_compiled_mixed_batch_of_one_image_takes_half_the_kernels() -> None:
    """A quarter of the vision encoder stands for it: 30 seconds of a processor instead of two minutes."""
    config: Any = Sam3Config()
    config.vision_config.backbone_config.num_hidden_layers = PERIOD
    segmenter = segmenter_of(*full_size("meta", config=config), "meta", "mixed")
    uncompiled = count_ours(segmenter, [("cat",)], found=10, forward_only=True).kernels
    assert count_vision(segmenter._model).kernels == 131
    counted = count_parts(segmenter._model, images=1)
    assert counted == {"see": Fused(50, 43, 2_899_070_464), "find": Fused(263, 188, 2_334_624_848)}
    assert sum(part.kernels for part in counted.values()) < uncompiled * 0.51
