"""What torch's compiler makes of the full-size model for a GPU, counted without one; exact for the pinned torch."""

import importlib.metadata
from typing import Any

import pytest
from transformers import Sam3Config

from benchmarks.architecture import full_size, segmenter_of
from benchmarks.counting import count_ours, count_vision

LAYERS = 2  # of each part: as many as the vision encoder has kinds of attention, and what fuses between two is seen

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(importlib.metadata.version("torch") != "2.14.1", reason="the counts are those of torch 2.14.1"),
]


def test_a_compiled_mixed_batch_of_one_image_takes_half_the_kernels() -> None:
    """Two layers of each part stand for all of them: their kernels repeat, and two minutes of a processor do not."""
    from benchmarks.compiled import Fused, count_parts  # with torch's compiler, for which no other test should wait

    config: Any = Sam3Config()
    vision = config.vision_config.backbone_config
    vision.num_hidden_layers, vision.global_attn_indexes = LAYERS, [LAYERS - 1]
    config.detr_encoder_config.num_layers = config.detr_decoder_config.num_layers = LAYERS
    segmenter = segmenter_of(*full_size("meta", config=config), "meta", "mixed")
    uncompiled = count_ours(segmenter, [("cat",)], found=10, forward_only=True).kernels
    assert count_vision(segmenter._model).kernels == 53
    counted = count_parts(segmenter._model, images=1)
    assert counted == {"see": Fused(20, 19, 1_385_238_016), "find": Fused(99, 81, 1_255_929_716)}
    assert sum(part.kernels for part in counted.values()) < uncompiled * 0.51
