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

from workers.inference.models import sam3_detr, sam3_vision

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
    sam3_vision.keep_channels_last(model)


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
    """As the library's, except for the shapes. It is no method, as a model that refers to itself is freed too late."""
    sizes = [(features.shape[-2], features.shape[-1]) for features in vision_features]
    return _joined(vision_features), _joined(vision_pos_embeds), Shapes(sizes)


def _joined(levels: list[torch.Tensor]) -> torch.Tensor:
    if len(levels) == 1:  # as in all SAM3 so far; torch would copy it
        return levels[0].flatten(2).transpose(1, 2)
    return torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)


def _padding_is_not_looked_for(model: Any) -> None:
    """The library turns the mask of padding into an attention mask three times, and each time waits for the device to
    know whether there is any padding. An attention mask that is given to it is used as it is."""
    for part, name, features in (
        (model.detr_encoder, "text_mask", "text_features"),
        (model.detr_decoder, "text_mask", "text_features"),
        (model.mask_decoder, "prompt_mask", "prompt_features"),
    ):
        part.register_forward_pre_hook(partial(_make_attention_mask, name=name, features=features), with_kwargs=True)


def _make_attention_mask(
    part: Any, args: Any, kwargs: dict[str, Any], *, name: str, features: str
) -> tuple[Any, dict[str, Any]]:
    """Turn a mask of padding (rows, tokens), true for tokens, into one that attention adds (rows, heads, queries,
    tokens). torch would do that in each of its layers."""
    mask = kwargs.get(name)
    if mask is None or mask.dim() != 2:
        return args, kwargs
    added = torch.zeros(mask.shape, dtype=kwargs[features].dtype, device=mask.device)
    return args, {**kwargs, name: added.masked_fill_(~mask, -torch.inf)[:, None, None, :]}


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
        "the heads take two and three products of the same numbers",
        sam3_detr.attention,
        frozenset({"899eb3a0cd7a009f"}),
        sam3_detr.join_products,
    ),
    Change(
        "the decoders compute what nobody reads",
        sam3_detr.decoders,
        frozenset({"2c82f43078db3fe5", "e1fb150aed2027f0"}),
        sam3_detr.decode_what_is_read,
    ),
    Change(
        "the vision encoder moves twice the bytes",
        sam3_vision.rotary,
        frozenset({"d6eb79e09630575d", "ba265d92fbbbc105"}),
        sam3_vision.attend_at_once,
    ),
    Change(
        "the vision encoder cuts images into windows in every layer",
        sam3_vision.windows,
        frozenset({"f8ce1bebff81be28", "22057852c0c9d09c"}),
        sam3_vision.stay_in_windows,
    ),
    Change(
        "positions are made for each size of batch, and kept for all its images",
        sam3_vision.levels,
        frozenset({"542393cf4ef40dfa", "2ed72a007d3e37c6"}),
        sam3_vision.make_positions_once,
    ),
)
