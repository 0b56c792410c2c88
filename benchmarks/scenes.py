"""How well our segmenter finds what was drawn, by precision, with the bundled model: `python -m benchmarks.scenes`.

The scenes and figures are those of `python -m workers.tiny.evaluate`, which asks the library. Measures no time.
"""

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import torch

from benchmarks.timing import Row, table
from workers.inference.answers import Found
from workers.inference.boxes import Box
from workers.inference.models.sam3_model import Sam3Segmenter
from workers.inference.protocol import Options
from workers.inference.segmenters import Precision
from workers.inference.shapes import masks
from workers.tiny import evaluate, scenes
from workers.tiny.architecture import load_checkpoint
from workers.tiny.exemplars import Question
from workers.tiny.files import CHECKPOINT

PRECISIONS: tuple[Precision, ...] = ("fp32", "mixed", "bf16")
BESIDE_FIRST = "mean IoU with the first of ours"
OPTIONS = Options(threshold=evaluate.THRESHOLD, score_floor=evaluate.THRESHOLD, mask_threshold=evaluate.THRESHOLD)


def measure(count: int, precisions: Sequence[Precision], folder: Path = CHECKPOINT) -> list[Row]:
    """A row for the library in fp32, and one for ours in each precision; masks of ours are also compared with those in
    the first precision."""
    rows = [_row("library, fp32", evaluate.evaluate(*load_checkpoint(folder), count, evaluate.HELD_OUT))]
    rows[0][BESIDE_FIRST] = ""
    first: _Ours | None = None
    for precision in precisions:
        ours = _Ours(Sam3Segmenter(folder, model_name=folder.name, dtype=precision))
        rows.append(_row(f"ours, {precision}", evaluate.judge(ours, count, evaluate.HELD_OUT)))
        first = first or ours
        rows[-1][BESIDE_FIRST] = f"{ours.beside(first):.4f}"
    return rows


class _Ours:
    """Answers as `evaluate.judge` asks, and remembers the answers."""

    def __init__(self, segmenter: Sam3Segmenter) -> None:
        self._segmenter = segmenter
        self._seen: list[tuple[Found, tuple[int, int]]] = []  # with the height and width of the image

    def beside(self, other: "_Ours") -> float:
        """The mean IoU of the other's masks with the nearest of these, for the same images and questions."""
        best = []
        for (mine, size), (theirs, _) in zip(self._seen, other._seen, strict=True):
            for one in theirs.instances:
                best.append(max((masks.iou(one.rle, each.rle, *size) for each in mine.instances), default=0.0))
        return statistics.mean(best) if best else 1.0

    def __call__(self, image: scenes.Pixels, questions: list[Question]) -> evaluate.Answers:
        height, width = image.shape[:2]
        pixels = self._segmenter.preprocess(image)
        shown = [
            tuple(Box(*box.corners(width, height), box.positive) for box in question.boxes) for question in questions
        ]
        batch = [replace(pixels, boxes=boxes) for boxes in shown]
        raw = self._segmenter.predict(batch, [(question.text,) for question in questions], OPTIONS)
        found = [each for [each] in self._segmenter.postprocess(raw, range(len(batch)), OPTIONS)]
        self._seen += [(each, (height, width)) for each in found]
        drawn = [
            np.array([masks.decode(one.rle, height, width) for one in each.instances], bool).reshape(-1, height, width)
            for each in found
        ]
        return drawn, [each.presence > evaluate.THRESHOLD for each in found]


def _row(name: str, report: evaluate.Report) -> Row:
    figures = report.figures() | {f"F1 of {kind}": report.kinds[kind].f1 for kind in evaluate.BOX_KINDS}
    return {"": name} | {name.replace("_", " "): f"{value:.4f}" for name, value in figures.items()}


@click.command()
@click.option("--scenes", "count", default=500, show_default=True)
@click.option("--dtype", "precisions", type=click.Choice(PRECISIONS), multiple=True, default=("fp32", "mixed"))
def main(count: int, precisions: tuple[Precision, ...]) -> None:
    """Print the figures."""
    torch.set_num_threads(1)  # in a model of this size more threads only wait for each other
    print(table(measure(count, precisions)))


if __name__ == "__main__":
    main()
