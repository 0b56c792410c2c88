"""One `sam3-run` over real files, from its start to its end: broker, SQL, Celery node, results. Knows no model."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import photographs
from benchmarks.gpu.ours import PROMPT, Subject
from benchmarks.timing import Row

CHECKOUT = Path(__file__).parents[2]


def measure(subject: Subject, folder: Path, count: int, batch_size: int) -> Row:
    """Segment `count` JPEGs of 1920 x 1080. `folder` is new, and keeps what the run says of itself."""
    card = subject.card
    photographs.write(photographs.FULL_HD, folder / "images", count)
    gpu = card.device.partition(":")[2] or "0"
    flags = ["--model", str(subject.folder.absolute()), "--gpus", gpu if card.is_gpu else "cpu"]
    flags += ["--batch-size", str(batch_size), "--dtype", subject.precision]
    said: list[str] = []
    watched = card.watched(lambda: said.append(_run(folder, flags)))
    told = json.loads(said[0])
    ended = told["images"]["segmented"] + told["images"]["empty"]
    if ended != count:
        raise RuntimeError(f"{ended} of {count} images were segmented: see {folder / 'out'}")
    return {
        "": subject.precision,
        "images": count,
        "batch size": batch_size,
        "GPU memory, GB": watched.memory_gb,
        "GPU utilisation, %": watched.utilisation,
        "seconds from start to end": watched.seconds,
        "images/s": count / watched.seconds,
        "images/s of the run itself": count / told["seconds"],
        "hours for 10,000": 10_000 * told["seconds"] / count / 3600,
    }


def _run(folder: Path, flags: Sequence[str]) -> str:
    """Segment `images` in the folder into `out` beside it; return what sam3-run printed."""
    command = ["-c", "import sam3_start; sam3_start.run()", "images", "--prompt", PROMPT, "-o", "out", "--json", *flags]
    path = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH", "")]))  # it may not be installed
    ended = subprocess.run(
        [sys.executable, "-P", *command],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return ended.stdout
