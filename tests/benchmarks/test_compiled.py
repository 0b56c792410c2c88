"""What torch's compiler makes of the full-size model for a GPU, counted without one; exact for the pinned torch."""

import importlib.metadata
from typing import Any
from unittest import mock

import pytest
import torch
from transformers import Sam3Config

from benchmarks.architecture import full_size, segmenter_of
from benchmarks.counting import count_ours, count_vision
from workers.inference.models import torch_precision

BATCH_KERNELS = 700  # at most, of one image
PAIRS = 16  # of layers of the vision encoder, if as many worked in windows as do not: 28 of the 32 do

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(importlib.metadata.version("torch") != "2.14.1", reason="the counts are those of torch 2.14.1"),
]


@pytest.fixture(scope="module")
def uncompiled() -> int:
    """Kernels of a forward pass with one pair of layers."""
    return count_ours(ours(pairs=1), [("cat",)], found=10, forward_only=True).kernels


@pytest.fixture(scope="module")
def pair() -> dict[str, Any]:
    from benchmarks.compiled import count_parts  # with torch's compiler, for which no other test should wait

    return count_parts(ours(pairs=1)._model, images=1)


@pytest.fixture(scope="module")
def vision(pair: dict[str, Any]) -> tuple[int, int]:
    """Kernels and bytes of the whole vision encoder, by what a second pair adds. The bytes are a little more than those
    of the real one, which goes from windows to images and back less often."""
    from benchmarks.compiled import count_parts

    one, two = pair["see"], count_parts(ours(pairs=2)._model, images=1, names=["see"])["see"]
    kernels, read_and_written = (
        getattr(one, name) + (PAIRS - 1) * (getattr(two, name) - getattr(one, name)) for name in ("kernels", "bytes")
    )
    return kernels, read_and_written


def ours(pairs: int) -> Any:
    """With so many pairs of layers in the vision encoder: one that works in windows, and one that does not."""
    config: Any = Sam3Config()
    backbone = config.vision_config.backbone_config
    backbone.num_hidden_layers, backbone.global_attn_indexes = 2 * pairs, [*range(1, 2 * pairs, 2)]
    return segmenter_of(*full_size("meta", config=config), "meta", "mixed")


def test_a_pair_of_layers_and_the_heads_take_what_was_counted_and_three_fifths_of_the_kernels_that_they_take_uncompiled(
    pair: dict[str, Any], uncompiled: int
) -> None:
    counted = {name: (part.library, part.made, part.bytes) for name, part in pair.items()}
    assert counted == {"see": (20, 19, 1_385_238_016), "find": (212, 152, 2_103_902_332)}
    assert sum(part.kernels for part in pair.values()) < uncompiled * 0.6


def test_a_batch_of_one_image_takes_fewer_than_700_kernels(pair: dict[str, Any], vision: tuple[int, int]) -> None:
    assert vision[0] + pair["find"].kernels <= BATCH_KERNELS


def test_the_vision_encoder_moves_less_than_two_fifths_of_the_bytes_of_the_librarys(vision: tuple[int, int]) -> None:
    """Though those of its normalisations are counted here, and not there."""
    library, _ = full_size("meta")
    torch_precision.cast(library.vision_encoder.backbone, torch.bfloat16)
    assert vision[1] <= 0.36 * count_vision(library).elementwise_bytes


def test_each_byte_has_a_purpose(pair: dict[str, Any]) -> None:
    moved = pair["see"].moved
    assert moved["GELU of a layer"] == 2 * 2 * 5184 * 4736 * 2  # in two layers: read and write, in bf16
    assert moved["other"] < 0.1 * pair["see"].bytes


def test_graphs_are_asked_of_torch_by_names_that_it_knows() -> None:
    from torch._inductor import compile_fx

    from benchmarks.gpu.ours import with_graphs

    with mock.patch.object(compile_fx, "compile_fx") as compiler:
        with_graphs(None, [])
    assert compiler.call_args.kwargs["config_patches"] == {
        "triton.cudagraphs": True,
        "triton.cudagraph_or_error": True,
        "triton.cudagraph_trees_generation_cloning": "user_visible",
    }
