"""Our pipeline over files, in this process: what a worker does without Celery, broker and SQL."""

from collections.abc import Callable, Sequence
from functools import partial

from workers.inference.images import ReadRules, read_image
from workers.inference.items import Item, Segmented
from workers.inference.pipeline import Pace, segment
from workers.inference.protocol import Options
from workers.inference.sam3_model import Sam3Segmenter
from workers.inference.stage_threads import StageThreads

OPTIONS = Options(threshold=0.5, score_floor=0.5)
PROMPT = "person"
DIFFERENT = 4  # images of a batch that is made for a forward pass alone


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
    assert all(isinstance(outcome, Segmented) for outcome in found), found
    return found  # type: ignore[return-value]  # as just checked


def forward(
    segmenter: Sam3Segmenter, paths: Sequence[str], size: int, options: Options = OPTIONS
) -> Callable[[], object]:
    """Calls one forward pass of a batch of so many images: the first ones in turn, which are read before."""
    seen = [segmenter.preprocess(read_image(path, ReadRules()).pixels) for path in paths[: min(size, DIFFERENT)]]
    batch = [seen[number % len(seen)] for number in range(size)]
    return partial(segmenter.predict, batch, [(PROMPT,)] * size, options)
