"""Which part of a model computes in which precision, and what a GPU's own precision is told to be."""

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from workers.inference import sam3_changes, sam3_precision
from workers.inference.segmenters import Precision
from workers.tiny.architecture import IMAGE_SIZE, WIDTH, random_model

GPU, CPU = torch.device("cuda:1"), torch.device("cpu")


@pytest.fixture(scope="module")
def fp32() -> Any:
    return random_model()


@pytest.fixture(scope="module")
def mixed(fp32: Any) -> Any:
    model = copy.deepcopy(fp32)
    sam3_precision.lower(model, "mixed")
    return model


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Let a GPU be there, with or without units for bf16."""

    def put(has_bf16: bool) -> None:
        def supported(including_emulation: bool = True) -> bool:
            return has_bf16 or including_emulation

        monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")

    return put


@pytest.fixture
def products() -> Iterator[Callable[[], tuple[str, bool]]]:
    """What this process is told of products and of convolutions; put back afterwards."""

    def told() -> tuple[str, bool]:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    before = told()
    yield told
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


def answer(model: Any) -> Any:
    noise = torch.Generator().manual_seed(1)
    pixels = torch.rand(2, 3, IMAGE_SIZE, IMAGE_SIZE, generator=noise) * 2 - 1
    text = BaseModelOutputWithPooling(pooler_output=torch.randn(2, 5, WIDTH, generator=noise))
    with torch.inference_mode():
        return model(pixel_values=pixels, text_embeds=text)


def test_auto_is_mixed_where_a_gpu_has_units_for_bf16(card: Callable[[bool], None]) -> None:
    card(True)
    assert sam3_precision.chosen("auto", GPU) == "mixed"


def test_auto_is_fp32_with_a_line_where_a_gpu_only_emulates_bf16(
    card: Callable[[bool], None], caplog: pytest.LogCaptureFixture
) -> None:
    card(False)
    with caplog.at_level(logging.WARNING):
        assert sam3_precision.chosen("auto", GPU) == "fp32"
    assert caplog.messages == ["Tesla T4 has no units for bf16: --dtype auto is fp32 here"]


def test_auto_is_fp32_on_a_cpu_and_what_is_asked_for_is_what_it_is(card: Callable[[bool], None]) -> None:
    card(False)
    assert sam3_precision.chosen("auto", CPU) == "fp32"
    asked: list[Precision] = ["fp32", "mixed", "bf16"]
    assert [sam3_precision.chosen(dtype, device) for dtype in asked for device in (GPU, CPU)] == [
        dtype for dtype in asked for _ in range(2)
    ]


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


@pytest.mark.parametrize(("dtype", "expected"), [("fp32", ("highest", False)), ("mixed", ("high", True)),
                                                 ("bf16", ("high", True))])  # fmt: skip
@pytest.mark.parametrize("before", [True, False])
def test_products_and_convolutions_on_a_gpu_are_true_fp32_for_fp32_only_whatever_was_said_before(
    products: Callable[[], tuple[str, bool]], dtype: Precision, expected: tuple[str, bool], before: bool
) -> None:
    torch.backends.cudnn.allow_tf32 = before
    sam3_precision.use_products(dtype, GPU)
    assert products() == expected


def test_products_on_a_cpu_are_left_alone(products: Callable[[], tuple[str, bool]]) -> None:
    before = products()
    sam3_precision.use_products("mixed", CPU)
    assert products() == before
