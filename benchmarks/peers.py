"""The same images through the same simulated device, driven in the ways people drive one. Measures, judges nothing.

All but the plain script read, resize and make masks with our own functions, so that only the way they are put
together differs; the plain script does these with Pillow and the library's processor. Post-processing that would run
on a GPU runs on the CPU here, for everybody alike.
"""

import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco
from torch.utils.data import DataLoader, Dataset
from transformers.models.sam3.image_processing_sam3 import Sam3ImageProcessor

from benchmarks.accelerator import SimulatedSegmenter, model_output
from benchmarks.device import Device, idle, wait
from workers.inference.items import Item
from workers.inference.protocol import Options, Pixels
from workers.inference.reading.images import ReadRules, read_image
from workers.inference.stream.pipeline import Pace, segment

BATCH = 8
PROMPTS = ("person",)
OPTIONS, RULES = Options(), ReadRules()
WORKERS = 2  # of the DataLoader, and CPUs that Ray is given


@dataclass(frozen=True)
class Timing:
    """One way, once. `seconds`: from the first file's opening (Ray: from its first batch's submit) to the last mask;
    `startup`: what Ray took before that. `cpu_seconds`: of this process and its children; not known of Ray's."""

    seconds: float
    idle: float  # share of the time between first submit and last result
    cpu_seconds: float | None = None
    startup: float = 0.0


@dataclass(frozen=True)
class Speed:
    """Of the simulated device, in milliseconds: of a batch, and of each image in it."""

    fixed_ms: float
    image_ms: float

    def device(self) -> Device:
        return Device(self.fixed_ms, self.image_ms)


System = Callable[[Sequence[str], Speed], Timing]


def timed(work: Callable[[Sequence[str], Device], int]) -> System:
    """A way to segment paths, which returns how many masks it made, as one that is timed and checked."""

    def run(paths: Sequence[str], speed: Speed) -> Timing:
        device = speed.device()
        cpu, began = _cpu_seconds(), time.monotonic()
        masks = work(paths, device)
        seconds = time.monotonic() - began
        check(masks, len(paths))
        return Timing(seconds, idle(device.busy), _cpu_seconds() - cpu)

    return run


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def check(masks: int, images: int) -> None:
    expected = images * model_output(1).pred_masks.shape[1]
    if masks != expected:
        raise AssertionError(f"{masks} masks instead of {expected}")


def _batches(paths: Sequence[str]) -> Iterator[Sequence[str]]:
    return (paths[start : start + BATCH] for start in range(0, len(paths), BATCH))


def read_batch(paths: Sequence[str]) -> dict[str, Any]:
    """Files as columns of pixels and sizes."""
    torch.set_num_threads(1)
    pixels = [own_segmenter().preprocess(read_image(path, RULES).pixels) for path in paths]
    return {
        "data": np.stack([one.data for one in pixels]),
        "height": [one.height for one in pixels],
        "width": [one.width for one in pixels],
    }


def masks_of_sizes(sizes: Sequence[tuple[int, int]]) -> int:
    """Masks of a batch whose pixels have been left behind."""
    torch.set_num_threads(1)
    return _make_masks([Pixels(np.zeros(1, np.uint8), height, width) for height, width in sizes])


def _make_masks(batch: Sequence[Pixels]) -> int:
    """Post-processing and RLE of a batch that has been on the device."""
    segmenter = own_segmenter()
    found = segmenter.postprocess(segmenter.predict(batch, [PROMPTS] * len(batch), OPTIONS), range(len(batch)), OPTIONS)
    return sum(len(one.instances) for of_image in found for one in of_image)


@timed
def limit(paths: Sequence[str], device: Device) -> int:
    """The device alone, all inputs ready, nothing done with its results."""
    for batch in _batches(paths):
        last = device.submit(len(batch))
    wait(last)
    return len(paths) * int(model_output(1).pred_masks.shape[1])


@timed
def plain_script(paths: Sequence[str], device: Device) -> int:
    """One step after the other: Pillow, the library's processor, the device, its post-processing, pycocotools."""
    processor = Sam3ImageProcessor()
    made = 0
    for batch in _batches(paths):
        images = [Image.open(path).convert("RGB") for path in batch]
        processor(images=images, return_tensors="pt")
        device.run(len(batch))
        sizes = [(image.height, image.width) for image in images]
        results = processor.post_process_instance_segmentation(
            model_output(len(batch)), threshold=0.5, mask_threshold=0.5, target_sizes=sizes
        )
        for result in results:
            rles = [coco.encode(np.asfortranarray(mask.numpy().astype(np.uint8))) for mask in result["masks"]]
            made += len(rles)
    return made


class _Files(Dataset[tuple[Any, int, int]]):
    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, number: int) -> tuple[Any, int, int]:
        pixels = own_segmenter().preprocess(read_image(self._paths[number], RULES).pixels)
        return torch.as_tensor(pixels.data), pixels.height, pixels.width


@lru_cache
def own_segmenter() -> SimulatedSegmenter:
    """That of this process, with a device that takes no time: the simulated one has been waited for elsewhere."""
    return SimulatedSegmenter(Device(0, 0))


@timed
def data_loader(paths: Sequence[str], device: Device) -> int:
    """PyTorch's DataLoader reads ahead in two processes; the rest happens one after the other."""
    made = 0
    # Forked, as by default; but that is not the default in a process that was itself spawned.
    loader = DataLoader(_Files(paths), BATCH, num_workers=WORKERS, multiprocessing_context="fork")
    for data, heights, widths in loader:
        device.run(len(data))
        made += masks_of_sizes(list(zip(heights.tolist(), widths.tolist(), strict=True)))
    return made


def segment_ours(paths: Sequence[str], device: Device) -> int:
    """`workers.inference.stream.pipeline`, in this process."""
    items = [Item(number, path, PROMPTS) for number, path in enumerate(paths)]
    segmenter = SimulatedSegmenter(device)
    outcomes = [one for batch in segment(items, segmenter, RULES, OPTIONS, Pace(BATCH)) for one in batch]
    return sum(len(found.instances) for outcome in outcomes for found in outcome.found)  # type: ignore[misc, union-attr]


ours = timed(segment_ours)
