"""The output of SAM3's heads, and the instances that are kept of it. Runs no model."""

from dataclasses import dataclass

import torch

from workers.inference.models import torch_copies
from workers.inference.models.torch_kept import Kept, Row, best, is_capped


@dataclass(frozen=True, eq=False)
class Heads:
    """The output of one run of the heads, on the device, for r rows with q queries each."""

    rows: list[Row]
    numbers: torch.Tensor  # (r, 1 + 5 q) presence, scores, boxes as x1, y1, x2, y2 in fractions of the image; fp32
    masks: torch.Tensor  # (r, q, h, w) logits at the model's mask size


def keep(heads: Heads, floor: float, *, copy: bool = False) -> dict[Row, Kept]:
    """The instances of each row with a score above `floor`. With `copy` their masks are copied, so that the memory of
    all other masks can be freed."""
    numbers = torch_copies.to_host(heads.numbers)
    queries = heads.masks.shape[1]
    kept = {}
    for row, masks_of_row, line in zip(heads.rows, heads.masks, numbers, strict=True):
        presence, scores, boxes = line[0], line[1 : 1 + queries], line[1 + queries :].reshape(queries, 4)
        chosen = best(scores, floor)
        small = [masks_of_row[query] for query in chosen]
        if copy and small:
            small = list(torch.stack(small))
        capped = is_capped(len(chosen), queries)
        kept[row] = Kept(float(presence), scores[chosen], boxes[chosen], small, capped)
    return kept
