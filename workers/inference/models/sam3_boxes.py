"""Boxes as SAM3 takes them: fractions of the image, and labels; images with fewer boxes are padded. Runs no model."""

from collections.abc import Sequence

import torch

from workers.inference.protocol import Pixels

PADDING = -10  # the label of a place without a box; the library masks such places


def boxes_of(batch: Sequence[Pixels]) -> tuple[torch.Tensor, torch.Tensor]:
    """Centre x, centre y, width and height (rows, boxes, 4) in fractions of each image, and labels (rows, boxes): 1 for
    positive boxes, 0 for negative ones. In fp32 on the CPU, as the library's processor computes them."""
    most = max(len(pixels.boxes) for pixels in batch)
    corners, labels = torch.zeros(len(batch), most, 4), torch.full((len(batch), most), PADDING)
    for row, pixels in enumerate(batch):
        count = len(pixels.boxes)
        edges = torch.tensor([box[:4] for box in pixels.boxes], dtype=torch.float32)
        corners[row, :count] = edges / torch.tensor([pixels.width, pixels.height] * 2)
        labels[row, :count] = torch.tensor([int(box.positive) for box in pixels.boxes])
    x1, y1, x2, y2 = corners.unbind(-1)
    return torch.stack(((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1), dim=-1), labels
