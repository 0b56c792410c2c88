"""Images as a model takes them: resized on the host, normalised on the device. Knows no model and no files."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from workers.inference.models.torch_copies import to_device
from workers.inference.reading.images import RGB


class Pictures:
    """Does what an image processor of transformers does, with fewer copies and to the same numbers."""

    def __init__(self, processor: Any, device: torch.device) -> None:
        self._processor, self._device = processor, device
        # The library computes (value / 255 - mean) / std; this is the same in one step.
        self._mean, self._std = (
            (torch.tensor(values) * (1 / processor.rescale_factor)).view(3, 1, 1).to(device)
            for values in (processor.image_mean, processor.image_std)
        )

    def resized(self, image: RGB) -> RGB:
        """The image in the model's size: bilinear, antialiased, in uint8. May be called by several threads at once.

        The three colours of a pixel stay side by side in memory. Moving them to a plane for each colour here would take
        longer than the resize; the device does it in no time.
        """
        planes = torch.from_numpy(image).permute(2, 0, 1)
        small = self._processor.resize(planes, self._processor.size, self._processor.resample)
        pixels: RGB = small.permute(1, 2, 0).numpy()
        return pixels

    def on_device(self, images: Sequence[RGB], rows: int | None = None) -> torch.Tensor:
        """Resized images of one shape, normalised, on the device: (rows, 3, height, width) in fp32; rows beyond the
        images are of black ones. They are copied as uint8, a quarter of the bytes, and to a GPU from pinned memory, so
        that nobody waits for the copy."""
        shape = (rows or len(images), *images[0].shape)
        stacked = torch.empty(shape, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        np.stack(images, out=stacked[: len(images)].numpy())
        stacked[len(images) :].zero_()
        planes = to_device(stacked, self._device).permute(0, 3, 1, 2)
        return planes.to(torch.float32).sub_(self._mean).div_(self._std)
