"""What is changed in a loaded model: the same numbers, one graph, and no change to a library that we do not know."""

import copy
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import Sam3LiteTextConfig, Sam3LiteTextModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from workers.inference.models import sam3_changes, torch_precision
from workers.tiny.architecture import IMAGE_SIZE, WIDTH, random_model

Ways = dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]

WAYS = ["vision", "heads", "heads with padding", pytest.param("whole", marks=pytest.mark.long)]


@pytest.fixture(scope="module")
def plain() -> Any:
    return random_model()


@pytest.fixture(scope="module")
def changed(plain: Any) -> Any:
    model = copy.deepcopy(plain)
    sam3_changes.apply_changes(model)
    return model


def ways(model: Any) -> Ways:
    """The parts of a forward pass as we ask for them, and all of it, each with what to give it."""
    noise = torch.Generator().manual_seed(1)
    pixels = torch.rand(2, 3, IMAGE_SIZE, IMAGE_SIZE, generator=noise) * 2 - 1
    text = torch.randn(2, 5, WIDTH, generator=noise)
    padding = torch.arange(5) < torch.tensor([[3], [5]])

    def heads(vision: Any, text: torch.Tensor, mask: torch.Tensor | None = None) -> Any:
        asked = BaseModelOutputWithPooling(pooler_output=text)
        return read(model(vision_embeds=vision, text_embeds=asked, attention_mask=mask))

    def whole(pixels: torch.Tensor, text: torch.Tensor, mask: torch.Tensor) -> Any:
        asked = BaseModelOutputWithPooling(pooler_output=text)
        return read(model(pixel_values=pixels, text_embeds=asked, attention_mask=mask))

    def features(pixels: torch.Tensor) -> Any:
        vision = model.get_vision_features(pixels)
        return vision.last_hidden_state, vision.fpn_hidden_states, vision.fpn_position_encoding[-2]

    with torch.inference_mode():
        vision = model.get_vision_features(pixels)
    return {
        "vision": (features, (pixels,)),
        "heads": (heads, (vision, text)),
        "heads with padding": (heads, (vision, text, padding)),
        "whole": (whole, (pixels, text, padding)),
    }


def read(answer: Any) -> tuple[torch.Tensor, ...]:
    """What we read of a model's answer."""
    return answer.pred_masks, answer.pred_boxes, answer.pred_logits, answer.presence_logits


def run(work: Callable[..., Any], given: tuple[Any, ...]) -> list[torch.Tensor]:
    """All tensors of the answer."""
    with torch.inference_mode():
        return [leaf for leaf in torch.utils._pytree.tree_leaves(work(*given)) if isinstance(leaf, torch.Tensor)]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) >= 4 and all(map(torch.equal, one, other))


def furthest(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    """The largest difference of two numbers, of logits up to 10 and of boxes up to 1."""
    assert len(one) == len(other) >= 4
    return max(float((left - right).abs().max()) for left, right in zip(one, other, strict=True))


def test_a_changed_model_gives_the_vision_features_of_the_librarys_bit_by_bit(plain: Any, changed: Any) -> None:
    assert same(run(*ways(plain)["vision"]), run(*ways(changed)["vision"]))


@pytest.mark.parametrize("way", WAYS[1:])
def test_a_changed_model_gives_the_answers_of_the_librarys_but_for_their_last_bits(
    plain: Any, changed: Any, way: str
) -> None:
    assert furthest(run(*ways(plain)[way]), run(*ways(changed)[way])) <= 1e-5


@pytest.mark.long
@pytest.mark.parametrize("way", ["heads", "whole"])  # all of it has the vision encoder in it, and heads with padding
def test_each_part_of_a_forward_pass_is_one_graph(changed: Any, way: str) -> None:
    graphs = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    work, given = ways(changed)[way]
    torch.compiler.reset()
    compiled = torch.compile(work, fullgraph=True, dynamic=False, backend=backend)
    assert same(run(compiled, given), run(work, given))
    assert len(graphs) == 1


def test_the_librarys_own_heads_are_not_one_graph(plain: Any) -> None:
    work, given = ways(plain)["heads with padding"]
    torch.compiler.reset()
    with pytest.raises(torch._dynamo.exc.UserError):
        run(torch.compile(work, fullgraph=True, dynamic=False, backend="eager"), given)


@pytest.mark.long
def test_the_whole_forward_pass_can_be_exported(changed: Any) -> None:
    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = changed

        def forward(self, pixels: torch.Tensor, text: torch.Tensor, padding: torch.Tensor) -> tuple[Any, ...]:
            asked = BaseModelOutputWithPooling(pooler_output=text)
            return read(self.model(pixel_values=pixels, text_embeds=asked, attention_mask=padding))

    _, given = ways(changed)["whole"]
    with torch.no_grad():
        exported = torch.export.export(Whole(), given, strict=False)
        assert all(map(torch.equal, exported.module()(*given), Whole()(*given)))


def test_the_class_of_the_library_and_its_other_models_stay_as_they_were(plain: Any, changed: Any) -> None:
    assert type(changed.detr_encoder) is type(plain.detr_encoder)
    assert "_prepare_multilevel_features" not in vars(plain.detr_encoder)
    assert not plain.detr_encoder._forward_pre_hooks


def test_every_change_knows_the_library_that_is_installed(plain: Any) -> None:
    with torch.device("meta"):
        lite = Sam3LiteTextModel(Sam3LiteTextConfig())
    for change in sam3_changes.CHANGES:
        assert sam3_changes.digest(change, plain) in change.known
        assert sam3_changes.digest(change, lite) in change.known


def test_a_method_that_we_do_not_know_is_left_alone_and_said_once(
    plain: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    known = type(plain.detr_encoder)._prepare_multilevel_features

    def another(self: Any, *features: Any) -> Any:
        return known(self, *features)

    monkeypatch.setattr(type(plain.detr_encoder), "_prepare_multilevel_features", another)
    sam3_changes._warn.cache_clear()
    models = [copy.deepcopy(plain) for _ in range(2)]
    with caplog.at_level(logging.WARNING):
        for model in models:
            sam3_changes.apply_changes(model)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "each forward pass waits for the device" in caplog.text
    assert all("_prepare_multilevel_features" not in vars(model.detr_encoder) for model in models)
    assert furthest(run(*ways(models[0])["heads"]), run(*ways(plain)["heads"])) <= 1e-5


@pytest.mark.parametrize("parts", [(len,), ("no function",)])
def test_what_has_no_source_is_not_known(plain: Any, parts: tuple[Any, ...]) -> None:
    change = sam3_changes.Change("nothing", lambda model: parts, frozenset(), lambda model: None)
    assert sam3_changes.digest(change, plain) == ""
    assert all("" not in change.known for change in sam3_changes.CHANGES)


def test_what_has_another_name_is_not_known(plain: Any) -> None:
    change = sam3_changes.Change("nothing", lambda model: (model.renamed,), frozenset(), lambda model: None)
    assert sam3_changes.digest(change, plain) == ""


def test_positions_turn_queries_and_keys_to_the_librarys_numbers_bit_by_bit_also_in_bf16(
    plain: Any, changed: Any
) -> None:
    pair = [copy.deepcopy(model.vision_encoder.backbone) for model in (plain, changed)]
    for backbone in pair:
        torch_precision.cast(backbone, torch.bfloat16)
    pixels = torch.rand(2, 3, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.bfloat16)
    one, other = (run(backbone, (pixels,)) for backbone in pair)
    assert [tensor.dtype for tensor in one] == [torch.bfloat16]
    assert torch.equal(one[0], other[0])


def test_angles_are_made_once(changed: Any) -> None:
    for layer in changed.vision_encoder.backbone.layers:
        turns = layer.rotary_emb(torch.empty(0), layer.position_ids)
        assert turns.data_ptr() == layer.rotary_emb.pairs.data_ptr()
        assert turns.dtype == torch.complex64
