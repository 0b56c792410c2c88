"""Changes of a loaded SAM3's heads (DETR encoder, DETR decoder, mask decoder), which then compute what is read of them.

Left out is what only the library returns: what each layer of its decoder found, and a segmentation of all pixels.
What its methods rely on in the library, and whether that is known, `sam3_changes` says.
"""

import inspect
import math
from typing import Any

import torch
from torch.nn import functional
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from workers.inference.models.sam3_vision import as_one


def _attend(
    self: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, Any]:
    """As the library's attention of the heads, but one product for inputs that are the same tensor."""
    if key is value:
        (queries,), (keys, values) = _product(self, query, 0, 1), _product(self, key, 1, 3)
    elif query is key:
        (queries, keys), (values,) = _product(self, query, 0, 2), _product(self, value, 2, 3)
    else:
        (queries,), (keys,), (values,) = (_product(self, of, at, at + 1) for at, of in enumerate((query, key, value)))
    found, weights = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation](
        self,
        queries,
        keys,
        values,
        attention_mask=attention_mask,
        dropout=0.0,
        scaling=self.scaling,
        is_causal=self.is_causal,
        **kwargs,
    )
    return self.o_proj(found.flatten(2)), weights


def _product(self: Any, given: torch.Tensor, first: int, last: int) -> tuple[torch.Tensor, ...]:
    """One product for several of queries (0), keys (1) and values (2): those from `first` to before `last`.

    Each is of shape (rows, heads, places, width of a head).
    """
    part = slice(first * self.hidden_size, last * self.hidden_size)
    made = functional.linear(given, self.qkv.weight[part], self.qkv.bias[part])
    heads = made.view(*made.shape[:-1], last - first, self.num_attention_heads, self.head_dim)
    return tuple(each.transpose(1, 2) for each in heads.unbind(2))


def join_products(model: Any) -> None:
    """Make one product of two in each attention of the heads."""
    library = type(model.detr_encoder.layers[0].cross_attn)
    ours = type(f"Joined{library.__name__}", (library,), {"forward": _attend})
    for part in (model.detr_encoder, model.detr_decoder, model.mask_decoder):
        for attention in [one for one in part.modules() if type(one) is library]:
            attention.qkv = as_one(attention.q_proj, attention.k_proj, attention.v_proj)
            del attention.q_proj, attention.k_proj, attention.v_proj
            attention.__class__ = ours


def attention(model: Any) -> tuple[Any, ...]:
    """What `join_products` relies on."""
    return (type(model.detr_encoder.layers[0].cross_attn),)


class BoxPositions(torch.nn.Module):
    """Replaces the module that makes sines and cosines of boxes, with eight operations instead of 47."""

    def __init__(self, library: Any) -> None:
        super().__init__()
        half = torch.arange(library.num_position_features // 2).to(torch.float32)
        self.scale = library.scale
        waves = library.temperature ** (2 * half / library.num_position_features)
        self.waves = torch.nn.Buffer(waves, persistent=False)

    def encode_boxes(self, boxes: torch.Tensor) -> torch.Tensor:
        """Of centre, width and height (rows, queries, 4): (rows, queries, 4 * features)."""
        x, y, width, height = (boxes * self.scale).unbind(-1)
        angles = torch.stack((y, x, width, height), dim=-1)[..., None] / self.waves.to(boxes.dtype)
        return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(2)


class BoxBias(torch.nn.Module):
    """Replaces the two networks that say how near a place is to a box, one for x and one for y."""

    def __init__(self, x: Any, y: Any) -> None:
        super().__init__()
        self.weight1, self.bias1 = _stacked(x.layer1, y.layer1)
        self.weight2, self.bias2 = _stacked(x.layer2, y.layer2)

    def forward(self, boxes: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """What is added to the attention (rows, heads, 1 + queries, side * side): for the presence token nothing, for
        boxes (rows, queries, 4) by centre, width and height what the networks say. `places` are those of a side."""
        rows, queries, _ = boxes.shape
        centre, half = boxes[..., :2], 0.5 * boxes[..., 2:]
        ends = torch.stack((centre - half, centre + half), dim=-1)  # (rows, queries, axis, end)
        far = (places[:, None] - ends.permute(2, 0, 1, 3)[:, :, :, None]) * 8  # (axis, rows, queries, places, end)
        far = torch.sign(far) * torch.log2(torch.abs(far) + 1.0) / math.log2(8)
        hidden = torch.baddbmm(self.bias1, far.flatten(1, 3), self.weight1).relu_()
        made = torch.baddbmm(self.bias2, hidden, self.weight2).view(2, rows, queries, len(places), -1)
        x, y = functional.pad(made.permute(0, 1, 4, 2, 3), (0, 0, 1, 0)).contiguous()
        near: torch.Tensor = y[..., None] + x[..., None, :]
        return near.flatten(-2)


def _stacked(*layers: Any) -> tuple[torch.nn.Parameter, torch.nn.Parameter]:
    """Weights (layers, inputs, outputs) and biases (layers, 1, outputs) of layers with an input each."""
    weight, bias = ([getattr(layer, name).detach() for layer in layers] for name in ("weight", "bias"))
    weights, biases = torch.stack([one.T for one in weight]), torch.stack([one[None] for one in bias])
    return torch.nn.Parameter(weights, requires_grad=False), torch.nn.Parameter(biases, requires_grad=False)


def _decode(
    self: Any,
    vision_features: torch.Tensor,
    text_features: torch.Tensor,
    vision_pos_encoding: torch.Tensor,
    text_mask: torch.Tensor | None = None,
    spatial_shapes: Any = None,
    **kwargs: Any,
) -> Any:
    """As the library's DETR decoder, for the last of its layers alone, and a mask that is one for attention."""
    rows, side = len(vision_features), spatial_shapes[0, 0]
    places, _ = self._get_coords(side, side, vision_features.dtype, vision_features.device)
    boxes = self.reference_points.weight.expand(rows, -1, -1).sigmoid()
    first = torch.cat([self.presence_token.weight, self.query_embed.weight])
    states = first.expand(rows, -1, -1)
    for number, layer in enumerate(self.layers):
        if number:
            boxes = (self.box_head(self.output_layer_norm(states[:, 1:])) + self.logits_of(boxes)).sigmoid()
        states = layer(
            states,
            query_pos=self.ref_point_head(self.position_encoding.encode_boxes(boxes)),
            text_features=text_features,
            vision_features=vision_features,
            vision_pos_encoding=vision_pos_encoding,
            text_cross_attn_mask=text_mask,
            vision_cross_attn_mask=self.box_bias(boxes, places),
            **kwargs,
        )
    presence = self.presence_head(self.presence_layer_norm(states[:, :1])).squeeze(-1)
    most = self.clamp_presence_logit_max_val
    return self.answer(
        intermediate_hidden_states=self.output_layer_norm(states[:, 1:])[None],
        reference_boxes=boxes[None],
        presence_logits=presence.clamp(min=-most, max=most)[None],
    )


def _draw(
    self: Any,
    decoder_queries: torch.Tensor,
    backbone_features: list[torch.Tensor],
    encoder_hidden_states: torch.Tensor,
    prompt_features: torch.Tensor,
    prompt_mask: torch.Tensor | None = None,
    **kwargs: Any,
) -> Any:
    """As the library's mask decoder, without its segmentation of all pixels. The projection of the pixels, which no
    nonlinearity follows, is that of the queries' last layer: so it costs as much as there are queries, not pixels."""
    normed = self.prompt_cross_attn_norm(encoder_hidden_states)
    found, _ = self.prompt_cross_attn(
        query=normed, key=prompt_features, value=prompt_features, attention_mask=prompt_mask, **kwargs
    )
    *fine, coarse = backbone_features
    places = (encoder_hidden_states + found)[:, : coarse.shape[-2] * coarse.shape[-1]]
    pixels = self.pixel_decoder([*fine, places.transpose(1, 2).reshape(coarse.shape)])
    asked = self.mask_embedder(decoder_queries)
    masks = torch.baddbmm(self.constant(asked), self.projection(asked), pixels.flatten(2))
    return self.answer(pred_masks=masks.view(len(masks), -1, *pixels.shape[-2:]))


def decode_what_is_read(model: Any) -> None:
    """Leave out of both decoders what nobody reads."""
    decoder, masks = model.detr_decoder, model.mask_decoder
    library: Any = inspect.getmodule(type(decoder))
    prefix = type(decoder).__name__.removesuffix("DetrDecoder")
    decoder.position_encoding = BoxPositions(decoder.position_encoding)
    decoder.box_bias = BoxBias(decoder.box_rpb_embed_x, decoder.box_rpb_embed_y)
    decoder.logits_of, decoder.answer = library.inverse_sigmoid, getattr(library, f"{prefix}DETRDecoderOutput")
    masks.answer = getattr(library, f"{prefix}MaskDecoderOutput")
    pixels = masks.instance_projection
    # asked . (weight pixels + bias) = (weight^T asked) . pixels + asked . bias
    masks.projection, masks.constant = (_linear(one) for one in (pixels.weight[:, :, 0, 0].T, pixels.bias[None]))
    del decoder.box_rpb_embed_x, decoder.box_rpb_embed_y, masks.instance_projection, masks.semantic_projection
    decoder.__class__ = type(f"Last{type(decoder).__name__}", (type(decoder),), {"forward": _decode})
    masks.__class__ = type(f"Instance{type(masks).__name__}", (type(masks),), {"forward": _draw})


def _linear(weight: torch.Tensor) -> torch.nn.Linear:
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = torch.nn.Parameter(weight.detach().contiguous(), requires_grad=False)
    return layer


def decoders(model: Any) -> tuple[Any, ...]:
    """What `decode_what_is_read` relies on."""
    library: Any = inspect.getmodule(type(model.detr_decoder))
    functions = (library.inverse_sigmoid, library.box_cxcywh_to_xyxy)
    classes = (
        model.detr_decoder,
        model.mask_decoder,
        model.detr_decoder.box_rpb_embed_x,
        model.mask_decoder.pixel_decoder,
    )
    return (*functions, *map(type, classes), type(model.detr_decoder.position_encoding), type(model).forward)
