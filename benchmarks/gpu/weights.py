"""SAM3 in full size with random weights that find things, as a checkpoint: for measuring without a download.

Which masks it makes means nothing; how many, how large and how long their outlines are is as of photographs.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import Sam3Config, Sam3Processor

from benchmarks.architecture import full_size
from workers.tiny import architecture as tiny
from workers.tiny.calibration import make_it_find

NOISE_IMAGES = 4
BOX = 0.3  # sides of the boxes that queries begin with, in fractions of the image
KEPT = 4  # instances an image over the threshold, about
COVERED = 0.02  # of the frame by a mask, about


def write_checkpoint(folder: Path, device: str, config: Sam3Config | None = None, seed: int = 0) -> None:
    """Write 840 million random weights, 3.4 GB, or those of a smaller `config`; a seed gives the same ones again."""
    model, processor = random_model(device, config, seed)
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / tiny.WEIGHTS, metadata={"format": "pt"})
    processor.save_pretrained(folder)


def random_model(device: str, config: Sam3Config | None, seed: int = 0) -> tuple[Any, Sam3Processor]:
    """The model in fp32 on the device, and its processor."""
    model, processor = full_size(device, seed, config)
    side = processor.image_processor.size["height"]
    with torch.device(device), torch.no_grad():
        _spread_queries(model)
        _blur(model)
        inputs = processor.tokenizer(
            ["person", "cat"] * (NOISE_IMAGES // 2),
            padding="max_length",
            max_length=tiny.TEXT_LENGTH,
            return_tensors="pt",
        ).to(device)
        # What follows changes the heads alone, so the vision encoder, nine tenths of the work, runs once.
        inputs["vision_embeds"] = model.get_vision_features(_noise(side))
        make_it_find(model, inputs)
        _keep_little(model, inputs)
    return model, processor


def _spread_queries(model: Any) -> None:
    """Begin with boxes all over the image, which hardly move."""
    decoder = model.detr_decoder
    torch.nn.init.normal_(decoder.query_embed.weight)
    count = decoder.reference_points.weight.shape[0]
    across = int(count**0.5)
    number = torch.arange(count)
    x = (number % across + 0.5) / across
    y = (number // across + 0.5) / -(-count // across)
    boxes = torch.stack([x, y, torch.full_like(x, BOX), torch.full_like(x, BOX)], dim=-1).clamp(0.02, 0.98)
    decoder.reference_points.weight.copy_(torch.logit(boxes))
    decoder.box_head.layer3.weight.mul_(0.1)


def _blur(model: Any) -> None:
    """Leave the two finest levels of features out: random ones are noise of one pixel, and masks of them would have
    outlines that are far longer than those of things."""
    for level in model.vision_encoder.neck.fpn_layers[:2]:
        level.proj2.weight.zero_()
        level.proj2.bias.zero_()


def _noise(side: int) -> torch.Tensor:
    coarse = torch.rand(NOISE_IMAGES, 3, 16, 16) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")


def _keep_little(model: Any, inputs: Mapping[str, Any]) -> None:
    """Make instances few and masks small, as things in photographs are: take off all logits what the right share of
    them exceeds."""
    output = model(**inputs)
    bias = model.dot_product_scoring.query_proj.bias
    bias.sub_(float(output.pred_logits.topk(KEPT + 1).values[:, -1].mean()) / bias.numel() ** 0.5)
    every = output.pred_masks.flatten()
    too_much = float(every.kthvalue(int((1 - COVERED) * every.numel())).values)
    decoder = model.mask_decoder
    # One channel of the mask features becomes a constant, which then takes as much off every logit.
    project, embed = decoder.instance_projection, decoder.mask_embedder.layers[-1]
    project.weight[0], project.bias[0], embed.weight[0], embed.bias[0] = 0.0, 1.0, 0.0, -too_much
