"""Grounding DINO with SAM2 as a `Segmenter`: the one finds boxes for a prompt, the other makes a mask of each box.

For those whose request for SAM3's weights was refused: both are open (Apache-2.0). Equal to the library's loop, one
image and one prompt at a time, in the instances, their scores, boxes and masks. Knows no files.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from workers.inference.answers import Found
from workers.inference.models.grounding_dino import Detector
from workers.inference.models.sam2 import Box, BoxMasks
from workers.inference.models.torch_checkpoint import weights_sha256
from workers.inference.models.torch_copies import Copies, to_host
from workers.inference.models.torch_kept import Kept, RawKept, best, is_capped
from workers.inference.models.torch_memory import within_memory
from workers.inference.models.torch_precision import chosen, use_products
from workers.inference.protocol import ModelFacts, Options, Pixels
from workers.inference.reading.images import RGB
from workers.inference.segmenters import Precision

MOST = 200  # boxes that are kept for a prompt in an image, the highest scores: as many as SAM3 has queries


@dataclass(frozen=True, eq=False)
class _Views:
    """An image as each of the two takes it."""

    detector: RGB
    masks: RGB


class GroundedSam2Segmenter:
    """A Grounding DINO and a SAM2 checkpoint, loaded on one device. Implements `protocol.Segmenter`."""

    def __init__(
        self,
        detector: Path,
        masks: Path,
        *,
        model_name: str,
        revision: str | None = None,
        device: str = "cpu",
        dtype: Precision = "auto",
    ) -> None:
        """Load both checkpoints. Raises `ModelUnusable`."""
        self._device = torch.device(device)
        self._dtype = chosen(dtype, self._device)
        self._detector = Detector(detector, self._device, self._dtype)
        self._masks = BoxMasks(masks, self._device, self._dtype)
        self._copies = Copies(self._device)
        self.facts = ModelFacts(model_name, revision, weights_sha256(detector, masks), self._dtype, device)

    def check_prompts(self, prompts: Sequence[str]) -> dict[str, str]:
        """The prompts that the model cannot take, each with the reason."""
        return {prompt: wrong for prompt in prompts if (wrong := self._detector.wrong(prompt))}

    def preprocess(self, image: RGB) -> Pixels:
        """Resize for each of the two."""
        height, width = image.shape[:2]
        return Pixels(_Views(self._detector.preprocess(image), self._masks.preprocess(image)), height, width)

    def predict(self, batch: Sequence[Pixels], prompts: Sequence[tuple[str, ...]], options: Options) -> RawKept:
        """Find boxes, wait for them, and make masks of those that are kept. Raises `OutOfMemory`. There are no compiled
        kernels of this family: images of each shape would need their own."""
        return within_memory(partial(self._predict, batch, prompts, options), len(batch))

    @torch.inference_mode()
    def _predict(self, batch: Sequence[Pixels], prompts: Sequence[tuple[str, ...]], options: Options) -> RawKept:
        use_products(self._dtype, self._device)
        rows, on_device = self._detector.find([pixels.data.detector for pixels in batch], prompts)
        queries = self._detector.queries
        raw = RawKept([(pixels.height, pixels.width) for pixels in batch], {}, None)
        boxes: list[Box] = []
        for row, numbers in zip(rows, to_host(on_device), strict=True):
            scores, places = numbers[:queries], numbers[queries:].reshape(queries, 4)
            kept = best(scores, options.floor)[:MOST]
            # Grounding DINO has no presence of its own. That of its best box is the nearest to it.
            presence = float(scores.max())
            raw.kept[row] = Kept(presence, scores[kept], places[kept], [], is_capped(len(kept), min(queries, MOST)))
            boxes += [(row[0], place) for place in places[kept]]
        masks = iter(self._masks.masks([pixels.data.masks for pixels in batch], raw.sizes, boxes))
        for kept_of_row in raw.kept.values():
            kept_of_row.masks.extend(next(masks) for _ in kept_of_row.scores)
        raw.done = self._copies.mark()
        return raw

    def postprocess(self, raw: RawKept, rows: range, options: Options) -> list[tuple[Found, ...]]:
        """What SAM2's `post_process_masks` gives, as RLE: it enlarges logits, which is `meta` of our two rules for
        masks and the only one here. Raises `OutOfMemory`."""
        return within_memory(partial(self._postprocess, raw, rows, replace(options, mask_rule="meta")), len(rows))

    @torch.inference_mode()
    def _postprocess(self, raw: RawKept, images: range, options: Options) -> list[tuple[Found, ...]]:
        with self._copies.beside_the_next_batch(raw.done):
            raw.fetch(images, options)
        return raw.found(images, options)
