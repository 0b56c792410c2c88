"""The model's part: counts at full size, equality of every shortcut, and times on this CPU.

Run as `python -m benchmarks.model`; the full-size architecture has random weights, takes about five minutes and 6 GB.
Counts come from the meta device (see `benchmarks.counting`), times from one CPU core: ratios, not a GPU's speed.
"""

import gc
import io
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import click
import numpy as np
import simplejpeg
import torch
from PIL import Image
from skimage import data
from transformers.modeling_outputs import BaseModelOutputWithPooling

from benchmarks.architecture import full_size, segmenter_of
from benchmarks.counting import Counts, count_ours, count_plain
from benchmarks.timing import Row, interleaved, table
from workers.inference.models.sam3_checkpoint import load
from workers.inference.models.sam3_model import Sam3Segmenter
from workers.inference.models.torch_pixels import Pictures
from workers.inference.protocol import Options, Pixels
from workers.inference.reading import images
from workers.tiny.architecture import new_processor, random_model

PROMPTS = ("cat", "dog", "car", "person", "a red circle", "sky", "tree", "a cup", "road", "house")
FOUND = 10
OPTIONS = Options()
SIZES = {"640x480": (640, 480), "1080p": (1920, 1080), "12 MP": (4000, 3000)}
Features = Callable[..., Any]


def measure_counts(batches: Sequence[tuple[int, int]] = ((1, 1), (8, 1), (1, 5), (1, 10))) -> list[Row]:
    """What a batch of so many images with so many prompts each asks of its device at full size, exactly.

    Peaks are without weights and tables of positions.
    """
    plain = count_plain(*full_size("meta"), found=FOUND)
    rows = [_counted("plain loop", 1, 1, plain, plain)]
    segmenter = segmenter_of(*full_size("meta"), "meta")
    for batch, prompts in batches:
        counts = count_ours(segmenter, [PROMPTS[:prompts]] * batch, FOUND)
        rows.append(_counted("ours", batch, prompts, counts, plain))
    mixed = segmenter_of(*full_size("meta"), "meta", "mixed")
    rows.append(_counted("ours, mixed", 1, 1, count_ours(mixed, [PROMPTS[:1]], FOUND), plain))
    return rows


def _counted(name: str, batch: int, prompts: int, counts: Counts, plain: Counts) -> Row:
    return {
        "": name,
        "images": batch,
        "prompts": prompts,
        "GFLOP an image": counts.flops / batch / 1e9,
        "of the plain loop": counts.flops / batch / plain.flops,
        "kernels a batch": counts.kernels,
        "host waits a batch": counts.waits,
        "MB to the device an image": counts.bytes_to_device / batch / 1e6,
        "MB back an image": counts.bytes_from_device / batch / 1e6,
        "peak MB an image": counts.peak_bytes / batch / 1e6,
        "elementwise GB an image": counts.elementwise_bytes / batch / 1e9,
    }


def measure_equality(architecture: str, model: Any, processor: Any, repeats: int = 1) -> tuple[list[Row], list[Row]]:
    """Rows of the largest differences, and a row of seconds an image, of real forward passes in fp32: medians.

    Ours is timed as its two parts, the vision encoder once and the heads for all prompts, and their sum is given.
    """
    segmenter = segmenter_of(model, processor, "cpu")
    first, second = (segmenter.preprocess(np.array(image)) for image in (data.chelsea(), data.astronaut()))
    prompt = PROMPTS[:1]
    with torch.inference_mode():
        segmenter._texts.learn(PROMPTS)  # once a run, so no part of any time below
    # First, so that what a process does once is in none of the other times.
    pair = _numbers(segmenter, [first, second], prompt)
    timed = partial(_timed, repeats=repeats)
    vision, vision_seconds = timed(lambda: _vision(segmenter, first))
    one, heads_seconds = timed(lambda: _numbers(segmenter, [first], prompt, vision))
    plain, plain_seconds = timed(lambda: _plain(segmenter, first, prompt[0]))
    cached = _plain(segmenter, first, prompt[0], vision)
    differences = {
        "text and vision cached, against uncached (0 is bit-equal)": _furthest(cached, plain),
        "prompt trimmed to its tokens, against padded": float((one - plain[0]).abs().max()),
        "batch of 2, against of 1": float((pair[:1] - one).abs().max()),
    }
    times: Row = {"architecture": architecture, "plain, 1 prompt": plain_seconds}
    times["ours, 1 prompt"] = vision_seconds + heads_seconds
    for count in (5, 10):
        _, seconds = timed(partial(_numbers, segmenter, [first], PROMPTS[:count], vision))
        times[f"ours, {count} prompts"] = vision_seconds + seconds
    times["vision alone"] = vision_seconds
    rows = [
        {"architecture": architecture, "largest difference": what, "": value} for what, value in differences.items()
    ]
    return rows, [times]


def _timed(work: Callable[[], Any], repeats: int) -> tuple[Any, float]:
    """What the last one returned, and the median of their seconds."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - started)
    return result, statistics.median(seconds)


def _vision(segmenter: Sam3Segmenter, pixels: Pixels) -> Any:
    with torch.inference_mode():
        return segmenter._model.get_vision_features(segmenter._to_device([pixels]))


def _numbers(
    segmenter: Sam3Segmenter, batch: list[Pixels], prompts: tuple[str, ...], vision: Any = None
) -> torch.Tensor:
    """Presence, scores and boxes (in fractions of the image) of the last prompt, one row an image. With `vision` the
    encoder does not run again: its time is known, and added by whoever has it."""
    model = segmenter._model
    features = model.get_vision_features if vision is None else lambda pixels: vision
    with mock.patch.object(model, "get_vision_features", features):
        last = segmenter.predict(batch, [prompts] * len(batch), OPTIONS).last
    assert last is not None
    return last.numbers


@torch.inference_mode()
def _plain(segmenter: Sam3Segmenter, pixels: Pixels, prompt: str, vision: Any = None) -> tuple[torch.Tensor, ...]:
    """Numbers as above and mask logits of the library's own forward; with `vision` its text is made beforehand too."""
    model = segmenter._model
    tokens = segmenter._texts._tokenizer([prompt], padding="max_length", max_length=32, return_tensors="pt")
    if vision is None:
        output = model(pixel_values=segmenter._to_device([pixels]), **tokens)
    else:
        text = model.get_text_features(tokens.input_ids, attention_mask=tokens.attention_mask)
        text = BaseModelOutputWithPooling(pooler_output=text.pooler_output)
        output = model(vision_embeds=vision, text_embeds=text, attention_mask=tokens.attention_mask)
    presence = output.presence_logits.sigmoid()
    scores = output.pred_logits.sigmoid() * presence
    return torch.cat((presence, scores, output.pred_boxes.flatten(1)), dim=1), output.pred_masks


def _furthest(one: tuple[torch.Tensor, ...], other: tuple[torch.Tensor, ...]) -> float:
    return max(float((left - right).abs().max()) for left, right in zip(one, other, strict=True))


def measure_reading(repeats: int = 7) -> list[Row]:
    """Milliseconds from bytes to RGB and from RGB to the model's size, each against the plain way."""
    segmenter, processor = segmenter_of(random_model(), new_processor(), "cpu"), full_size("meta")[1].image_processor
    segmenter._pictures = Pictures(processor, torch.device("cpu"))  # facebook/sam3's: 1008 x 1008
    rows = []
    for name, size in SIZES.items():
        photograph = Image.fromarray(data.astronaut()).resize(size)
        file = io.BytesIO()
        photograph.save(file, "JPEG", quality=90)
        jpeg, pixels = file.getvalue(), np.array(photograph)
        ways = {
            "Pillow": partial(_pillow, jpeg),
            "simplejpeg": partial(simplejpeg.decode_jpeg, jpeg, "RGB"),
            "ours": partial(images._decode, jpeg, images.ReadRules()),
            "processor": partial(processor.preprocess, images=photograph, return_tensors="pt"),
            "resize": partial(segmenter.preprocess, pixels),
        }
        times = interleaved(ways, repeats)
        rows.append(
            {
                "JPEG": name,
                **{f"{way}, ms": taken.text for way, taken in times.items()},
                "decode, times faster": times["Pillow"].median / times["ours"].median,
                "preprocess, times faster": times["processor"].median / times["resize"].median,
                "pixels that differ": int((_pillow(jpeg) != images._decode(jpeg, images.ReadRules())[0]).sum()),
            }
        )
    return rows


def _pillow(jpeg: bytes) -> images.RGB:
    return np.array(Image.open(io.BytesIO(jpeg)).convert("RGB"))


@click.command()
@click.option("--full-size/--no-full-size", "full", default=True, show_default=True, help="Five minutes and 6 GB.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Also for the model in this folder.")
def main(full: bool, checkpoint: Path | None) -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    print(table(measure_counts()), table(measure_reading()), sep="\n\n")
    measured = [measure_random(name) for name in (RANDOM if full else [*RANDOM][:1])]
    if checkpoint:
        measured.append(measure_equality(checkpoint.name, *load(checkpoint)))
    for equality, times in measured:
        print("", table(equality), "", "Seconds an image:", table(times), sep="\n")


RANDOM: dict[str, Callable[[], tuple[Any, Any]]] = {
    "tiny, random weights": lambda: (random_model(), new_processor()),
    "full size, random weights": lambda: full_size("cpu"),
}


def measure_random(name: str) -> tuple[list[Row], list[Row]]:
    """`measure_equality` of one of the architectures in `RANDOM`."""
    gc.collect()
    large = name.startswith("full")
    torch.set_num_threads(2 if large else 1)
    return measure_equality(name, *RANDOM[name](), repeats=1 if large else 9)


if __name__ == "__main__":
    main()
