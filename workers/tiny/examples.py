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

from workers.tiny import scenes

PROMPTS_PER_SCENE = 2  # of the four kinds; the picture is encoded once for both
# How often each kind is asked. The model learns shapes much more slowly than colours.
CHOICE = {"colour and shape": 0.3, "shape": 0.4, "colour": 0.15, "anything": 0.15}
QUEUED = 8  # batches drawn ahead


@dataclass(frozen=True)
class Sizes:
    """The sizes of a batch."""

    scenes: int
    image: int  # side of the model's input in pixels
    mask: int  # side of its masks in pixels


@dataclass(frozen=True)
class Batch:
    """Pictures and what the prompts name in them; pair i belongs to picture i // PROMPTS_PER_SCENE.

    images: (scenes, image, image, 3) uint8. shapes: (scenes, mask, mask), 0 for the background, else 1 + the index of
    the shape. For each pair, masks: (objects, mask, mask) uint8, 255 where a cell is wholly covered; boxes: (objects,
    4) as centre x, centre y, width, height in [0, 1].
    """

    images: NDArray[np.uint8]
    shapes: NDArray[np.int64]
    prompts: list[str]
    masks: list[NDArray[np.uint8]]
    boxes: list[NDArray[np.float32]]


def batch(seed: int, number: int, sizes: Sizes) -> Batch:
    """Draw batch `number` of the endless series `seed`."""
    rng = np.random.default_rng([seed, number])
    images, shapes, texts, masks, boxes = [], [], [], [], []
    for _ in range(sizes.scenes):
        scene = scenes.draw_scene(rng)
        picture = Image.fromarray(scene.image)
        images.append(np.asarray(picture.resize((sizes.image, sizes.image), Image.Resampling.BILINEAR)))
        shapes.append(_shape_map(scene, sizes.mask))
        asked = rng.choice(scenes.prompts(scene, rng), PROMPTS_PER_SCENE, replace=False, p=list(CHOICE.values()))
        for text in asked:
            named = [mask for mask in scene.truth(str(text)) if mask.any()]
            texts.append(str(text))
            small = [_shrink(mask, sizes.mask) for mask in named]
            masks.append(np.array(small, dtype=np.uint8).reshape(-1, sizes.mask, sizes.mask))
            boxes.append(np.array([_box(mask) for mask in named], dtype=np.float32).reshape(-1, 4))
    return Batch(np.stack(images), np.stack(shapes), texts, masks, boxes)


def _shape_map(scene: scenes.Scene, side: int) -> NDArray[np.int64]:
    shapes = np.zeros((side, side), dtype=np.int64)
    for drawn in scene.objects:
        shapes[_shrink(drawn.mask, side) > 127] = 1 + scenes.SHAPES.index(drawn.shape)
    return shapes


def _shrink(mask: scenes.Mask, side: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(mask).convert("L").resize((side, side), Image.Resampling.BOX))


def _box(mask: scenes.Mask) -> tuple[float, float, float, float]:
    """Return the tight box around a mask as centre and size, in parts of the picture."""
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, bottom = rows[0] / height, (rows[-1] + 1) / height
    left, right = columns[0] / width, (columns[-1] + 1) / width
    return (left + right) / 2, (top + bottom) / 2, right - left, bottom - top


def _draw(queue: "Queue[Batch]", seed: int, first: int, sizes: Sizes) -> None:
    """Draw batches until the parent process ends, also if it is killed."""
    parent = multiprocessing.parent_process()
    for number in count(first):
        drawn = batch(seed, number, sizes)
        while parent is None or parent.is_alive():
            try:
                queue.put(drawn, timeout=5)
                break
            except Full:
                continue
        else:
            return


@contextmanager
def stream(seed: int, first: int, sizes: Sizes) -> Iterator[Iterator[Batch]]:
    """Give the batches `first`, `first` + 1, ... of a series, drawn ahead by a process that ends with the block."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue(QUEUED)
    process = context.Process(target=_draw, args=(queue, seed, first, sizes), daemon=True)
    process.start()
    try:
        yield iter(lambda: queue.get(timeout=300), None)
    finally:
        process.kill()
        process.join()
        queue.cancel_join_thread()
        queue.close()
