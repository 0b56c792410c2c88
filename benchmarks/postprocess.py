"""From the heads' output to COCO RLE: ours against the library's post-processing with pycocotools, on a CPU.

Run as `python -m benchmarks.postprocess`. The masks are drawn (blobs with a rough outline), not found by a model; both
ways get the same ones, and every pixel of the results is compared.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import click
import numpy as np
import torch

from benchmarks.timing import Row, interleaved, table
from workers.inference.answers import Found
from workers.inference.models import sam3_heads, sam3_model, torch_kept
from workers.inference.models.sam3_model import Sam3Segmenter
from workers.inference.protocol import Options
from workers.inference.shapes import masks
from workers.tiny.architecture import new_processor

T = TypeVar("T")

OPTIONS = Options()
QUERIES, SIDE = 200, 288  # of facebook/sam3
CASES = (  # name, height, width, instances, the least and the largest share of the frame
    ("10 objects, 1080p", 1080, 1920, 10, 0.05, 0.15),
    ("1 portrait, 1024 x 1024", 1024, 1024, 1, 0.8, 0.8),
    ("1 portrait, 1080p", 1080, 1920, 1, 0.8, 0.8),
    ("10 objects, 12 MP", 3000, 4000, 10, 0.05, 0.15),
)
CHECKPOINT = Path(__file__).parent.parent / "workers" / "tiny" / "checkpoint"


def measure(repeats: int = 7, seed: int = 0) -> list[Row]:
    """One row a case: milliseconds of both ways, how much faster ours is, and how many pixels differ."""
    torch.set_num_threads(1)
    segmenter, images = Sam3Segmenter(CHECKPOINT, model_name="tiny"), new_processor().image_processor
    rows = []
    for name, height, width, count, least, largest in CASES:
        logits = drawn(count, least, largest, seed)
        raw, output = raw_of(logits, height, width), library_output(logits)

        def ours(raw: Any = raw) -> Found:
            return segmenter.postprocess(raw, range(1), OPTIONS)[0][0]

        def librarys(output: Any = output, size: tuple[int, int] = (height, width)) -> tuple[Any, list[bytes]]:
            (result,) = images.post_process_instance_segmentation(output, OPTIONS.threshold, target_sizes=[size])
            return result["masks"], [masks.encode(mask.numpy().astype(np.uint8)) for mask in result["masks"]]

        times = interleaved({"ours": ours, "library": librarys}, repeats)
        whole, rles = librarys()
        found = [one.rle for one in ours().instances]
        pairs = zip(found, whole.numpy().astype(bool), strict=True)
        rows.append(
            {
                "case": name,
                "share of the frame": float(whole.double().mean()),
                "library + pycocotools, ms": times["library"].text,
                "ours, ms": times["ours"].text,
                "times faster": times["library"].median / times["ours"].median,
                "pixels that differ": sum(int((masks.decode(rle, height, width) != mask).sum()) for rle, mask in pairs),
                "same RLE bytes": found == rles,
            }
        )
    return rows


def measure_memory(seed: int = 0) -> list[Row]:
    """How much a fresh process grows for a hundred masks at 12 MP, the heads' output included. One row."""
    command = [sys.executable, "-m", "benchmarks.postprocess", "--grow", "--seed", str(seed)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    grown: Row = json.loads(done.stdout)
    return [grown]


def grow(seed: int) -> Row:
    """Measured in this process, which must have done nothing like it before."""
    torch.set_num_threads(1)
    segmenter = Sam3Segmenter(CHECKPOINT, model_name="tiny")
    segmenter.postprocess(raw_of(drawn(1, 0.1, 0.1, seed), 100, 100), range(1), OPTIONS)  # what is loaded once

    def work() -> list[tuple[Found, ...]]:
        return segmenter.postprocess(raw_of(drawn(100, 0.05, 0.3, seed), 3000, 4000), range(1), OPTIONS)

    ((found,),), peak = peak_mb(work)
    return {
        "masks": len(found.instances),
        "image": "3000 x 4000",
        "ours, peak MB over base": peak,
        # Enlarged in fp32, the comparison, and int64, all at once.
        "library, MB by arithmetic": 100 * 3000 * 4000 * (4 + 1 + 8) / 1e6,
    }


def peak_mb(work: Callable[[], T]) -> tuple[T, float]:
    """What `work` gives, and by how much this process grew meanwhile at most. Linux only."""
    before = _memory_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    given = work()
    return given, _memory_mb("VmHWM") - before


def _memory_mb(what: str) -> float:
    """What Linux says of this process: resident now (VmRSS) or at its peak (VmHWM)."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{what}:")[2].split()[0]) * 1024 / 1e6


def drawn(count: int, least: float, largest: float, seed: int) -> torch.Tensor:
    """Logits (count, 288, 288) of blobs that take these shares of the frame, with an uneven outline."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    logits = torch.empty(count, SIDE, SIDE)
    for number, share in enumerate(torch.linspace(least, largest, count).tolist()):
        cy, cx = (SIDE * (0.5 + (torch.rand(2, generator=generator) - 0.5) * (0.6 if share < 0.5 else 0))).tolist()
        rough = torch.randn(1, 1, 48, 48, generator=generator)
        rough = torch.nn.functional.interpolate(rough, size=SIDE, mode="bicubic")[0, 0] * 3
        depth = -torch.hypot(y - cy, x - cx) + rough
        inside = depth.flatten().sort(descending=True).values[int(share * SIDE * SIDE)]
        logits[number] = (depth - inside) * 0.7
    return logits


def mask_work(instances: int, size: tuple[int, int]) -> Callable[[], object]:
    """What the mask thread does for an image of this height and width, once its masks are on the host: so many
    objects that take 2 to 15 % of the frame."""
    small = drawn(instances, 0.02, 0.15, 0).sigmoid().numpy()
    scores, boxes = np.full(instances, 0.9, np.float32), np.full((instances, 4), 0.5, np.float32)
    kept = torch_kept.Kept(0.9, scores, boxes, [], False)
    return lambda: torch_kept.found_in(kept, small, size, OPTIONS)


def raw_of(logits: torch.Tensor, height: int, width: int) -> Any:
    """What `predict` would leave if the heads had found these masks."""
    output = library_output(logits)
    presence = output.presence_logits.sigmoid()
    scores = output.pred_logits.sigmoid() * presence
    numbers = torch.cat((presence, scores, output.pred_boxes.flatten(1)), dim=1)
    heads = sam3_heads.Heads([(0, 0)], numbers, output.pred_masks)
    return sam3_model._Raw([(height, width)], {}, None, last=heads)


def library_output(logits: torch.Tensor) -> Any:
    """The model's output for one image: the first queries found these masks, the others nothing."""
    pred_masks = torch.full((1, QUERIES, SIDE, SIDE), -9.0)
    pred_masks[0, : len(logits)] = logits
    pred_logits = torch.full((1, QUERIES), -9.0)
    pred_logits[0, : len(logits)] = 4.0
    boxes = torch.tensor([0.25, 0.25, 0.75, 0.75]).expand(1, QUERIES, 4)
    return SimpleNamespace(
        pred_masks=pred_masks, pred_logits=pred_logits, pred_boxes=boxes, presence_logits=torch.tensor([[5.0]])
    )


@click.command()
@click.option("--repeats", default=7, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--grow", "only_grow", is_flag=True, hidden=True, help="Measure the memory of this process.")
def main(repeats: int, seed: int, only_grow: bool) -> None:
    """Print the tables."""
    if only_grow:
        print(json.dumps(grow(seed)))
        return
    print(table(measure(repeats, seed)), table(measure_memory(seed)), sep="\n\n")


if __name__ == "__main__":
    main()
