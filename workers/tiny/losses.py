"""The losses of training: matches queries with objects, and measures how wrong each query is. Knows no drawing.

Each decoder layer is matched and trained by itself. `Sam3Model.forward` returns the last layer only, so `listen`
records the others with hooks. Source: DETR, Carion et al., End-to-End Object Detection with Transformers (2020),
https://arxiv.org/abs/2005.12872.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional
from transformers import Sam3Model

# How much each part of the loss counts, and how much each part of the matching cost.
WEIGHTS = {
    "class": 2.0,
    "l1": 5.0,
    "giou": 2.0,
    "mask": 5.0,
    "dice": 5.0,
    "fine mask": 5.0,
    "fine dice": 10.0,
    "presence": 2.0,
    "semantic": 2.0,
    "shape": 4.0,
}
# Weights of the class loss: 2 for a query that is matched with an object, and three times its score for any other,
# because a second answer for the same object is this model's most frequent mistake.
POSITIVE, NEGATIVE = 2.0, 3.0
FINER = 3  # the last layer's masks are also compared at so many times their side, enlarged as post-processing does
MATCH_POOLING = 4  # masks are compared at a quarter of their side while matching


@dataclass(frozen=True)
class Truth:
    """The answer to a question: masks (objects, side, side) in [0, 1]; boxes (objects, 4), centre and size in [0, 1].

    fine: the masks again, FINER times as large.
    """

    masks: Tensor
    boxes: Tensor
    fine: Tensor


@dataclass
class Layers:
    """The answers of all decoder layers in the latest forward call; filled by `listen`.

    hidden (layers, pairs, queries, width), boxes (layers, pairs, queries, 4) as centre and size,
    logits (layers, pairs, queries), presence (layers, pairs, 1), pixels (pairs, width, side, side); all float32.
    """

    heard: dict[str, Any] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Tensor:
        value: Tensor = self.__dict__["heard"][name]
        return value


@contextmanager
def listen(model: Sam3Model) -> Iterator[Layers]:
    """Record every decoder layer's answers during the block's forward calls."""
    layers = Layers()

    def decoder(_module: object, _inputs: object, output: Any) -> None:
        offsets = model.detr_decoder.box_head(output.intermediate_hidden_states)
        layers.heard["hidden"] = output.intermediate_hidden_states.float()
        layers.heard["boxes"] = (torch.logit(output.reference_boxes, eps=1e-3) + offsets).sigmoid().float()
        layers.heard["presence"] = output.presence_logits.float()

    def scoring(_module: object, _inputs: object, output: Tensor) -> None:
        layers.heard["logits"] = output.squeeze(-1).float()

    def projection(_module: object, _inputs: object, output: Tensor) -> None:
        layers.heard["pixels"] = output.float()

    handles = [
        model.detr_decoder.register_forward_hook(decoder),
        model.dot_product_scoring.register_forward_hook(scoring),
        model.mask_decoder.instance_projection.register_forward_hook(projection),
    ]
    try:
        yield layers
    finally:
        for handle in handles:
            handle.remove()


def losses(model: Sam3Model, layers: Layers, semantic: Tensor, truths: list[Truth]) -> dict[str, Tensor]:
    """Return the weighted parts of the loss, each a mean over objects or pairs and a sum over layers.

    semantic: logits (pairs, 1, side, side) of everything the prompt names; truths: one per pair.
    """
    embeddings = model.mask_decoder.mask_embedder(layers.hidden)
    matches = _match_all(layers, embeddings, truths)
    parts = _box_losses(layers, matches, truths)
    mask_parts, quality = _mask_losses(layers.pixels, embeddings, matches, truths)
    parts |= mask_parts
    parts["class"] = _class_loss(layers.logits, matches, quality, len(_flat_boxes(truths)))
    there = torch.tensor([[float(len(truth.boxes) > 0)] for truth in truths])
    depth = len(layers.presence)
    parts["presence"] = depth * functional.binary_cross_entropy_with_logits(
        layers.presence, there.expand(depth, -1, -1)
    )
    parts["semantic"] = _semantic_loss(semantic, truths)
    return {name: value * WEIGHTS[name] for name, value in parts.items()}


@dataclass(frozen=True)
class _Matches:
    """Index tensors of equal length: at `layer`, for `pair`, `query` answers the pair's object number `object`."""

    layer: Tensor
    pair: Tensor
    query: Tensor
    object: Tensor


@torch.no_grad()
def _match_all(layers: Layers, embeddings: Tensor, truths: list[Truth]) -> _Matches:
    """Give each object of each pair, at each layer, the query that answers it at the least cost."""
    pixels = functional.avg_pool2d(layers.pixels, MATCH_POOLING).flatten(2)
    found: list[tuple[int, int, int, int]] = []
    for pair, truth in enumerate(truths):
        if not len(truth.boxes):
            continue
        wanted = functional.avg_pool2d(truth.masks[:, None], MATCH_POOLING).flatten(1)
        masks = (embeddings[:, pair] @ pixels[pair]).sigmoid()  # (layers, queries, cells)
        for layer in range(len(masks)):
            cost = (
                WEIGHTS["dice"] * _dice(masks[layer][:, None], wanted[None])
                + _box_cost(layers.boxes[layer, pair], truth.boxes)
                - WEIGHTS["class"] * layers.logits[layer, pair].sigmoid()[:, None]
            )
            queries, objects = linear_sum_assignment(cost.numpy())
            found += [(layer, pair, int(q), int(o)) for q, o in zip(queries, objects, strict=True)]
    return _Matches(*torch.tensor(found, dtype=torch.long).reshape(-1, 4).T)


def _box_cost(boxes: Tensor, wanted: Tensor) -> Tensor:
    """Return what it costs to answer each wanted box (columns) with each box (rows)."""
    rows, columns = boxes[:, None].expand(-1, len(wanted), 4), wanted[None].expand(len(boxes), -1, 4)
    return WEIGHTS["l1"] * (rows - columns).abs().sum(-1) - WEIGHTS["giou"] * _giou(_corners(rows), _corners(columns))


def _corners(boxes: Tensor) -> Tensor:
    """Return boxes given as centre and size by their corners: left, top, right, bottom."""
    centre, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def _dice(masks: Tensor, wanted: Tensor) -> Tensor:
    """Return 1 - dice over the last dimension."""
    return 1 - (2 * (masks * wanted).sum(-1) + 1) / (masks.sum(-1) + wanted.sum(-1) + 1)


def _flat_boxes(truths: list[Truth]) -> Tensor:
    return torch.cat([truth.boxes for truth in truths])


def _flat_index(matches: _Matches, truths: list[Truth]) -> Tensor:
    """Return where each match's object stands among all objects of all pairs."""
    counts = torch.tensor([0] + [len(truth.boxes) for truth in truths])
    return counts.cumsum(0)[matches.pair] + matches.object


def _box_losses(layers: Layers, matches: _Matches, truths: list[Truth]) -> dict[str, Tensor]:
    wanted = _flat_boxes(truths)
    boxes = layers.boxes[matches.layer, matches.pair, matches.query]
    goal = wanted[_flat_index(matches, truths)]
    objects = max(1, len(wanted))
    giou = _giou(_corners(boxes), _corners(goal))
    return {"l1": (boxes - goal).abs().sum() / objects, "giou": (1 - giou).sum() / objects}


def _giou(first: Tensor, second: Tensor) -> Tensor:
    """Return the generalised IoU of each box (..., 4), given by its corners, with its partner, (...)."""
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    inner = (high - low).clamp(min=0).prod(-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(-1) for boxes in (first, second)]
    union = areas[0] + areas[1] - inner
    low = torch.minimum(first[..., :2], second[..., :2])
    high = torch.maximum(first[..., 2:], second[..., 2:])
    hull = (high - low).prod(-1)
    return inner / union - (hull - union) / hull


def _mask_losses(
    pixels: Tensor, embeddings: Tensor, matches: _Matches, truths: list[Truth]
) -> tuple[dict[str, Tensor], Tensor]:
    """Return the losses of the matched masks, and the IoU of each as it would be thresholded, (matches,)."""
    chosen = embeddings[matches.layer, matches.pair, matches.query]
    # unbind, not pixels[pair]: the gradient of an index is a tensor of zeros as large as the whole.
    logits = torch.cat(
        [chosen[matches.pair == pair] @ of_pair.flatten(1) for pair, of_pair in enumerate(pixels.unbind())]
    )
    # The rows above are grouped by pair; bring the goals into that order, and the IoU back out of it.
    order = torch.argsort(matches.pair, stable=True)
    masks = torch.cat([truth.masks for truth in truths]).flatten(1)
    index = _flat_index(matches, truths)[order]
    goal = masks[index]
    objects = max(1, len(masks))
    parts = {
        "mask": functional.binary_cross_entropy_with_logits(logits, goal, reduction="none").mean(-1).sum() / objects,
        "dice": _dice(logits.sigmoid(), goal).sum() / objects,
    }
    last = matches.layer[order] == len(embeddings) - 1
    fine = torch.cat([truth.fine for truth in truths])[index[last]]
    parts |= _fine_losses(logits[last].reshape(-1, *pixels.shape[2:]), fine, objects)
    seen, true = logits > 0, goal > 0.5
    iou = (seen & true).sum(-1) / (seen | true).sum(-1).clamp(min=1)
    quality = torch.empty_like(iou)
    quality[order] = iou
    return parts, quality


def _fine_losses(logits: Tensor, goal: Tensor, objects: int) -> dict[str, Tensor]:
    """Compare masks (matches, side, side) with finer ones as post-processing does: enlarge probabilities, not logits.

    The dice loss over cells that are partly covered wants each cell whole or empty, which moves the edge.
    """
    likely = functional.interpolate(logits.sigmoid()[:, None], size=goal.shape[1:], mode="bilinear").flatten(1)
    goal = goal.flatten(1)
    # Written out, as autocast forbids the library's function of probabilities. Clamped, else log(0) is infinite.
    likely = likely.clamp(1e-4, 1 - 1e-4)
    error = -(goal * likely.log() + (1 - goal) * (1 - likely).log())
    return {"fine mask": error.mean(-1).sum() / objects, "fine dice": _dice(likely, goal).sum() / objects}


def _class_loss(logits: Tensor, matches: _Matches, quality: Tensor, objects: int) -> Tensor:
    """Teach a matched query to claim the IoU of its mask, and every other query to claim nothing."""
    target = torch.zeros_like(logits)
    weight = NEGATIVE * logits.detach().sigmoid()
    place = (matches.layer, matches.pair, matches.query)
    target[place] = quality
    weight[place] = POSITIVE
    error = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (weight * error).sum() / max(1, objects)


def _semantic_loss(semantic: Tensor, truths: list[Truth]) -> Tensor:
    """Return the loss of the map of all that the prompt names."""
    logits = semantic.flatten(1)
    goal = torch.stack([truth.masks.sum(dim=0).clamp(max=1).flatten() for truth in truths])
    error = functional.binary_cross_entropy_with_logits(logits, goal)
    return error + _dice(logits.sigmoid(), goal).mean()


def shape_loss(guesses: Tensor, shapes: Tensor) -> Tensor:
    """Return the loss of naming the shape at each patch, without any prompt: prompts alone teach shapes slowly.

    guesses: logits (scenes, 1 + shapes, side, side); shapes: (scenes, larger, larger), 0 for the background.
    """
    step = shapes.shape[-1] // guesses.shape[-1]
    goal = shapes[:, step // 2 :: step, step // 2 :: step]
    weight = torch.ones(guesses.shape[1])
    weight[0] = 0.2  # most of a picture is background
    return WEIGHTS["shape"] * functional.cross_entropy(guesses, goal, weight)
