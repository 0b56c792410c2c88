"""Lets a loaded SAM3 compute the same as ever in one graph: nothing in it asks the device for a number.

Changes one model in memory, never the library's classes. Each change leans on a few methods of the library. Where one
of them is not as we know it, as in a release that is newer than us, that change is left out, with one line in the log.
"""

import hashlib
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch

log = logging.getLogger(__name__)


class Shapes:
    """The height and width of each level of features, which the library keeps in a tensor on the device: (levels, 2).

    As integers of Python they are known to the host, and whoever traces the model sees that no shape depends on data.
    """

    def __init__(self, sizes: list[tuple[int, int]]) -> None:
        self._sizes = sizes
        self.shape = (len(sizes), 2)

    def __getitem__(self, place: tuple[int, int]) -> int:
        return self._sizes[place[0]][place[1]]


@dataclass(frozen=True)
class Change:
    """`lost` says what it costs to do without."""

    lost: str
    leans_on: Callable[[Any], tuple[Any, ...]]  # functions and classes of the library, of this model
    known: frozenset[str]  # `digest` of them, one for each wording that we know
    apply: Callable[[Any], None]


def apply_changes(model: Any) -> None:
    """Apply to this model all changes that its library allows."""
    for change in CHANGES:
        if digest(change.leans_on(model)) in change.known:
            change.apply(model)
        else:
            _warn(change.lost)


def digest(parts: tuple[Any, ...]) -> str:
    """A name for the source of these functions and classes, the same in all families of SAM3."""
    try:
        source = "".join(inspect.getsource(part) for part in parts)
    except (OSError, TypeError):  # no source is there, or it is none of Python's
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
    """As the library's, but for the shapes. Not a method: a model that holds one of itself is freed too late."""
    sizes = [(features.shape[-2], features.shape[-1]) for features in vision_features]
    return _joined(vision_features), _joined(vision_pos_embeds), Shapes(sizes)


def _joined(levels: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)


def _padding_is_not_looked_for(model: Any) -> None:
    """The library makes an attention mask of the mask of padding three times, and each time asks the device whether
    there is any padding. It takes an attention mask that is already made as it is."""
    for part, name in (
        (model.detr_encoder, "text_mask"),
        (model.detr_decoder, "text_mask"),
        (model.mask_decoder, "prompt_mask"),
    ):
        part.register_forward_pre_hook(partial(_make_attention_mask, name=name), with_kwargs=True)


def _make_attention_mask(part: Any, args: Any, kwargs: dict[str, Any], *, name: str) -> tuple[Any, dict[str, Any]]:
    """Of a mask of padding (rows, tokens), True for a token, one for attention: (rows, heads, queries, tokens)."""
    mask = kwargs.get(name)
    if mask is None or mask.dim() != 2:
        return args, kwargs
    return args, {**kwargs, name: mask[:, None, None, :]}


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
)
