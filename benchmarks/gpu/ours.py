"""Our model as it is measured, with each kind of kernels; and its pipeline over files: what a worker does without
Celery, broker and SQL."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu.card import Card
from workers.inference.items import Item, Segmented
from workers.inference.models.sam3_model import Sam3Segmenter
from workers.inference.models.sam3_parts import Compiled
from workers.inference.protocol import Options
from workers.inference.reading.images import ReadRules, read_image
from workers.inference.segmenters import Precision
from workers.inference.stream.pipeline import Pace, segment
from workers.inference.stream.stage_threads import StageThreads

OPTIONS = Options(threshold=0.5, score_floor=0.5)
PROMPT = "person"
DIFFERENT = 4  # images of a batch that is made for a forward pass alone

Kernels = str  # one of `BACKENDS`
PLAIN, COMPILED, GRAPHS = "", "compiled", "CUDA graphs"
# Runs of one batch until it is run as later ones are. torch's graphs are tried, then recorded, then run.
RUNS = {PLAIN: 1, COMPILED: 1, GRAPHS: 3}


def with_graphs(graph: Any, inputs: Any) -> Any:
    """torch's compiler, whose kernels are then launched all at once, or an error.

    Each call of a compiled part takes back the memory of what an earlier one answered. So torch is told to copy what is
    still in use, such as the vision features, of which the heads are given.
    """
    from torch._inductor import config  # both take seconds, which whoever compiles nothing need not wait
    from torch._inductor.compile_fx import compile_fx

    wanted = {"cudagraphs": True, "cudagraph_or_error": True, "cudagraph_trees_generation_cloning": "user_visible"}
    known = {f"triton.{name}": value for name, value in wanted.items() if hasattr(config.triton, name)}
    return compile_fx(graph, inputs, config_patches=known)


BACKENDS: dict[Kernels, str | Callable[..., Any]] = {COMPILED: "inductor", GRAPHS: with_graphs}


@dataclass(frozen=True)
class Subject:
    """What is measured: a model in a folder, on a card, in a precision, with photographs."""

    card: Card
    folder: Path
    precision: Precision
    paths: Sequence[str]

    def name(self, kernels: Kernels) -> str:
        """Ours with such kernels, as tables call it."""
        return ", ".join(filter(None, ("ours", self.precision, kernels)))

    def load_ours(self, kernels: Kernels) -> Sam3Segmenter:
        """The model, which compiles itself for the size of its first batch if its kernels are not `PLAIN`."""
        segmenter = Sam3Segmenter(
            self.folder, model_name=self.folder.name, device=self.card.device, dtype=self.precision
        )
        compile_anew(segmenter, kernels)
        return segmenter


def compile_anew(segmenter: Sam3Segmenter, kernels: Kernels) -> None:
    """Forget compiled kernels; new ones are for the size of the next batch."""
    if kernels != PLAIN:
        name = f"{kernels.replace(' ', '-')}-{segmenter.facts.dtype}-{segmenter.facts.device}"
        segmenter._compiled = Compiled(segmenter._plain, name, BACKENDS[kernels])


def outcomes(
    segmenter: Sam3Segmenter,
    paths: Sequence[str],
    batch_size: int,
    options: Options = OPTIONS,
    threads: StageThreads | None = None,
) -> list[Segmented]:
    """What is found in each file. With `threads` in those, which a model that was warmed up there is fast in."""
    items = [Item(number, path, (PROMPT,)) for number, path in enumerate(paths)]
    pace = Pace(batch_size=batch_size, stage_threads=threads)
    batches = segment(items, segmenter, ReadRules(), options, pace)
    found = [outcome for batch in batches for outcome in batch]
    if halved := [cap.stage for cap in (pace.caps.forward, pace.caps.masks) if cap.most is not None]:
        raise MemoryError(f"a batch of {batch_size} does not fit into memory ({', '.join(halved)})")
    assert all(isinstance(outcome, Segmented) for outcome in found), found
    return found  # type: ignore[return-value]  # as just checked


def in_one_batch(segmenter: Sam3Segmenter, paths: Sequence[str], options: Options, kernels: Kernels) -> list[Segmented]:
    """What these kernels find in each file, all in one batch, once they run as for later batches. A graph overwrites
    its answers when it runs again, so no batch follows before they are read."""
    threads = StageThreads()  # torch's graphs belong to a thread
    options = replace(options, compiled=kernels != PLAIN)
    for _ in range(RUNS[kernels]):
        found = outcomes(segmenter, paths, len(paths), options, threads)
    assert segmenter.facts.compiles, "the model cannot be compiled"
    return found


def forward(segmenter: Sam3Segmenter, paths: Sequence[str], kernels: Kernels, size: int) -> Callable[[], object]:
    """Calls one forward pass of a batch of so many images: the first ones in turn, which are read before."""
    seen = [segmenter.preprocess(read_image(path, ReadRules()).pixels) for path in paths[: min(size, DIFFERENT)]]
    batch = [seen[number % len(seen)] for number in range(size)]
    options = replace(OPTIONS, compiled=kernels != PLAIN)
    return partial(segmenter.predict, batch, [(PROMPT,)] * size, options)
