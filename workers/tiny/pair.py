"""The architecture of Grounding DINO with SAM2, small enough for tests, with random weights. Knows no scenes.

`python -m workers.tiny.pair FOLDER` writes both checkpoints, laid out like IDEA-Research/grounding-dino-tiny and
facebook/sam2.1-hiera-tiny, and prints the `--model` that takes them. They find something in every image; it means
nothing.
"""

from pathlib import Path
from typing import Any

import click
import torch
from transformers import (
    BertTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    MMGroundingDinoConfig,
    MMGroundingDinoForObjectDetection,
    Sam2ImageProcessor,
    Sam2Processor,
    Sam2VideoConfig,
    Sam2VideoModel,
)

from workers.tiny import vocabulary

WIDTH = 32  # of all layers; the library's normalisation has 32 groups
QUERIES = 24  # boxes an image and prompt
SHORTEST, LONGEST = 128, 208  # pixels; the detector keeps an image's proportions, as the real one with 800 and 1333
IMAGE_SIZE = 64  # pixels; SAM2 makes every image a square of this size

SPREAD, SHIFT = 0.2, 2.5  # of the logits of scores

DETECTORS: dict[str, Any] = {
    "grounding-dino": (GroundingDinoConfig, GroundingDinoForObjectDetection),
    "mm-grounding-dino": (MMGroundingDinoConfig, MMGroundingDinoForObjectDetection),
}

# The ids that Grounding DINO's code takes for the ends of phrases: those of bert-base-uncased.
FIXED = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012, "?": 1029}


def words() -> dict[str, int]:
    """Token -> id: every letter, digit and word of the tiny model's list, around the fixed ids."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    wanted = [*letters, *(f"##{letter}" for letter in letters), *dict.fromkeys(vocabulary.WORDS.split())]
    free = (number for number in range(104, 10_000) if number not in FIXED.values())
    new = [token for token in dict.fromkeys(wanted) if token not in FIXED]
    return FIXED | dict(zip(new, free, strict=False))


def new_detector(seed: int = 0, kind: str = "grounding-dino") -> Any:
    """A random Grounding DINO of this `model_type` in evaluation mode. Its scores are spread around 0.5."""
    make_config, make_model = DETECTORS[kind]
    config = make_config(
        backbone_config={
            "model_type": "swin", "embed_dim": 16, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 2, 4], "window_size": 4,
            "image_size": SHORTEST, "out_indices": [2, 3, 4], "out_features": ["stage2", "stage3", "stage4"],
        },
        text_config={
            "model_type": "bert", "vocab_size": max(words().values()) + 1, "hidden_size": WIDTH,
            "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 64,
        },
        d_model=WIDTH, num_queries=QUERIES, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=64, decoder_ffn_dim=64,
        encoder_attention_heads=4, decoder_attention_heads=4, max_text_len=64, init_std=0.1,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = make_model(config)
        for parameter in model.bbox_embed.parameters():
            torch.nn.init.normal_(parameter, std=0.2)  # the library starts with boxes that are their anchors
    model.eval()
    _spread_scores(model, seed)
    return model


def _spread_scores(model: Any, seed: int) -> None:
    """Set the last layer's scale and shift so that scores lie on both sides of 0.5, whatever the image and phrase.

    A score is a query's product with a token. All tokens of a random model share a direction, so a shift against that
    direction lowers all scores.
    """
    noise = torch.rand(1, 3, SHORTEST, SHORTEST, generator=torch.Generator().manual_seed(seed))
    last = model.model.decoder.layer_norm
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("class_embed.0.bias"):  # of the one kind that has it; the library starts with -4.6
                parameter.zero_()
        seen = model(pixel_values=noise * 4 - 2, input_ids=torch.tensor([[101, 200, 1012, 102]]))
        shared = seen.encoder_last_hidden_state_text[0].mean(0)
        last.weight.mul_(SPREAD)
        last.bias.sub_(SHIFT * shared / shared.square().sum())


def new_segmenter(seed: int = 0) -> Any:
    """A random SAM2 in evaluation mode, with the parts for videos that the Hub's checkpoints have."""
    grid = IMAGE_SIZE // 16
    config = Sam2VideoConfig(
        vision_config={
            "backbone_config": {
                "model_type": "sam2_hiera_det_model", "image_size": [IMAGE_SIZE] * 2, "hidden_size": 8,
                "embed_dim_per_stage": [8, 16, 32, 64], "num_attention_heads_per_stage": [1, 1, 2, 2],
                "blocks_per_stage": [1, 1, 2, 1], "window_size_per_stage": [8, 4, 4, 2],
                "global_attention_blocks": [3], "window_positional_embedding_background_size": [4, 4],
                "initializer_range": 0.1,
            },
            "backbone_channel_list": [64, 32, 16, 8], "fpn_hidden_size": WIDTH,
            "backbone_feature_sizes": [[4 * grid] * 2, [2 * grid] * 2, [grid] * 2], "initializer_range": 0.1,
        },
        prompt_encoder_config={"hidden_size": WIDTH, "image_size": IMAGE_SIZE},
        mask_decoder_config={
            "hidden_size": WIDTH, "mlp_dim": 64, "num_attention_heads": 2, "iou_head_hidden_dim": WIDTH,
        },
        image_size=IMAGE_SIZE, memory_attention_hidden_size=WIDTH, memory_attention_feed_forward_hidden_size=64,
        memory_attention_num_layers=1, memory_encoder_hidden_size=WIDTH, memory_encoder_output_channels=16,
        mask_downsampler_embed_dim=WIDTH, memory_fuser_embed_dim=WIDTH, memory_fuser_intermediate_dim=64,
        memory_fuser_num_layers=1, initializer_range=0.1,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: Any = Sam2VideoModel(config)
    return model.eval()


def write_random_pair(folder: Path, seed: int = 0, kind: str = "grounding-dino") -> str:
    """Write both checkpoints below `folder`; returns the model's name, `A+B`. `kind` is the detector's `model_type`."""
    detector, segmenter = folder / "detector", folder / "segmenter"
    new_detector(seed, kind).save_pretrained(detector)
    images = GroundingDinoImageProcessor(size={"shortest_edge": SHORTEST, "longest_edge": LONGEST})
    processor: Any = GroundingDinoProcessor
    processor(images, BertTokenizer(vocab=words(), do_lower_case=True)).save_pretrained(detector)
    new_segmenter(seed).save_pretrained(segmenter)
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    Sam2Processor(Sam2ImageProcessor(size=size)).save_pretrained(segmenter)
    return f"{detector}+{segmenter}"


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def main(folder: Path) -> None:
    """Write a random Grounding DINO and a random SAM2 below FOLDER."""
    print(write_random_pair(folder))


if __name__ == "__main__":
    main()
