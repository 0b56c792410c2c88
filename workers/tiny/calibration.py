"""Makes a SAM3 with random weights, of any size, find instances. Knows no configuration, no files and no training."""

from collections.abc import Mapping
from typing import Any

import torch


@torch.no_grad()
def make_it_find(model: Any, inputs: Mapping[str, Any]) -> None:
    """Change a `Sam3Model` so that some of its queries are instances at threshold 0.5, in any image, for any prompt.

    A plain random model finds no instance, so comparing two ways of running it would prove nothing. `inputs` are the
    inputs of a forward pass over noise images, such as `pixel_values` of shape (images, 3, height, width) or
    `vision_embeds` of them, on the model's device. The instances that the model then finds mean nothing.
    """
    _keep_queries_apart(model)
    _centre_masks(model, inputs)
    _centre_scores(model, inputs)
    presence = model.detr_decoder.presence_head.layer3
    presence.weight.mul_(0.1)
    presence.bias.fill_(4.0)


def _keep_queries_apart(model: Any) -> None:
    """Weaken the input that all queries of an image have in common, as otherwise all would give the same instance."""
    for layer in model.detr_decoder.layers:
        attention: Any
        for attention in (layer.self_attn, layer.text_cross_attn, layer.vision_cross_attn):
            attention.o_proj.weight.mul_(0.1)


def _centre_masks(model: Any, inputs: Mapping[str, Any]) -> None:
    """Shift the mask features to mean zero, so that masks neither are empty nor cover the whole image."""
    projection: Any = model.mask_decoder.instance_projection
    seen: list[torch.Tensor] = []
    handle = projection.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    model(**inputs)
    handle.remove()
    projection.bias.sub_(seen[0].mean(dim=(0, 2, 3)))


def _centre_scores(model: Any, inputs: Mapping[str, Any]) -> None:
    """Score each query along the feature that differs most between queries and least between images.

    Along any other feature a random model finds everything in one image and nothing in the next. The class
    logits get a deviation of 3, half of them below zero.
    """
    scoring = model.dot_product_scoring
    seen: list[torch.Tensor] = []
    handle = scoring.query_proj.register_forward_pre_hook(lambda _module, args: seen.append(args[0][-1]))
    model(**inputs)
    handle.remove()
    features = seen[0].double()  # (images, queries, width)
    width = features.shape[-1]
    means = features.mean(dim=1)
    within = (features - means[:, None]).flatten(0, 1).T.cov()
    between = means.T.cov() + 1e-3 * torch.eye(width, dtype=torch.double, device=features.device)
    root = _inverse_root(between)
    feature = root @ torch.linalg.eigh(root @ within @ root).eigenvectors[:, -1]
    values = features @ feature
    gain, level = 3 / float(values.std()), float(values.median())

    # A tenth of the text vector depends on the prompt and the rest is constant, so that all prompts rank the queries in
    # nearly the same way.
    text = torch.ones(width, device=features.device) / width**0.5
    scoring.text_proj.bias.copy_(text / scoring.scale)
    scoring.text_proj.weight.mul_(0.1)
    scoring.query_proj.weight.copy_(torch.outer(text, (feature * gain).float()))
    scoring.query_proj.bias.copy_(-text * gain * level)


def _inverse_root(matrix: torch.Tensor) -> torch.Tensor:
    """Return the symmetric matrix whose square is the inverse of `matrix`."""
    values, vectors = torch.linalg.eigh(matrix)
    root: torch.Tensor = vectors @ torch.diag(values.rsqrt()) @ vectors.T
    return root
