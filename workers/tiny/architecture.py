"""A SAM3 of about two million parameters: its configuration, its processor and its files. Knows no scenes, no training.

The classes are Hugging Face's own (`Sam3Model`, `Sam3Processor`) with small numbers, so that all code that loads
`facebook/sam3` can load this model, too. Source: https://huggingface.co/docs/transformers/model_doc/sam3.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import (
    CLIPTokenizer,
    Sam3Config,
    Sam3ImageProcessor,
    Sam3Model,
    Sam3Processor,
    Sam3VideoConfig,
)

from workers.tiny import vocabulary
from workers.tiny.calibration import make_it_find

IMAGE_SIZE = 128  # pixels; the processor makes every image a square of this size
PATCH_SIZE = 8
MASK_SIZE = 4 * IMAGE_SIZE // PATCH_SIZE
TEXT_LENGTH = 32  # tokens, as in facebook/sam3
QUERY_GRID = 6  # the queries start as a grid of so many x so many boxes over the image
OUTSIDE = 8.0  # penalty, for untrained queries, on looking outside their boxes
WIDTH = 64  # of all layers after the vision encoder

# The prefix and the file names of facebook/sam3. Its file also holds a video tracker, which ours does not have.
PREFIX = "detector_model."
WEIGHTS = "model.safetensors"


def configuration() -> Sam3Config:
    """Return the tiny model's configuration: facebook/sam3's with small numbers."""
    grid = IMAGE_SIZE // PATCH_SIZE
    tokens = vocabulary.vocabulary()
    # About 1/sqrt(WIDTH). With the library's 0.02 the signal would vanish in layers as narrow as these.
    scale = 0.1
    transformer = {
        "hidden_size": WIDTH, "intermediate_size": 256, "num_attention_heads": 4, "dropout": 0.0,
        "initializer_range": scale,
    }  # fmt: skip
    return Sam3Config(
        initializer_range=scale,
        vision_config={
            "model_type": "sam3_vision_model",
            "fpn_hidden_size": WIDTH,
            "backbone_feature_sizes": [[4 * grid] * 2, [2 * grid] * 2, [grid] * 2],
            "initializer_range": scale,
            "backbone_config": {
                "model_type": "sam3_vit_model",
                "hidden_size": 128,
                "intermediate_size": 384,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "image_size": IMAGE_SIZE,
                "pretrain_image_size": IMAGE_SIZE,
                "patch_size": PATCH_SIZE,
                "window_size": grid // 2,
                "global_attn_indexes": [1, 3],
                "initializer_range": scale,
            },
        },
        text_config={
            "model_type": "clip_text_model",
            "vocab_size": len(tokens),
            "hidden_size": 64,
            "intermediate_size": 128,
            "projection_dim": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": TEXT_LENGTH,
            "hidden_act": "gelu",
            "bos_token_id": tokens[vocabulary.START],
            "eos_token_id": tokens[vocabulary.END],
            "pad_token_id": tokens[vocabulary.END],
        },
        # As small as possible: a box has to tell no more than the shape in it.
        geometry_encoder_config={**transformer, "intermediate_size": 64, "num_layers": 1, "roi_size": 1},
        detr_encoder_config={**transformer, "num_layers": 2},
        detr_decoder_config={**transformer, "num_layers": 4, "num_queries": QUERY_GRID**2},
        mask_decoder_config={
            "hidden_size": WIDTH, "num_attention_heads": 4, "num_upsampling_stages": 2,
            "initializer_range": scale,
        },
    )  # fmt: skip


def new_model(seed: int = 0) -> Sam3Model:
    """Return an untrained model in evaluation mode, initialised so that it learns quickly.

    Its queries start as a grid of boxes over the image and look mostly inside their boxes.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Sam3Model(configuration())
        torch.nn.init.normal_(model.detr_decoder.query_embed.weight)
    side = (torch.arange(QUERY_GRID) + 0.5) / QUERY_GRID
    y, x = torch.meshgrid(side, side, indexing="ij")
    size = torch.full_like(x, 0.3)
    boxes = torch.stack([x, y, size, size], dim=-1).reshape(-1, 4)
    with torch.no_grad():
        model.detr_decoder.reference_points.weight.copy_(torch.logit(boxes))
        for bias in (model.detr_decoder.box_rpb_embed_x, model.detr_decoder.box_rpb_embed_y):
            _look_inside(bias)
        # Before training, each layer leaves the boxes nearly unchanged.
        _last_layer(model.detr_decoder.box_head).weight.mul_(0.1)
    model.train(False)
    return model


def _look_inside(bias: Any) -> None:
    """Make a position bias start as a penalty that grows with the distance outside the box.

    The bias is a two-layer network over the logarithmic distances to the box's low and high side; one hidden unit
    is given to each side.
    """
    bias.layer1.weight[:2] = torch.tensor([[-1.0, 0.0], [0.0, 1.0]])  # below the low side, above the high side
    bias.layer1.bias[:2] = 0
    bias.layer2.weight[:, :2] = -OUTSIDE


def _last_layer(head: Any) -> torch.nn.Linear:
    layer: torch.nn.Linear = head.layer3
    return layer


def new_processor() -> Sam3Processor:
    """Return the processor (resize to a square, normalise, tokenise) that belongs to the tiny model."""
    merges: Any = list(vocabulary.merges())  # pairs, though the library's annotation says text
    tokenizer = CLIPTokenizer(vocab=vocabulary.vocabulary(), merges=merges, model_max_length=TEXT_LENGTH)
    images = Sam3ImageProcessor(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, mask_size={"height": MASK_SIZE, "width": MASK_SIZE}
    )
    return Sam3Processor(image_processor=images, tokenizer=tokenizer)


def write_checkpoint(folder: Path, model: Sam3Model) -> None:
    """Write model and processor to `folder`, laid out like the Hub's facebook/sam3, weights as float16."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        PREFIX + name: tensor.detach().to(torch.float16).contiguous() for name, tensor in model.state_dict().items()
    }
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / WEIGHTS).chmod(0o644)  # safetensors writes for the owner only; package data is for everyone
    config = Sam3VideoConfig(detector_config=model.config.to_dict())
    config.architectures = ["Sam3VideoModel"]
    # The weights are stored as float16 to be small, and used as float32, as half precision is slow on a CPU.
    config.dtype = "float32"
    config.save_pretrained(folder)
    new_processor().save_pretrained(folder)


def load_checkpoint(folder: Path) -> tuple[Sam3Model, Sam3Processor]:
    """Load a checkpoint of `write_checkpoint` as float32. Raise ValueError if weights are missing or do not fit."""
    loaded: Any = Sam3Model.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, output_loading_info=True
    )
    model, report = loaded
    wrong = {kind: sorted(map(str, keys)) for kind, keys in report.items() if keys}
    if wrong:
        raise ValueError(f"{folder}: the weights do not fit the model: {wrong}")
    return model, Sam3Processor.from_pretrained(folder)


def random_model(seed: int = 0) -> Sam3Model:
    """Return an untrained model that finds instances in any image for any prompt. They mean nothing.

    A plain random model finds no instance at threshold 0.5, so comparing two ways of running it would prove nothing.
    In this model the scores are spread around the threshold and the mask logits around zero. Both are set once for the
    model with noise images, and never for a single image.
    """
    model = new_model(seed)
    generator = torch.Generator().manual_seed(seed)
    pixels = _noise_images(32, generator)
    encoded = new_processor().tokenizer(
        ["person", "cat", "red circle", "a cup of coffee"] * 8,
        padding="max_length", max_length=TEXT_LENGTH, return_tensors="pt",
    )  # fmt: skip
    inputs = {"pixel_values": pixels, **encoded}
    make_it_find(model, inputs)
    return model


def write_random_checkpoint(folder: Path, seed: int = 0) -> None:
    """Write a checkpoint of `random_model(seed)` to `folder`."""
    write_checkpoint(folder, random_model(seed))


def _noise_images(count: int, generator: torch.Generator) -> torch.Tensor:
    """Return colour noise of every contrast and brightness in [-1, 1], (count, 3, IMAGE_SIZE, IMAGE_SIZE)."""
    layers = [
        torch.nn.functional.interpolate(
            torch.rand(count, 3, size, size, generator=generator) * 2 - 1, size=IMAGE_SIZE, mode="bilinear"
        )
        for size in (3, 16, 128)
    ]
    noise = layers[0] * 0.7 + layers[1] * 0.4 + layers[2] * 0.1
    contrast = torch.rand(count, 1, 1, 1, generator=generator) * 1.5
    brightness = torch.rand(count, 3, 1, 1, generator=generator) * 1.6 - 0.8
    return (noise * contrast + brightness).clamp(-1, 1)
