"""A SAM3 with its tracker, small enough for tests, with random weights. Knows no scenes.

`python -m workers.tiny.tracker FOLDER` writes the checkpoint, laid out like facebook/sam3, for `--everything`. It finds
something in every image; it means nothing.
"""

from pathlib import Path
from typing import Any

import click
import torch
from safetensors.torch import save_file
from transformers import Sam3ImageProcessor, Sam3TrackerProcessor, Sam3VideoConfig, Sam3VideoModel

from workers.tiny.architecture import WEIGHTS, configuration

IMAGE_SIZE = 64  # pixels; every image is made a square of this size
PATCH_SIZE = 8
WIDTH = 32  # of all layers

APART = 3.0  # how much further from each other tokens begin
SHARPER = 3.0  # how much all weights of the decoder are enlarged
STEEP, SMALL = 400.0, 800.0  # of the logits of masks: a factor, and what is then taken away
SURE = 2.0  # added to the logits of scores
ONE = 1.1446  # of which the decoder's GELU makes 1


def tracker_configuration() -> Sam3VideoConfig:
    """facebook/sam3's with small numbers."""
    grid = IMAGE_SIZE // PATCH_SIZE
    vision = {
        "model_type": "sam3_vision_model", "fpn_hidden_size": WIDTH, "initializer_range": 0.1,
        "backbone_feature_sizes": [[4 * grid] * 2, [2 * grid] * 2, [grid] * 2],
        "backbone_config": {
            "model_type": "sam3_vit_model", "hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": IMAGE_SIZE, "pretrain_image_size": IMAGE_SIZE,
            "patch_size": PATCH_SIZE, "window_size": grid // 2, "global_attn_indexes": [1], "initializer_range": 0.1,
        },
    }  # fmt: skip
    tracker = {
        "model_type": "sam3_tracker_video", "vision_config": vision, "image_size": IMAGE_SIZE,
        "initializer_range": 0.1,
        "prompt_encoder_config": {"hidden_size": WIDTH, "image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE},
        "mask_decoder_config": {
            "hidden_size": WIDTH, "mlp_dim": 64, "num_attention_heads": 2, "iou_head_hidden_dim": WIDTH,
        },
        "memory_attention_hidden_size": WIDTH, "memory_attention_feed_forward_hidden_size": 64,
        "memory_attention_num_layers": 1, "memory_encoder_hidden_size": WIDTH, "memory_encoder_output_channels": 16,
        "mask_downsampler_embed_dim": WIDTH, "memory_fuser_embed_dim": WIDTH, "memory_fuser_intermediate_dim": 64,
        "memory_fuser_num_layers": 1,
    }  # fmt: skip
    detector = configuration().to_dict() | {"vision_config": vision}
    return Sam3VideoConfig(detector_config=detector, tracker_config=tracker)


def new_tracker(seed: int = 0) -> Any:
    """A random model in evaluation mode, whose masks and scores depend on the point."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: Any = Sam3VideoModel(tracker_configuration())
    tracker = model.tracker_model
    # Points are found in an image because both have one code for places. The library draws two.
    tracker.prompt_encoder.shared_embedding.load_state_dict(tracker.shared_image_embedding.state_dict())
    with torch.no_grad():
        for part in tracker.modules():
            if isinstance(part, torch.nn.Embedding):
                part.weight.mul_(APART)
        _spread(tracker.mask_decoder)
    return model.eval()


def _spread(decoder: Any) -> None:
    """Enlarge the weights of a decoder. With those that the library draws, all points give nearly one and the same
    mask, whose logits and score hardly differ from 0 and 0.5."""
    for layer in decoder.transformer.layers:
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            getattr(layer.self_attn, name).weight.copy_(torch.eye(WIDTH) / SHARPER)  # else tokens become their mean
    for name, parameter in decoder.named_parameters():
        if parameter.ndim > 1 and not name.startswith("pred_obj"):
            parameter.mul_(SHARPER)
    decoder.iou_prediction_head.proj_out.bias.add_(SURE)
    # The first channel becomes 1 everywhere, so that its weight shifts all logits of a mask.
    decoder.conv_s0.weight[0], decoder.conv_s0.bias[0] = 0.0, 0.0
    decoder.upscale_conv2.weight[:, 0], decoder.upscale_conv2.bias[0] = 0.0, ONE
    for head in decoder.output_hypernetworks_mlps:
        head.proj_out.weight.mul_(STEEP)
        head.proj_out.weight[0], head.proj_out.bias[0] = 0.0, -SMALL


def write_random_tracker(folder: Path, seed: int = 0) -> Path:
    """Write the checkpoint to `folder`, which it returns. Its weights are named as in the Hub's facebook/sam3."""
    model = new_tracker(seed)
    folder.mkdir(parents=True, exist_ok=True)
    # Not with `save_pretrained`: transformers 5.24 writes the tracker's names with their prefix twice.
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    model.config.save_pretrained(folder)
    processor: Any = Sam3TrackerProcessor
    images = Sam3ImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})
    processor(images).save_pretrained(folder)
    return folder


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def main(folder: Path) -> None:
    """Write a random SAM3 with its tracker to FOLDER."""
    print(write_random_tracker(folder))


if __name__ == "__main__":
    main()
