"""Changes of a loaded SAM3's vision encoder, which then computes the same with fewer and shorter trips to memory.

What its methods rely on in the library, and whether that is known, `sam3_changes` says.
"""

import inspect
from typing import Any, cast

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


def as_one(*products: torch.nn.Linear) -> torch.nn.Linear:
    """One layer that gives the answers of several of the same input, side by side."""
    first = products[0]
    one = torch.nn.Linear(first.in_features, sum(each.out_features for each in products), device="meta")
    for name in ("weight", "bias"):
        joined = torch.cat([getattr(each, name).detach() for each in products])
        setattr(one, name, torch.nn.Parameter(joined, requires_grad=False))
    return one


class Turns(torch.nn.Module):
    """Replaces the module that computes cosines and sines of positions again in each layer of each forward pass.

    Positions do not depend on the image, so these are computed once: (places, 1, 1, half the width of a head), complex,
    or as pairs of real numbers for torch's compiler, which fuses no complex products.
    """

    def __init__(self, cosines: torch.Tensor, sines: torch.Tensor) -> None:
        super().__init__()
        # The library has each number twice, once for each number of a pair.
        pairs = torch.stack((cosines[0, :, ::2], sines[0, :, ::2]), dim=-1)
        self.pairs = torch.nn.Buffer(pairs[:, None, None], persistent=False)

    def forward(self, hidden_states: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        return self.pairs if torch.compiler.is_compiling() else torch.view_as_complex(self.pairs)


def _attend(self: Any, hidden_states: torch.Tensor, position_embeddings: torch.Tensor, **kwargs: Any) -> Any:
    """As the library's attention of the vision encoder, but one product makes queries, keys and values, and one complex
    product turns queries and keys by position.

    The library computes the latter with fourteen operations, which each read and write all queries or keys.
    """
    made = self.qkv(hidden_states).view(len(hidden_states), -1, 3, self.num_attention_heads, self.head_dim)
    query, key = _turned(made[:, :, :2], position_embeddings).unbind(2)
    found, weights = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation](
        self,
        query.transpose(1, 2),
        key.transpose(1, 2),
        made[:, :, 2].transpose(1, 2),
        attention_mask=None,
        dropout=0.0,
        scaling=self.scaling,
        is_causal=self.is_causal,
        **kwargs,
    )
    return self.o_proj(found.reshape(hidden_states.shape)), weights


def _turned(heads: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Queries and keys (batch, places, 2, heads, width of a head), turned."""
    pairs = heads.float().view(*heads.shape[:-1], -1, 2)
    if turns.is_complex():
        turned = torch.view_as_real(torch.view_as_complex(pairs) * turns)
    else:
        (one, other), (cosines, sines) = pairs.unbind(-1), turns.unbind(-1)
        turned = torch.stack((one * cosines - other * sines, one * sines + other * cosines), dim=-1)
    return turned.flatten(-2).type_as(heads)


def attend_at_once(model: Any) -> None:
    """Make one product of three, and one of the positions' fourteen operations, in each layer."""
    layers = model.vision_encoder.backbone.layers
    library = type(layers[0].attention)
    ours = type(f"Joined{library.__name__}", (library,), {"forward": _attend})
    for layer in layers:
        layer.rotary_emb = Turns(*layer.rotary_emb(layer.position_ids, layer.position_ids))
        attention = layer.attention
        attention.qkv = as_one(attention.q_proj, attention.k_proj, attention.v_proj)
        del attention.q_proj, attention.k_proj, attention.v_proj
        attention.__class__ = ours  # of this object only


def rotary(model: Any) -> tuple[Any, ...]:
    """What `attend_at_once` relies on."""
    layer = model.vision_encoder.backbone.layers[0]
    library: Any = inspect.getmodule(type(layer))
    functions = (library.apply_rotary_pos_emb_2d, library.rotate_pairwise)
    return (*functions, type(layer.attention), type(layer.rotary_emb), type(layer).forward)


def _layer(self: Any, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    """As a layer of the library, with states of shape (rows, places, channels). A row is a window or a whole image."""
    states = hidden_states if self.arrange is None else self.arrange(hidden_states)
    found, _ = self.attention(self.layer_norm1(states), self.rotary_emb(states, self.position_ids), **kwargs)
    states = states + found
    return cast(torch.Tensor, states + self.mlp(self.layer_norm2(states)))


class Arrange:
    """Puts the places of images, or of windows of `old` by `old` places, into images or windows of `new` by `new`."""

    def __init__(self, side: int, old: int, new: int, library: Any) -> None:
        self._side, self._old, self._new = side, old, new
        self._cut, self._join = library.window_partition, library.window_unpartition

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        channels, whole = states.shape[-1], (self._side, self._side)
        if self._old:
            states = self._join(states.view(-1, self._old, self._old, channels), self._old, whole, whole)
        if self._new:
            states, _ = self._cut(states.view(-1, *whole, channels), self._new)
        return states.flatten(1, -2)

    def before(self, part: Any, args: tuple[torch.Tensor]) -> torch.Tensor:
        """As a hook of the module that gets the states."""
        return self(*args)


def stay_in_windows(model: Any) -> None:
    """Cut images into windows once for all neighbouring layers that work in them.

    The layers get three dimensions, not four: torch's compiler takes four for those of a picture and stores them in
    another order.
    """
    backbone = model.vision_encoder.backbone
    side = backbone.config.image_size // backbone.config.patch_size
    sizes = [layer.window_size for layer in backbone.layers]
    if any(size and side % size for size in sizes):  # those would be padded
        return
    library: Any = inspect.getmodule(type(backbone.layers[0]))
    ours = type("Windowed", (type(backbone.layers[0]),), {"forward": _layer})
    for layer, old, new in zip(backbone.layers[1:], sizes, sizes[1:], strict=False):
        layer.arrange = Arrange(side, old, new, library) if old != new else None
    backbone.layers[0].arrange = None
    backbone.layer_norm.register_forward_pre_hook(Arrange(side, 0, sizes[0], library).before)
    if sizes[-1]:
        join = Arrange(side, sizes[-1], 0, library)
        backbone.layers[-1].register_forward_hook(lambda part, args, states: join(states))
    for layer in backbone.layers:
        layer.__class__ = ours


def windows(model: Any) -> tuple[Any, ...]:
    """What `stay_in_windows` relies on."""
    layer = model.vision_encoder.backbone.layers[0]
    library: Any = inspect.getmodule(type(layer))
    return (
        library.window_partition,
        library.window_unpartition,
        type(layer),
        type(model.vision_encoder.backbone).forward,
    )


class Positions(torch.nn.Module):
    """Replaces the module that makes the positions of the vision features, for each level and batch size anew.

    They do not depend on the image, and only those of one level are read: (1, width, height, width of the level).
    """

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.table = torch.nn.Buffer(table, persistent=False)

    def forward(self, shape: torch.Size, device: torch.device, dtype: torch.dtype) -> torch.Tensor | None:
        if shape[-2:] != self.table.shape[-2:]:
            return None
        return self.table.to(dtype).expand(shape[0], -1, -1, -1)


def make_positions_once(model: Any) -> None:
    """Keep the positions of the level that the heads get, for all batches."""
    encoder = model.vision_encoder
    grid = encoder.backbone.config.image_size // encoder.backbone.config.patch_size
    side, width = int(grid * encoder.config.scale_factors[-2]), encoder.config.fpn_hidden_size
    like = next(encoder.parameters())
    table = encoder.neck.position_encoding(torch.Size((1, width, side, side)), like.device, torch.float32)
    encoder.neck.position_encoding = Positions(table.contiguous(memory_format=torch.channels_last))


def levels(model: Any) -> tuple[Any, ...]:
    """What `make_positions_once` relies on."""
    neck = model.vision_encoder.neck
    return type(model).forward, type(neck).forward, type(neck.position_encoding), type(model.geometry_encoder).forward


def keep_channels_last(model: Any) -> None:
    """Store the weights of convolutions in the order in which a GPU reads them, which else copies them into it in each
    forward pass. The features come out in that order, too, as the layers of the backbone read them."""
    for part in (model.vision_encoder, model.mask_decoder):
        for weight in part.parameters():
            if weight.dim() == 4:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
