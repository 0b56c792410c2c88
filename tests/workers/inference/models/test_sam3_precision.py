"""Which part of a SAM3 computes in which precision."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from tests.workers.inference.models.sam3_answers import OPTIONS, last, ours
from workers.inference.models import sam3_changes, sam3_precision
from workers.inference.models.sam3_model import Sam3Segmenter
from workers.inference.reading.images import RGB
from workers.inference.segmenters import Precision
from workers.tiny.architecture import IMAGE_SIZE, WIDTH, random_model


@pytest.fixture(scope="module")
def fp32() -> Any:
    return random_model()


@pytest.fixture(scope="module")
def mixed(fp32: Any) -> Any:
    model = copy.deepcopy(fp32)
    sam3_precision.lower(model, "mixed")
    return model


def answer(model: Any) -> Any:
    noise = torch.Generator().manual_seed(1)
    pixels = torch.rand(2, 3, IMAGE_SIZE, IMAGE_SIZE, generator=noise) * 2 - 1
    text = BaseModelOutputWithPooling(pooler_output=torch.randn(2, 5, WIDTH, generator=noise))
    with torch.inference_mode():
        return model(pixel_values=pixels, text_embeds=text)


def test_mixed_casts_backbone_and_self_attention_of_the_encoder_and_no_table_of_positions(mixed: Any) -> None:
    parts = [mixed.vision_encoder.backbone, *(layer.self_attn for layer in mixed.detr_encoder.layers)]
    cast = {id(parameter) for part in parts for parameter in part.parameters()}
    assert {parameter.dtype for parameter in mixed.parameters() if id(parameter) in cast} == {torch.bfloat16}
    assert {parameter.dtype for parameter in mixed.parameters() if id(parameter) not in cast} == {torch.float32}
    assert {buffer.dtype for buffer in mixed.buffers() if buffer.is_floating_point()} == {torch.float32}


def test_what_mixed_answers_is_fp32_and_near_to_fp32(fp32: Any, mixed: Any) -> None:
    exact, near = answer(fp32), answer(mixed)
    for name, most in (("pred_logits", 0.5), ("pred_boxes", 0.02), ("presence_logits", 0.2)):
        assert near[name].dtype == torch.float32
        assert 0 < (near[name] - exact[name]).abs().max() < most
    assert near.pred_masks.dtype == torch.float32
    assert ((near.pred_masks > 0) != (exact.pred_masks > 0)).float().mean() < 0.02


def test_the_detr_encoder_gets_its_features_and_positions_in_fp32(mixed: Any) -> None:
    given = []
    hook = mixed.detr_encoder.register_forward_pre_hook(
        lambda part, args, kwargs: given.append(kwargs), with_kwargs=True
    )
    try:
        answer(mixed)
    finally:
        hook.remove()
    features, positions = given[0]["vision_features"], given[0]["vision_pos_embeds"]
    assert {one.dtype for one in (*features, *positions)} == {torch.float32}


@pytest.mark.long
def test_a_lowered_model_is_one_graph_too(fp32: Any) -> None:
    model = copy.deepcopy(fp32)
    sam3_changes.apply_changes(model)
    sam3_precision.lower(model, "mixed")

    def whole(pixels: torch.Tensor, text: torch.Tensor) -> Any:
        return model(pixel_values=pixels, text_embeds=BaseModelOutputWithPooling(pooler_output=text)).pred_masks

    given = torch.rand(1, 3, IMAGE_SIZE, IMAGE_SIZE), torch.randn(1, 3, WIDTH)
    torch.compiler.reset()
    with torch.inference_mode():
        compiled = torch.compile(whole, fullgraph=True, dynamic=False, backend="eager")
        assert torch.equal(compiled(*given), whole(*given))


@pytest.mark.parametrize("dtype", ["mixed", "bf16"])
def test_lower_precisions_run_and_find_nearly_the_same(
    checkpoint: Path, segmenter: Sam3Segmenter, pictures: list[RGB], dtype: Precision
) -> None:
    lower = Sam3Segmenter(checkpoint, model_name="tiny", dtype=dtype)
    assert lower.facts.dtype == dtype
    exact = ours(segmenter, pictures, [("person",)] * 8)
    for (one,), (other,) in zip(exact, ours(lower, pictures, [("person",)] * 8), strict=True):
        assert abs(len(one.instances) - len(other.instances)) <= 2
        assert one.instances[0].score == pytest.approx(other.instances[0].score, abs=0.05)


def test_mixed_keeps_every_box_apart_and_nearer_to_its_place_than_bf16(
    checkpoint: Path, segmenter: Sam3Segmenter, pictures: list[RGB]
) -> None:
    """Boxes in pixels of an image 1920 wide. What is left in mixed is the encoder's rounding, not the boxes' own."""

    def different(boxes: torch.Tensor) -> int:
        return len(set(boxes.flatten().tolist()))

    def boxes(of: Sam3Segmenter) -> torch.Tensor:
        raw = of.predict([of.preprocess(pixels) for pixels in pictures], [("person",)] * len(pictures), OPTIONS)
        return last(raw).numbers[:, 1 + last(raw).masks.shape[1] :] * 1920

    exact = boxes(segmenter)
    mixed, bf16 = (boxes(Sam3Segmenter(checkpoint, model_name="tiny", dtype=dtype)) for dtype in ("mixed", "bf16"))
    assert different(mixed) > 0.99 * different(exact)
    assert different(bf16) < 0.5 * different(exact)
    off, far_off = (mixed - exact).abs(), (bf16 - exact).abs()
    assert off.median() < 0.1 * far_off.median()
    assert off.max() < 0.2 * far_off.max()
