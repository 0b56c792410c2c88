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
from typing import Any

import numpy as np
import torch
from transformers import Sam3Model, Sam3Processor

from workers.tiny import agreement, exemplars, scenes
from workers.tiny.architecture import load_checkpoint
from workers.tiny.exemplars import Question
from workers.tiny.files import CHECKPOINT

HELD_OUT = 20_261_122  # seed of the scenes that are measured; training and its own checks use other seeds
THRESHOLD = 0.5  # the same for scores, masks and presence
TEXT_KINDS = ("colour and shape", "shape", "colour", "anything")
BOX_KINDS = ("boxes", "text without a box")


@dataclass(frozen=True)
class Report:
    """What was measured."""

    prompts: int  # texts alone
    presence_right: int  # number of texts for which presence was right
    kinds: dict[str, agreement.Agreement]  # kind of prompt -> instances

    @property
    def total(self) -> agreement.Agreement:
        """The instances of all texts alone; boxes are judged by themselves."""
        return sum((self.kinds[kind] for kind in TEXT_KINDS), agreement.Agreement())

    def figures(self) -> dict[str, float]:
        """Return the figures of the README of the checkpoint, each from 0 to 1. They are of the texts alone."""
        total = self.total
        return {
            "f1": total.f1,
            "precision": total.precision,
            "recall": total.recall,
            "mean_iou": total.mean_iou,
            "presence_accuracy": self.presence_right / max(1, self.prompts),
        }


Answers = tuple[list[scenes.Mask], list[bool]]
"""Of each question: masks (instances, height, width), and whether there are any."""


def evaluate(model: Sam3Model, processor: Sam3Processor, count: int, seed: int) -> Report:
    """Judge the library's own model by `count` scenes of the series `seed`."""
    return judge(partial(segment, model, processor), count, seed)


def judge(ask: Callable[[scenes.Pixels, list[Question]], Answers], count: int, seed: int) -> Report:
    """Ask one question of each kind about each of `count` scenes of the series `seed`."""
    right = 0
    kinds = dict.fromkeys((*TEXT_KINDS, *BOX_KINDS), agreement.Agreement())
    for number in range(count):
        scene = scenes.scene(seed, number)
        questions = _questions(scene, np.random.default_rng([seed, number, 1]))
        found, presence = ask(scene.image, questions)
        for kind, question, masks, present in zip(kinds, questions, found, presence, strict=True):
            drawn = np.array(question.truth, dtype=bool).reshape(-1, *scene.image.shape[:2])
            kinds[kind] += agreement.agree(agreement.mask_ious(masks, drawn))
            right += kind in TEXT_KINDS and present == (len(drawn) > 0)
    return Report(count * len(TEXT_KINDS), right, kinds)


def _questions(scene: scenes.Scene, rng: np.random.Generator) -> list[Question]:
    texts = [Question(text, scene.truth(text)) for text in scenes.prompts(scene, rng)]
    return [*texts, exemplars.by_box(scene, rng), exemplars.without_box(scene, rng)]


def segment(model: Sam3Model, processor: Sam3Processor, image: scenes.Pixels, questions: list[Question]) -> Answers:
    """Return, for each question, the masks found (instances, height, width) and whether it is judged present."""
    answers = [_answer(model, processor, image, question) for question in questions]
    return [masks for masks, _ in answers], [present for _, present in answers]


@torch.inference_mode()
def _answer(
    model: Sam3Model, processor: Sam3Processor, image: scenes.Pixels, question: Question
) -> tuple[scenes.Mask, bool]:
    height, width = image.shape[:2]
    shown: dict[str, list[list[Any]]] = {}
    if question.boxes:
        shown["input_boxes"] = [[list(box.corners(width, height)) for box in question.boxes]]
        shown["input_boxes_labels"] = [[int(box.positive) for box in question.boxes]]
    inputs = processor(images=image, text=question.text, **shown, return_tensors="pt")
    outputs = model(**inputs)
    [result] = processor.post_process_instance_segmentation(  # type: ignore[no-untyped-call]
        outputs, threshold=THRESHOLD, mask_threshold=THRESHOLD, target_sizes=[(height, width)]
    )
    # If no instance is kept the library does not resize the masks, so their shape is given here.
    masks = result["masks"].bool().numpy().reshape(len(result["masks"]), height, width)
    return masks, bool(outputs.presence_logits.sigmoid() > THRESHOLD)


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
