"""What a card can do at most, measured: products of matrices, and copies. Knows no model."""

import torch

from benchmarks.gpu.card import Card
from benchmarks.timing import Row
from workers.inference.models.torch_precision import use_products
from workers.inference.segmenters import Precision

SIDE, BYTES = 8192, 1 << 30  # of a matrix and of a copy on a GPU, which fill the largest
REPEATS = 8
BF16 = "bf16, TFLOP/s"
PRODUCTS: dict[str, tuple[torch.dtype, Precision]] = {
    BF16: (torch.bfloat16, "mixed"),
    "TF32, TFLOP/s": (torch.float32, "mixed"),
    "fp32, TFLOP/s": (torch.float32, "fp32"),
}


def measure(card: Card) -> Row:
    """Rates of products and copies. On a CPU they are of small ones: that this works."""
    card.forget()
    side, count = (SIDE, BYTES) if card.is_gpu else (256, 1 << 20)
    row: Row = {}
    for name, (dtype, products) in PRODUCTS.items():
        use_products(products, torch.device(card.device))
        matrix = torch.randn(side, side, dtype=dtype, device=card.device)
        row[name] = 2 * side**3 / _seconds(card, matrix) / 1e12
        del matrix
    there = torch.empty(count, dtype=torch.uint8, device=card.device)
    row["copies, GB/s read and written"] = 2 * count / _copy_seconds(card, there, torch.empty_like(there)) / 1e9
    here = torch.empty(count // 4, dtype=torch.uint8, pin_memory=card.is_gpu)
    row["from the host, GB/s"] = len(here) / _copy_seconds(card, here, there[: len(here)]) / 1e9
    return row


def floor(rates: Row, gflop: float) -> float:
    """Seconds for so many operations, all in bf16, at the rate that was measured."""
    return gflop / 1e3 / float(rates[BF16])


def _seconds(card: Card, matrix: torch.Tensor) -> float:
    card.milliseconds(lambda: matrix @ matrix, 2)
    return card.milliseconds(lambda: matrix @ matrix, REPEATS) / 1e3


def _copy_seconds(card: Card, source: torch.Tensor, target: torch.Tensor) -> float:
    card.milliseconds(lambda: target.copy_(source, non_blocking=True), 2)
    return card.milliseconds(lambda: target.copy_(source, non_blocking=True), REPEATS) / 1e3
