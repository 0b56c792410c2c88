"""Changes a loaded SAM3 so that it computes the same in one graph, and with less traffic to the device's memory.

It changes one model in memory, never the library's classes. Each change relies on a few methods of the library. If the
source of one of them is not known to us, as in a newer release, that change is left out, with one line in the log.
"""

import hashlib
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

log = logging.getLogger(__name__)


class Shapes:
    """The height and width of each level of features, which the library keeps in a tensor on the device: (levels, 2).

    As Python integers they are known on the host, so a trace of the model has no shape that depends on data.
    """

    def __init__(self, sizes: list[tuple[int, int]]) -> None:
        self._sizes = sizes
        self.shape = (len(sizes), 2)

    def __getitem__(self, place: tuple[int, int]) -> int:
        return self._sizes[place[0]][place[1]]


@dataclass(frozen=True)
class Change:
    """One change of a model. `lost` says what is lost without it."""

    lost: str
    leans_on: Callable[[Any], tuple[Any, ...]]  # model -> the functions and classes of the library that it relies on
    known: frozenset[str]  # `digest` of each version of their source that we know
    apply: Callable[[Any], None]


def apply_changes(model: Any) -> None:
    """Apply all changes to this model that rely on known source only."""
    for change in CHANGES:
        if digest(change, model) in change.known:
            change.apply(model)
        else:
            _warn(change.lost)


def digest(change: Change, model: Any) -> str:
    """A checksum of the source that the change relies on. It is equal for all families of SAM3."""
    try:
        source = "".join(map(inspect.getsource, change.leans_on(model)))
    except (AttributeError, OSError, TypeError):  # another name, no source file, or not written in Python
        return ""
    return hashlib.sha256(source.replace("Sam3LiteText", "Sam3").encode()).hexdigest()[:16]


@cache  # once in a process
def _warn(lost: str) -> None:
    log.warning("this release of transformers has another SAM3 than we know: %s", lost)


def _shapes_stay_here(model: Any) -> None:
    model.detr_encoder._prepare_multilevel_features = _prepare_multilevel_features


def _prepare_multilevel_features(
    vision_features: list[torch.Tensor], vision_pos_embeds: list[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, Shapes]:
    """As the library's, but for the shapes. It is no method, as a model that refers to itself is freed too late."""
    sizes = [(features.shape[-2], features.shape[-1]) for features in vision_features]
    return _joined(vision_features), _joined(vision_pos_embeds), Shapes(sizes)


def _joined(levels: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)


def _padding_is_not_looked_for(model: Any) -> None:
    """The library turns the mask of padding into an attention mask three times, and each time waits for the device to
    know whether there is any padding. An attention mask that is given to it is used as it is."""
    for part, name in (
        (model.detr_encoder, "text_mask"),
        (model.detr_decoder, "text_mask"),
        (model.mask_decoder, "prompt_mask"),
    ):
        part.register_forward_pre_hook(partial(_make_attention_mask, name=name), with_kwargs=True)


def _make_attention_mask(part: Any, args: Any, kwargs: dict[str, Any], *, name: str) -> tuple[Any, dict[str, Any]]:
    """Turn a mask of padding (rows, tokens), true for tokens, into one for attention (rows, heads, queries, tokens)."""
    mask = kwargs.get(name)
    if mask is None or mask.dim() != 2:
        return args, kwargs
    return args, {**kwargs, name: mask[:, None, None, :]}


class Turns(torch.nn.Module):
    """Replaces the module that computes cosines and sines of positions again in each layer of each forward pass.

    Positions do not depend on the image, so these are computed once: (1, places, half the width of a head), complex,
    or as pairs of real numbers for torch's compiler, which fuses no complex products.
    """

    def __init__(self, cosines: torch.Tensor, sines: torch.Tensor) -> None:
        super().__init__()
        # The library has each number twice, once for each number of a pair.
        self.pairs = torch.nn.Buffer(torch.stack((cosines[..., ::2], sines[..., ::2]), dim=-1), persistent=False)

    def forward(self, hidden_states: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        return self.pairs if torch.compiler.is_compiling() else torch.view_as_complex(self.pairs)


def _attend(self: Any, hidden_states: torch.Tensor, position_embeddings: torch.Tensor, **kwargs: Any) -> Any:
    """As the library's attention of the vision encoder, but one complex product turns queries and keys by position.

    The library computes the same with seven operations, which each read and write all queries or keys.
    """
    batch, height, width, _ = hidden_states.shape
    shape = (batch, height * width, self.num_attention_heads, self.head_dim)
    query, key, value = (
        project(hidden_states).view(shape).transpose(1, 2) for project in (self.q_proj, self.k_proj, self.v_proj)
    )
    found, weights = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation](
        self,
        _turned(query, position_embeddings),
        _turned(key, position_embeddings),
        value,
        attention_mask=None,
        dropout=0.0,
        scaling=self.scaling,
        is_causal=self.is_causal,
        **kwargs,
    )
    return self.o_proj(found.reshape(batch, height, width, -1).contiguous()), weights


def _turned(heads: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    pairs = heads.float().view(*heads.shape[:-1], -1, 2)
    if turns.is_complex():
        turned = torch.view_as_real(torch.view_as_complex(pairs) * turns)
    else:
        (one, other), (cosines, sines) = pairs.unbind(-1), turns.unbind(-1)
        turned = torch.stack((one * cosines - other * sines, one * sines + other * cosines), dim=-1)
    return turned.flatten(-2).type_as(heads)


def _positions_turn_at_once(model: Any) -> None:
    layers = model.vision_encoder.backbone.layers
    library = type(layers[0].attention)
    turned = type(f"Turned{library.__name__}", (library,), {"forward": _attend})
    for layer in layers:
        layer.rotary_emb = Turns(*layer.rotary_emb(layer.position_ids, layer.position_ids))
        layer.attention.__class__ = turned  # of this object only


def _rotary(model: Any) -> tuple[Any, ...]:
    layer = model.vision_encoder.backbone.layers[0]
    library: Any = inspect.getmodule(type(layer))
    functions = (library.apply_rotary_pos_emb_2d, library.rotate_pairwise)
    return (*functions, type(layer.attention), type(layer.rotary_emb), type(layer).forward)


def _decoders(model: Any) -> tuple[Any, ...]:
    return tuple(type(part).forward for part in (model.detr_encoder, model.detr_decoder, model.mask_decoder))


CHANGES = (
    Change(
        "each forward pass waits for the device and is several graphs",
        lambda model: (
            type(model.detr_encoder)._prepare_multilevel_features,
            type(model.detr_decoder)._get_coords,
            type(model.detr_decoder)._get_rpb_matrix,
            *_decoders(model),
        ),
        frozenset({"1f7562c0c5ab0dca"}),  # 5.23, 5.24
        _shapes_stay_here,
    ),
    Change(
        "rows with prompts of different lengths make the host wait three times",
        _decoders,
        frozenset({"31a39ac6099750f1"}),
        _padding_is_not_looked_for,
    ),
    Change(
        "the vision encoder moves twice the bytes",
        _rotary,
        frozenset({"d6eb79e09630575d", "ba265d92fbbbc105"}),
        _positions_turn_at_once,
    ),
)
