"""Says that a device ran out of memory in the one way that the pipeline understands. Knows no model."""

from collections.abc import Callable
from typing import TypeVar

import torch

from workers.inference.no_memory import is_short
from workers.inference.protocol import OutOfMemory

T = TypeVar("T")


def within_memory(work: Callable[[], T], images: int) -> T:
    """The value of `work` on so many images. Raises `OutOfMemory` once nothing of what did not fit is held any more.

    A family does its `predict` and its `postprocess` in here; the pipeline then tries half of the batch.
    """
    try:
        return work()
    except RuntimeError as error:
        if not is_short(error, images):
            raise
    # Not inside the block above: the error's traceback holds the frames, and those the tensors.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    raise OutOfMemory
