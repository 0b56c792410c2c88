"""One chunk as a stream of outcomes: decode -> forward -> masks, overlapped. Knows no Celery, no SQL, no torch.

    items -> [decode threads] -> forward thread -> mask thread -> the caller
             read ahead two      one batch          one batch
             batches             waiting            waiting

A stage that is so far ahead waits for the next one, so memory stays bounded, however slow the caller is. Several
threads decode and resize at the same time. One thread makes masks: it makes more of them in a second than a GPU finds
(`python -m benchmarks.threads`). There are no processes, since a worker is a daemonic process, which may have no
children.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby, islice
from typing import TypeVar

from workers.cores import usable_cores
from workers.errors import ErrorClass
from workers.inference.answers import Found, fault, with_pixels
from workers.inference.caps import Cap, Caps
from workers.inference.channel import Channel, stage
from workers.inference.images import ReadImage, ReadRules, UnreadableImage, read_image
from workers.inference.items import Item, Outcome, Segmented, Unreadable
from workers.inference.location import FileSeen
from workers.inference.narrow import Raised, narrowed
from workers.inference.protocol import Options, OutOfMemory, Pixels, Raw, Segmenter
from workers.inference.readahead import ReadAhead
from workers.inference.repeats import Recall, Repeats, content_of
from workers.inference.stage_threads import StageThreads, serving
from workers.inference.stages import Report, Stage, timed, unheard

log = logging.getLogger(__name__)

T = TypeVar("T")

READ_AHEAD = 2  # batches that are decoded or being decoded while another one is in the forward pass


class NothingGotThrough(Exception):
    """The model raised an error for every image of a batch that could be read, even for each image alone.

    So either the images or the model are bad. `outcomes` are those of the batch if the images are. The cause of this
    exception is the error for the first image.
    """

    def __init__(self, outcomes: "list[Outcome]") -> None:
        super().__init__("every image of a batch makes the model raise")
        self.outcomes = outcomes


@dataclass(frozen=True, eq=False)
class _Ready:
    """An image before its forward pass: its pixels for the model, and what was read."""

    pixels: Pixels
    file: FileSeen
    warning: str | None
    content: bytes | None = None  # if repeats are looked for


@dataclass(frozen=True)
class _Repeat:
    """An image that gets the answers of an earlier image of the stream, which has the same content."""

    content: bytes
    file: FileSeen


@dataclass(frozen=True)
class _Decoded:
    """A batch after decoding: for each item, in order, its pixels, or why it has none, or why it needs none."""

    items: Sequence[Item]
    results: Sequence[_Ready | _Repeat | Outcome]


@dataclass(frozen=True)
class _Predicted:
    """A batch after its forward passes. `raws` has one value for each readable image, in order: the result of the
    forward pass that the image was in, or the error."""

    batch: _Decoded
    raws: Sequence[Raw | OutOfMemory | Raised]


def decode_threads(cores: int) -> int:
    """How many threads decode, unless a setting says how many."""
    return min(8, max(2, cores))


@dataclass(frozen=True)
class Pace:
    """How a stream runs. Its outcomes do not depend on it."""

    batch_size: int = 8  # images of one forward pass
    threads: int = field(default_factory=lambda: decode_threads(usable_cores()))
    stopped: Callable[[], bool] = lambda: False  # once it returns true, no further batch is begun
    report: Report = unheard  # called whenever a stage has finished an image or a batch
    decode_seconds: float = 60.0  # an image that takes longer is unreadable
    # Whether one image may be the reason for an error of the model. Then its batch is halved until that image is alone.
    narrows: Callable[[Exception], bool] = lambda error: False
    caps: Caps = field(default_factory=Caps)  # used by the next streams, too: what does not fit now will not fit later
    stage_threads: StageThreads | None = None  # threads that the next streams use, too; None: the stream makes its own


def segment(
    items: Sequence[Item],
    segmenter: Segmenter,
    rules: ReadRules,
    options: Options,
    pace: Pace = Pace(),
    recall: Recall | None = None,
) -> Iterator[list[Outcome]]:
    """Yield a list of outcomes for each batch, in the order of `items`. Each item has exactly one outcome.

    Unreadable images of a batch do not go to the model. If the model raises an error for a batch, and `pace.narrows`
    that error, the batch is halved again and again; if no image gets through alone, raises `NothingGotThrough`. Any
    other error in a stage is raised here, with its traceback; if there are several, the first one. When the generator
    is closed, all stages finish what they work on and start nothing new; only threads that hang on a file are left
    behind. If `pace.stopped` becomes true, the batches in work are finished, and the generator ends early.

    With `recall` and `rules.digests` images of equal content are computed once; `recall`, which the forward thread
    calls for each batch, tells what was computed before.
    """
    repeats: Repeats[Outcome] = Repeats(recall)
    predicted: Channel[_Predicted] = Channel(capacity=1)
    outcomes: Channel[list[Outcome]] = Channel(capacity=1)
    read = partial(_read, segmenter=segmenter, rules=rules, report=pace.report)
    decoding = ReadAhead(read, pace.threads, pace.decode_seconds)
    forward = partial(_predict, segmenter=segmenter, options=options, pace=pace)
    masks = partial(_postprocess, segmenter=segmenter, options=options, pace=pace, repeats=repeats)
    with serving(pace.stage_threads) as threads:
        stages = [
            stage(threads.forward, _batches(items, decoding, pace, repeats), forward, predicted),
            stage(threads.masks, predicted, masks, outcomes),
        ]
        try:
            yield from outcomes
        finally:
            for channel in (predicted, outcomes):
                channel.close()
            decoding.close()  # before waiting for the stages, since the forward thread may wait for an image
            wait(stages)


def _batches(
    items: Sequence[Item], decoding: ReadAhead[Item, _Ready | Unreadable], pace: Pace, repeats: Repeats[Outcome]
) -> Iterator[_Decoded]:
    """Yield the batches, until `pace.stopped`. Images of the next batches are decoded meanwhile."""
    todo, waiting = iter(items), iter(items)

    def submit(count: int) -> None:
        for item in islice(todo, count):
            decoding.submit(item)

    submit(READ_AHEAD * pace.batch_size)
    while decoding and not pace.stopped():
        submit(pace.batch_size)
        batch = list(islice(waiting, pace.batch_size))
        results = [_decoded(item, decoding, pace) for item in batch]
        yield _Decoded(batch, _without_repeats(batch, results, repeats))


def _without_repeats(
    items: Sequence[Item], results: Sequence[_Ready | Unreadable], repeats: Repeats[Outcome]
) -> Sequence[_Ready | _Repeat | Outcome]:
    """The results of a batch, in which images that need not be computed have no pixels any more."""
    read = {item.id: result for item, result in zip(items, results, strict=True) if isinstance(result, _Ready)}
    contents = {id: ready.content for id, ready in read.items() if ready.content is not None}
    if not contents:
        return results
    spared = repeats.spared(contents, {item.id for item in items if item.again})

    def without(id: int) -> _Repeat | Segmented:
        content, file, known = contents[id], read[id].file, spared[id]
        if known is None:
            return _Repeat(content, file)
        return Segmented(id, known.width, known.height, known.found, file, known.warning, content)

    return [without(item.id) if item.id in spared else result for item, result in zip(items, results, strict=True)]


def _decoded(item: Item, decoding: ReadAhead[Item, _Ready | Unreadable], pace: Pace) -> _Ready | Unreadable:
    try:
        return decoding.take()
    except TimeoutError:
        pace.report(Stage.READ, 1, 0.0)  # no seconds, as the thread that hangs has not ended
        return Unreadable(item.id, ErrorClass.TIMEOUT, f"reading it took longer than {pace.decode_seconds:g} s")


def _read(item: Item, segmenter: Segmenter, rules: ReadRules, report: Report) -> _Ready | Unreadable:
    image: ReadImage | None = None
    try:
        image = read_image(item.path, rules, report)
        with timed(report, Stage.PREPROCESS):
            content = None if image.digest is None else content_of(image.digest, item.prompts)
            return _Ready(segmenter.preprocess(image.pixels), image.file, image.warning, content)
    except UnreadableImage as error:
        return Unreadable(item.id, error.error_class, error.message, error.file)
    except MemoryError:
        error_class, message = ErrorClass.OUT_OF_MEMORY, "does not fit into memory"
    except Exception as error:  # of this image only: the others of the batch go on
        error_class, message = ErrorClass.INTERNAL, f"{type(error).__name__}: {error}"
    return Unreadable(item.id, error_class, message, image.file if image else None)


def _predict(batch: _Decoded, segmenter: Segmenter, options: Options, pace: Pace) -> _Predicted:
    images = [
        (ready.pixels, item.prompts)
        for item, ready in zip(batch.items, batch.results, strict=True)
        if isinstance(ready, _Ready)
    ]

    def work(rows: range) -> list[Raw]:
        pixels, prompts = zip(*images[rows.start : rows.stop], strict=True)
        return [segmenter.predict(pixels, prompts, options)] * len(rows)

    with timed(pace.report, Stage.FORWARD, len(images)):
        raws = narrowed(range(len(images)), partial(_fitting, cap=pace.caps.forward, work=work), pace.narrows)
    return _Predicted(batch, raws)


def _postprocess(
    predicted: _Predicted, segmenter: Segmenter, options: Options, pace: Pace, repeats: Repeats[Outcome]
) -> list[Outcome]:
    with timed(pace.report, Stage.MASKS, len(predicted.raws)):
        found = _masks(predicted.raws, segmenter, options, pace)
    answers = iter(found)
    outcomes: list[Outcome] = []
    repeats.begin_answers()
    for item, result in zip(predicted.batch.items, predicted.batch.results, strict=True):
        if isinstance(result, _Repeat):
            outcomes.append(replace(repeats.earlier(result.content), id=item.id, file=result.file))
        elif isinstance(result, _Ready):
            outcomes.append(_segmented(item, result, next(answers)))
            if result.content is not None:
                repeats.answer(result.content, outcomes[-1])
        else:
            outcomes.append(result)
    raised = [one.error for one in found if isinstance(one, Raised)]
    if raised and len(raised) == len(found):
        raise NothingGotThrough(outcomes) from raised[0]
    if raised:
        log.error("%d of %d images make the model raise", len(raised), len(found), exc_info=raised[0])
    return outcomes


def _masks(
    predicted: Sequence[Raw | OutOfMemory | Raised], segmenter: Segmenter, options: Options, pace: Pace
) -> list[tuple[Found, ...] | OutOfMemory | Raised]:
    """What was found in each image, or the error of the images that did not get through."""
    found: list[tuple[Found, ...] | OutOfMemory | Raised] = []
    for _, group in groupby(predicted, key=id):
        raws = list(group)
        if isinstance(raws[0], OutOfMemory | Raised):
            found += raws
        else:
            masks = partial(segmenter.postprocess, raws[0], options=options)
            found += narrowed(range(len(raws)), partial(_fitting, cap=pace.caps.masks, work=masks), pace.narrows)
    return found


def _fitting(rows: range, cap: Cap, work: Callable[[range], Sequence[T]]) -> list[T | OutOfMemory]:
    """The results of `work` on `rows`, in parts that are small enough for the memory."""
    done: list[T | OutOfMemory] = []
    while len(done) < len(rows):
        part = rows[len(done) : len(done) + (cap.most or len(rows))]
        try:
            done += work(part)
        except (OutOfMemory, MemoryError):
            fits = False
        else:
            fits = True
        # After the block above: only now the error is freed, whose traceback holds what did not fit into memory.
        if fits:
            cap.held(len(part))
        elif len(part) > 1:
            cap.fell(len(part))
        else:
            done.append(OutOfMemory())
    return done


def _segmented(item: Item, ready: _Ready, found: tuple[Found, ...] | OutOfMemory | Raised) -> Outcome:
    """The outcome of an image. Only here a model's answer is checked; the database and exports rely on that."""
    if isinstance(found, Raised):
        return Unreadable(
            item.id, ErrorClass.INTERNAL, f"the model raises for it, even alone: {found.text}", ready.file
        )
    if isinstance(found, OutOfMemory):
        said = "does not fit into the model's memory, even alone"
        return Unreadable(item.id, ErrorClass.OUT_OF_MEMORY, said, ready.file)
    width, height = ready.pixels.width, ready.pixels.height
    if wrong := fault(found, item.prompts, width, height):
        return Unreadable(item.id, ErrorClass.INTERNAL, wrong, ready.file)
    masks = tuple(map(with_pixels, found))
    return Segmented(item.id, width, height, masks, ready.file, ready.warning, ready.content)


def refused_prompts(segmenter: Segmenter, prompts: Sequence[str]) -> dict[str, str]:
    """The prompts that the model cannot take, each with the reason, also those for which it raises an error."""

    def reasons(rows: range) -> list[str | None]:
        bad = segmenter.check_prompts(prompts[rows.start : rows.stop])
        return [bad.get(prompt) for prompt in prompts[rows.start : rows.stop]]

    answers = narrowed(range(len(prompts)), reasons, lambda error: not isinstance(error, MemoryError | OSError))
    told = [answer.text if isinstance(answer, Raised) else answer for answer in answers]
    return {prompt: reason for prompt, reason in zip(prompts, told, strict=True) if reason is not None}
