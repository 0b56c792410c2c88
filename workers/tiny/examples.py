"""Turns scenes into training batches, in a process of its own. Knows numpy and Pillow, but no model.

Batch `n` of a seed is always the same, so a training that resumes at step n gets the same batches as one that was not
interrupted.
"""

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from queue import Full, Queue

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from workers.tiny import exemplars, scenes
from workers.tiny.exemplars import Question

TEXTS_PER_SCENE = 2  # of the four kinds
QUESTIONS_PER_SCENE = TEXTS_PER_SCENE + 1  # one with boxes; the picture is encoded once for all
# How often each kind is asked. The model learns shapes much more slowly than colours.
CHOICE = {"colour and shape": 0.3, "shape": 0.4, "colour": 0.15, "anything": 0.15}
NEGATIVE = 0.3  # share of the questions with boxes that take a shape away
SHORT_SIDE = (112, 400)  # pixels; larger scenes take long to draw and look the same to the model
QUEUED = 8  # batches drawn ahead


@dataclass(frozen=True)
class Sizes:
    """The sizes of a batch."""

    scenes: int
    image: int  # side of the model's input in pixels
    mask: int  # side of the true masks in pixels


@dataclass(frozen=True)
class Batch:
    """Pictures, questions about them, and the answers; pair i belongs to picture i // QUESTIONS_PER_SCENE.

    images: (scenes, image, image, 3) uint8. shapes: (scenes, mask, mask), 0 for the background, else 1 + the index of
    the shape. For each pair, masks: (objects, mask, mask) uint8, 255 where a cell is wholly covered; boxes: (objects,
    4) as centre x, centre y, width, height in [0, 1].
    """

    images: NDArray[np.uint8]
    shapes: NDArray[np.int64]
    questions: list[Question]
    masks: list[NDArray[np.uint8]]
    boxes: list[NDArray[np.float32]]


def batch(seed: int, number: int, sizes: Sizes, share: int = 0) -> Batch:
    """Draw batch `number` of the endless series `seed`; processes that train together take a share each."""
    rng = np.random.default_rng([seed, number, share])
    images, shapes = [], []
    questions: list[Question] = []
    for _ in range(sizes.scenes):
        scene = scenes.draw_scene(rng, SHORT_SIDE)
        picture = Image.fromarray(scene.image)
        images.append(np.asarray(picture.resize((sizes.image, sizes.image), Image.Resampling.BILINEAR)))
        shapes.append(_shape_map(scene, sizes.mask))
        questions += _ask(scene, rng)
    masks, boxes = zip(*(_answer(question, sizes.mask) for question in questions), strict=True)
    return Batch(np.stack(images), np.stack(shapes), questions, list(masks), list(boxes))


def _ask(scene: scenes.Scene, rng: np.random.Generator) -> list[Question]:
    texts = rng.choice(scenes.prompts(scene, rng), TEXTS_PER_SCENE, replace=False, p=list(CHOICE.values()))
    named = [Question(str(text), [mask for mask in scene.truth(str(text)) if mask.any()]) for text in texts]
    boxed = exemplars.without_box if rng.random() < NEGATIVE else exemplars.by_box
    return [*named, boxed(scene, rng)]


def _answer(question: Question, side: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return the masks and the boxes of the answer."""
    masks = np.array([_shrink(mask, side) for mask in question.truth], dtype=np.uint8)
    boxes = np.array([exemplars.tight(mask)[:4] for mask in question.truth], dtype=np.float32)
    return masks.reshape(-1, side, side), boxes.reshape(-1, 4)


def _shape_map(scene: scenes.Scene, side: int) -> NDArray[np.int64]:
    shapes = np.zeros((side, side), dtype=np.int64)
    for drawn in scene.objects:
        shapes[_shrink(drawn.mask, side) > 127] = 1 + scenes.SHAPES.index(drawn.shape)
    return shapes


def _shrink(mask: scenes.Mask, side: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(mask).convert("L").resize((side, side), Image.Resampling.BOX))


def _draw(queue: "Queue[Batch]", seed: int, first: int, sizes: Sizes, share: int) -> None:
    """Draw batches until the parent process ends, also if it is killed."""
    parent = multiprocessing.parent_process()
    for number in count(first):
        drawn = batch(seed, number, sizes, share)
        while parent is None or parent.is_alive():
            try:
                queue.put(drawn, timeout=5)
                break
            except Full:
                continue
        else:
            return


@contextmanager
def stream(seed: int, first: int, sizes: Sizes, share: int = 0) -> Iterator[Iterator[Batch]]:
    """Give the batches `first`, `first` + 1, ... of a series, drawn ahead by a process that ends with the block."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue(QUEUED)
    process = context.Process(target=_draw, args=(queue, seed, first, sizes, share), daemon=True)
    process.start()
    try:
        yield iter(lambda: queue.get(timeout=300), None)
    finally:
        process.kill()
        process.join()
        queue.cancel_join_thread()
        queue.close()
