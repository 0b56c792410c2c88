"""Everything that is in an image, as a `Segmenter`: a mask for each of a grid of points, without a prompt.

The tracker of a SAM3 makes a mask of what lies under a point, and so does a SAM2. Equal to the library's mask
generation (`pipeline("mask-generation")` of transformers, without crops) in masks and scores, with one exception: its
points lie on the whole image, those of the library on a part of it, if the image is no square (docs/decisions.md).
Knows no files.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.ops import batched_nms
from transformers import Sam2Model, Sam2Processor, Sam3TrackerModel, Sam3TrackerProcessor

from workers.inference.answers import Found, Instance
from workers.inference.everything import EVERYTHING, POINTS_PER_SIDE
from workers.inference.models.torch_checkpoint import load, weight_names, weights_sha256
from workers.inference.models.torch_copies import Copies, to_device, to_host
from workers.inference.models.torch_kept import Floats, cut_of
from workers.inference.models.torch_memory import within_memory
from workers.inference.models.torch_pixels import Pictures
from workers.inference.models.torch_precision import chosen, settle, use_products
from workers.inference.protocol import ModelFacts, Options, OutOfMemory, Pixels
from workers.inference.reading.images import RGB
from workers.inference.segmenters import ModelUnusable, Precision, model_type
from workers.inference.shapes import masks, outlines

log = logging.getLogger(__name__)

_TRACKER, _SAM2 = (Sam3TrackerModel, Sam3TrackerProcessor), (Sam2Model, Sam2Processor)
# By the `model_type` of a checkpoint. Of a `sam3_video`, `Sam3TrackerModel` takes the tracker and the vision backbone,
# which the detector has, too.
KINDS: dict[str, Any] = {"sam3_tracker": _TRACKER, "sam3_video": _TRACKER, "sam2": _SAM2, "sam2_video": _SAM2}

TOGETHER = 64  # points in one run of the mask decoder, as in the library; it takes about 100 MB for each
FEWEST = 4  # the same, where memory is short
ON_HOST = 64  # masks, of 330 kB each, that are copied from the device and outlined together

# The library's and Meta's values: `stability_score_thresh`, `stability_score_offset` and `crops_nms_thresh` in
# https://github.com/huggingface/transformers/blob/main/src/transformers/pipelines/mask_generation.py.
STABLE = 0.95  # a mask is kept if this part of its pixels stays when the cut rises by twice OFFSET
OFFSET = 1.0  # logits: the cut rises from so much below to so much above the mask threshold
OVERLAP = 0.7  # IoU of boxes from which the mask of the lower score is left out as a duplicate

MOST = 1000  # instances that are kept of an image, the highest scores


@dataclass(eq=False)
class _Candidates:
    """The masks of an image that score above the floor, in the order of the points."""

    best: float = 0.0  # the highest score of the image, also of masks that are no candidates
    scores: list[float] = field(default_factory=list)
    masks: list[torch.Tensor] = field(default_factory=list)  # each (n, h, w), logits, on the device

    def parts(self) -> list[torch.Tensor]:
        """All masks, in the order of the scores, at most `ON_HOST` at a time."""
        return [part for several in self.masks for part in torch.split(several, ON_HOST)]


@dataclass(eq=False)
class _Raw:
    """What a forward pass left."""

    sizes: list[tuple[int, int]]  # (height, width) of each image, in pixels
    of_images: list[_Candidates]
    done: torch.cuda.Event | None = None  # until then the device computes; on a GPU only


class EverythingSegmenter:
    """A SAM3 with a tracker, or a SAM2, loaded on one device. Implements `protocol.Segmenter`."""

    def __init__(
        self,
        folder: Path,
        *,
        model_name: str,
        revision: str | None = None,
        device: str = "cpu",
        dtype: Precision = "auto",
    ) -> None:
        """Load the checkpoint. `mixed` is bf16 for the image encoder alone. Raises `ModelUnusable`."""
        self._device = torch.device(device)
        self._dtype = chosen(dtype, self._device)
        self._given = torch.bfloat16 if self._dtype == "bf16" else torch.float32
        _require_tracker(folder)
        kind, processor_kind = KINDS[model_type(folder)]
        self._model, processor = load(folder, kind, processor_kind, name="tracker", words=False)
        self._pictures, self._side = Pictures(processor.image_processor, self._device), processor.target_size
        settle(self._model, self._dtype, self._device)
        self._together = TOGETHER
        self._copies = Copies(self._device)
        self.facts = ModelFacts(model_name, revision, weights_sha256(folder), self._dtype, device)

    def check_prompts(self, prompts: Sequence[str]) -> dict[str, str]:
        """Refuses every prompt except the one that stands for no prompt."""
        return {prompt: "is asked of a run of everything" for prompt in prompts if prompt != EVERYTHING}

    def preprocess(self, image: RGB) -> Pixels:
        """Resize to the model's square, without keeping the proportions."""
        height, width = image.shape[:2]
        return Pixels(self._pictures.resized(image), height, width)

    def predict(self, batch: Sequence[Pixels], prompts: Sequence[tuple[str, ...]], options: Options) -> _Raw:
        """See all images at once, then make masks of all their points, many at a time. Each image has one prompt, which
        is not read.

        If memory is too short for one image, the decoder is given fewer points at once from now on. Raises
        `OutOfMemory`.
        """
        try:
            return within_memory(partial(self._predict, batch, options), len(batch))
        except OutOfMemory:
            if len(batch) > 1 or self._together <= FEWEST:
                raise
        self._together //= 2
        log.warning("out of memory with one image; now at most %d points at once", self._together)
        return self.predict(batch, prompts, options)

    @torch.inference_mode()
    def _predict(self, batch: Sequence[Pixels], options: Options) -> _Raw:
        use_products(self._dtype, self._device)
        features = self._model.get_image_embeddings(
            self._pictures.on_device([pixels.data for pixels in batch]).to(self._given)
        )
        raw = _Raw([(pixels.height, pixels.width) for pixels in batch], [_Candidates() for _ in batch])
        points = grid(options.points_per_side or POINTS_PER_SIDE) * self._side
        rows = [(image, point) for image in range(len(batch)) for point in range(len(points))]
        for start in range(0, len(rows), self._together):
            images, places = zip(*rows[start : start + self._together], strict=True)
            scores, made = self._masks(features, torch.tensor(images), points[list(places)])
            _keep(raw.of_images, images, to_host(scores), made, options.floor)
        raw.done = self._copies.mark()
        return raw

    def _masks(
        self, features: list[torch.Tensor], images: torch.Tensor, points: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """For each of these n points (n, 2), in pixels of the square of its image: the model's scores (n, 3), and its
        three masks (n, 3, h, w) in logits, on the device."""
        rows = to_device(images, self._device)
        output = self._model(
            image_embeddings=[level.index_select(0, rows) for level in features],
            input_points=to_device(points[:, None, None], self._device),
            input_labels=torch.ones((len(points), 1, 1), dtype=torch.long, device=self._device),
        )
        return output.iou_scores[:, 0].float(), output.pred_masks[:, 0]

    def postprocess(self, raw: _Raw, rows: range, options: Options) -> list[tuple[Found, ...]]:
        """Leave out masks that are unstable, or duplicates of better ones. They are enlarged as logits, which is `meta`
        of our two rules for masks and the only one here. Raises `OutOfMemory`."""
        cut = cut_of(replace(options, mask_rule="meta"))
        return within_memory(partial(self._postprocess, raw, rows, cut), len(rows))

    @torch.inference_mode()
    def _postprocess(self, raw: _Raw, images: range, cut: float) -> list[tuple[Found, ...]]:
        with self._copies.beside_the_next_batch(raw.done):
            found: list[tuple[Found, ...]] = [
                (_found(raw.of_images[image], raw.sizes[image], cut),) for image in images
            ]
        for image in images:
            raw.of_images[image].masks.clear()
        return found


def _require_tracker(folder: Path) -> None:
    """Raise `ModelUnusable` for a checkpoint that has a detector alone, such as the bundled one."""
    names = weight_names(folder)
    if model_type(folder) == "sam3_video" and names and not any(name.startswith("tracker_model.") for name in names):
        raise ModelUnusable(
            f"model {folder}: has no tracker, which --everything needs; take facebook/sam3, or a SAM2 such as "
            "facebook/sam2.1-hiera-small, which is open to all"
        )


def grid(side: int) -> torch.Tensor:
    """`side` x `side` points (side², 2), x and y in fractions of an image, spread over it evenly; row by row."""
    along = (torch.arange(side) + 0.5) / side
    return torch.cartesian_prod(along, along).flip(-1)


def _keep(
    candidates: Sequence[_Candidates], images: Sequence[int], scores: Floats, made: torch.Tensor, floor: float
) -> None:
    """Note, for each image, those of the masks (n, 3, h, w) that score (n, 3) above the floor, and copy them, so that
    the others are not held."""
    for image in dict.fromkeys(images):
        rows = np.flatnonzero(np.array(images) == image)
        of_image = scores[rows].ravel()
        chosen_masks = np.flatnonzero(of_image > floor)
        candidates[image].best = max(candidates[image].best, float(of_image.max()))
        candidates[image].scores += of_image[chosen_masks].tolist()
        if len(chosen_masks):
            places = torch.from_numpy(chosen_masks + rows[0] * scores.shape[1])
            candidates[image].masks.append(made.flatten(0, 1).index_select(0, to_device(places, made.device)))


def _found(candidates: _Candidates, size: tuple[int, int], cut: float) -> Found:
    """The instances of an image of `size` (height, width) in pixels."""
    scores = iter(candidates.scores)
    stable: list[Instance] = []
    for part in candidates.parts():
        of_part = [next(scores) for _ in range(len(part))]
        stable += _stable(to_host(part.float()), of_part, size, cut)
    if not stable:
        return Found(candidates.best, ())
    # The library's boxes end in the last pixel, ours behind it.
    boxes = torch.tensor([one.box for one in stable]) - torch.tensor([0, 0, 1, 1])
    known = torch.tensor([one.score for one in stable])
    kept = batched_nms(boxes, known, torch.zeros(len(stable)), OVERLAP).tolist()  # highest score first
    return Found(candidates.best, tuple(stable[number] for number in kept[:MOST]), len(kept) > MOST)


def _stable(small: Floats, scores: Sequence[float], size: tuple[int, int], cut: float) -> list[Instance]:
    """Of these masks (n, h, w), as they are enlarged to the image's size: those that hardly depend on the cut."""
    inner = outlines.encode(small, *size, cut + OFFSET)
    outer = outlines.encode(small, *size, cut - OFFSET)
    keep = [
        number for number, ((_, less), (_, more)) in enumerate(zip(inner, outer, strict=True)) if less > STABLE * more
    ]
    outlined = outlines.encode(small[keep], *size, cut)
    return [
        Instance(scores[number], masks.box(rle, *size), area, rle)
        for number, (rle, area) in zip(keep, outlined, strict=True)
    ]
