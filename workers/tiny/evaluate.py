"""Measures the tiny model on scenes that it was not trained on: `python -m workers.tiny.evaluate [--model tiny]`.

Knows the library's own processor and post-processing, but nothing of this project's pipeline, so that the figures are
those of the checkpoint alone.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import Sam3Model, Sam3Processor

from workers.tiny import agreement, scenes
from workers.tiny.architecture import load_checkpoint
from workers.tiny.files import CHECKPOINT

HELD_OUT = 20_261_122  # seed of the scenes that are measured; training and its own checks use other seeds
THRESHOLD = 0.5  # the same for scores, masks and presence


@dataclass(frozen=True)
class Report:
    """What was measured."""

    prompts: int
    presence_right: int  # number of prompts for which presence was right
    kinds: dict[str, agreement.Agreement]  # kind of prompt -> instances

    @property
    def total(self) -> agreement.Agreement:
        return sum(self.kinds.values(), agreement.Agreement())

    def figures(self) -> dict[str, float]:
        """Return the figures of the README of the checkpoint, each from 0 to 1."""
        total = self.total
        return {
            "f1": total.f1,
            "precision": total.precision,
            "recall": total.recall,
            "mean_iou": total.mean_iou,
            "presence_accuracy": self.presence_right / max(1, self.prompts),
        }


Answers = tuple[list[scenes.Mask], list[bool]]
"""Of each text: masks (instances, height, width), and whether it is there."""


def evaluate(model: Sam3Model, processor: Sam3Processor, count: int, seed: int) -> Report:
    """Judge the library's own model by `count` scenes of the series `seed`."""
    return judge(partial(segment, model, processor), count, seed)


def judge(ask: Callable[[scenes.Pixels, list[str]], Answers], count: int, seed: int) -> Report:
    """Ask for one prompt of each kind in each of `count` scenes of the series `seed`."""
    asked = right = 0
    kinds = dict.fromkeys(("colour and shape", "shape", "colour", "anything"), agreement.Agreement())
    for number in range(count):
        scene = scenes.scene(seed, number)
        texts = scenes.prompts(scene, np.random.default_rng([seed, number, 1]))
        found, presence = ask(scene.image, texts)
        for kind, text, masks, present in zip(kinds, texts, found, presence, strict=True):
            drawn = np.array(scene.truth(text), dtype=bool).reshape(-1, *scene.image.shape[:2])
            kinds[kind] += agreement.agree(agreement.mask_ious(masks, drawn))
            right += present == (len(drawn) > 0)
            asked += 1
    return Report(asked, right, kinds)


@torch.inference_mode()
def segment(model: Sam3Model, processor: Sam3Processor, image: scenes.Pixels, texts: list[str]) -> Answers:
    """Return, for each text, the masks found (instances, height, width) and whether it is judged present."""
    inputs = processor(images=[image] * len(texts), text=texts, return_tensors="pt")
    outputs = model(**inputs)
    results = processor.post_process_instance_segmentation(  # type: ignore[no-untyped-call]
        outputs, threshold=THRESHOLD, mask_threshold=THRESHOLD, target_sizes=[image.shape[:2]] * len(texts)
    )
    # If no instance is kept the library does not resize the masks, so their shape is given here.
    masks = [result["masks"].bool().numpy().reshape(len(result["masks"]), *image.shape[:2]) for result in results]
    return masks, (outputs.presence_logits.squeeze(-1).sigmoid() > THRESHOLD).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="tiny", help='a folder, or "tiny" for the bundled checkpoint')
    parser.add_argument("--scenes", type=int, default=500, help="how many scenes to ask about")
    parser.add_argument("--seed", type=int, default=HELD_OUT, help="which series of scenes")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # in a model of this size more threads only wait for each other
    folder = CHECKPOINT if arguments.model == "tiny" else Path(arguments.model)
    report = evaluate(*load_checkpoint(folder), arguments.scenes, arguments.seed)
    print(json.dumps({"scenes": arguments.scenes, "prompts": report.prompts, **_rounded(report.figures())}))
    for kind, agreed in report.kinds.items():
        print(json.dumps({
            "kind": kind, "drawn": agreed.drawn, "found": agreed.found,
            **_rounded({"f1": agreed.f1, "precision": agreed.precision, "recall": agreed.recall,
                        "mean_iou": agreed.mean_iou}),
        }))  # fmt: skip


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in figures.items()}


if __name__ == "__main__":
    main()
