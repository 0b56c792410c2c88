"""SAM2: a mask for each of some boxes. Knows no prompts and no files."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import Sam2Model, Sam2Processor

from workers.inference.models.torch_checkpoint import load
from workers.inference.models.torch_copies import to_device
from workers.inference.models.torch_kept import Floats
from workers.inference.models.torch_pixels import Pictures
from workers.inference.models.torch_precision import settle
from workers.inference.reading.images import RGB
from workers.inference.segmenters import Precision

TOGETHER = 16  # boxes in one run of the mask decoder, which takes about 40 MB for each

Box = tuple[int, Floats]
"""The number of an image, and x1, y1, x2, y2 in fractions of it."""


class BoxMasks:
    """A SAM2 checkpoint on one device."""

    def __init__(self, folder: Path, device: torch.device, dtype: Precision) -> None:
        """Raises `ModelUnusable`. `mixed` is bf16 for the image encoder alone."""
        self._device, self._given = device, torch.bfloat16 if dtype == "bf16" else torch.float32
        self._model, processor = load(folder, Sam2Model, Sam2Processor, name="SAM2", words=False)
        self._pictures, self._side = Pictures(processor.image_processor, device), processor.target_size
        settle(self._model, dtype, device)

    def preprocess(self, image: RGB) -> RGB:
        """Resize to a square, without keeping the proportions."""
        return self._pictures.resized(image)

    def masks(
        self, images: Sequence[RGB], sizes: Sequence[tuple[int, int]], boxes: Sequence[Box]
    ) -> list[torch.Tensor]:
        """The logits of a mask for each box, of the model's mask size, on the device.

        `sizes` are the images' own heights and widths. Only images with a box are seen. As in the library's loop with
        `multimask_output=False`; but boxes of several images are decoded together, and many boxes in several runs, so
        that their number does not decide how much memory is needed.
        """
        wanted = sorted({image for image, _ in boxes})
        if not wanted:
            return []
        pixels = self._pictures.on_device([images[image] for image in wanted]).to(self._given)
        features = self._model.get_image_embeddings(pixels)
        del pixels
        found: list[torch.Tensor] = []
        for start in range(0, len(boxes), TOGETHER):
            part = boxes[start : start + TOGETHER]
            rows = to_device(torch.tensor([wanted.index(image) for image, _ in part]), self._device)
            places = torch.stack([self._placed(box, sizes[image]) for image, box in part])
            output = self._model(
                image_embeddings=[level.index_select(0, rows) for level in features],
                input_boxes=to_device(places[:, None], self._device),
                multimask_output=False,
            )
            found += output.pred_masks[:, 0, 0].float()
        return found

    def _placed(self, box: Floats, size: tuple[int, int]) -> torch.Tensor:
        """The box in pixels of the square. By way of the image's own pixels, as in the library, for equal roundings."""
        height, width = size
        own = torch.from_numpy(box) * torch.tensor([width, height, width, height], dtype=torch.float32)
        across, down = self._side / width, self._side / height
        return torch.stack([own[0] * across, own[1] * down, own[2] * across, own[3] * down])
