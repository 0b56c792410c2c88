"""One chunk as a stream of outcomes: decode -> forward -> masks, overlapped. Knows no Celery, no SQL, no torch.

    items -> [decode threads] -> forward thread -> mask thread -> the caller
             read ahead two      one batch          one batch
             batches             waiting            waiting

A large image may be cut (`Item.tiling`): then a batch holds pieces of images, and an image's outcome comes with its
last piece. A stage that is so far ahead waits for the next one, so memory stays bounded, however slow the caller is.
Several threads decode and resize at the same time. One thread makes masks: it makes more of them in a second than a GPU
finds (`python -m benchmarks.threads`). There are no processes, since a worker is a daemonic process, which may have no
children.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import wait
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby, islice
from typing import TypeVar

from workers.errors import ErrorClass
from workers.inference.answers import Found, fault, with_pixels
from workers.inference.items import Item, Outcome, Unreadable
from workers.inference.protocol import Options, OutOfMemory, Pixels, Raw, Segmenter
from workers.inference.reading.images import ReadRules
from workers.inference.stages import Report, Stage, timed, unheard
from workers.inference.stream.caps import Cap, Caps
from workers.inference.stream.channel import Channel, stage
from workers.inference.stream.gathering import Gathering
from workers.inference.stream.narrow import Raised, narrowed
from workers.inference.stream.pieces import Piece, Pieces, Preparation
from workers.inference.stream.repeats import Recall, Repeats
from workers.inference.stream.stage_threads import StageThreads, serving
from workers.machine.cores import usable_cores

log = logging.getLogger(__name__)

T = TypeVar("T")

IN_HAND = 8  # batches; more than a stream has begun and not yet committed, which are six
READ_AHEAD = 2  # batches that are decoded or being decoded while another one is in the forward pass


class NothingGotThrough(Exception):
    """The model raised an error, or found no memory, for every image of a batch that could be read, even for each image
    alone.

    So either the images are bad, or the model, or another process has taken its memory. `outcomes` are those of the
    batch if the images are. The cause of this exception is the error for the first image.
    """

    def __init__(self, outcomes: "list[Outcome]") -> None:
        super().__init__("no image of a batch gets through the model")
        self.outcomes = outcomes


@dataclass(frozen=True)
class _Predicted:
    """A batch after its forward passes. `raws` has one value for each piece with pixels, in order: the result of the
    forward pass that the piece was in, or the error."""

    batch: Sequence[Piece]
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
    that error, the batch is halved again and again, as it is where memory is short; if no image gets through alone,
    raises `NothingGotThrough`. Any other error in a stage is raised here, with its traceback; if there are several, the
    first one. When the generator is closed, all stages finish what they work on and start nothing new; only threads
    that hang on a file are left behind. If `pace.stopped` becomes true, the batches in work are finished, and the
    generator ends early.

    With `recall` and `rules.digests` images of equal content are computed once; `recall`, which the forward thread
    calls for each batch, tells what was computed before.
    """
    repeats: Repeats[Outcome] = Repeats(recall, IN_HAND * pace.batch_size)
    predicted: Channel[_Predicted] = Channel()
    outcomes: Channel[list[Outcome]] = Channel()
    pieces = Pieces(items, _preparation(segmenter, rules, pace), repeats)
    forward = partial(_predict, segmenter=segmenter, options=options, pace=pace)
    masks = partial(_postprocess, gathering=Gathering(repeats), segmenter=segmenter, options=options, pace=pace)
    with serving(pace.stage_threads) as threads:
        stages = [
            stage(threads.forward, _batches(pieces, pace), forward, predicted),
            stage(threads.masks, predicted, masks, outcomes),
        ]
        try:
            yield from filter(None, outcomes)  # a batch of tiles may complete no image
        finally:
            for channel in (predicted, outcomes):
                channel.close()
            pieces.close()  # before waiting for the stages, since the forward thread may wait for an image
            wait(stages)


def _preparation(segmenter: Segmenter, rules: ReadRules, pace: Pace) -> Preparation:
    return Preparation(
        segmenter=segmenter,
        rules=rules,
        report=pace.report,
        threads=pace.threads,
        seconds=pace.decode_seconds,
        batch_size=pace.batch_size,
        ahead=READ_AHEAD * pace.batch_size,
    )


def _batches(pieces: Iterable[Piece], pace: Pace) -> Iterator[Sequence[Piece]]:
    """Yield the batches, until `pace.stopped`. Images of the next batches are decoded meanwhile."""
    todo = iter(pieces)
    while not pace.stopped() and (batch := list(islice(todo, pace.batch_size))):
        yield batch


def _predict(batch: Sequence[Piece], segmenter: Segmenter, options: Options, pace: Pace) -> _Predicted:
    rows = [(piece.pixels, piece.item.prompts) for piece in batch if isinstance(piece.pixels, Pixels)]

    def work(part: range) -> list[Raw]:
        pixels, prompts = zip(*rows[part.start : part.stop], strict=True)
        return [segmenter.predict(pixels, prompts, options)] * len(part)

    with timed(pace.report, Stage.FORWARD, len(rows)):
        # Kernels that were compiled for the size that fits would not serve larger batches, so no larger one is tried.
        fitting = partial(_fitting, cap=pace.caps.forward, work=work, grows=not options.compiled)
        raws = narrowed(range(len(rows)), fitting, pace.narrows)
    return _Predicted(batch, raws)


def _postprocess(
    predicted: _Predicted, gathering: Gathering, segmenter: Segmenter, options: Options, pace: Pace
) -> list[Outcome]:
    with timed(pace.report, Stage.MASKS, len(predicted.raws)):
        found = _masks(predicted.raws, segmenter, options, pace)
        answers = iter(found)
        outcomes = []
        for piece in predicted.batch:
            answer = _answer(piece, next(answers)) if isinstance(piece.pixels, Pixels) else piece.pixels
            outcomes += gathering.add(piece, answer)
    raised = [one.error for one in found if isinstance(one, Raised)]
    unfit = [one for one in found if isinstance(one, OutOfMemory)]
    if found and len(raised) + len(unfit) == len(found):
        raise NothingGotThrough(outcomes + gathering.given_up()) from (raised or unfit)[0]
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


def _fitting(rows: range, cap: Cap, work: Callable[[range], Sequence[T]], grows: bool = True) -> list[T | OutOfMemory]:
    """The results of `work` on `rows`, in parts that are small enough for the memory. `grows`: larger parts are tried
    again after many that fitted."""
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
            if grows:
                cap.held(len(part))
        elif len(part) > 1:
            cap.fell(len(part))
        else:
            done.append(OutOfMemory())
    return done


def _answer(piece: Piece, found: tuple[Found, ...] | OutOfMemory | Raised) -> tuple[Found, ...] | Unreadable:
    """What was found in a piece. Only here a model's answer is checked; the database and exports rely on that."""
    assert isinstance(piece.pixels, Pixels)
    match found:
        case Raised():
            error_class, said = ErrorClass.INTERNAL, f"the model raises for it, even alone: {found.text}"
        case OutOfMemory():
            error_class, said = ErrorClass.OUT_OF_MEMORY, "does not fit into the model's memory, even alone"
        case _:
            wrong = fault(found, piece.item.prompts, piece.pixels.width, piece.pixels.height)
            if not wrong:
                return tuple(map(with_pixels, found))
            error_class, said = ErrorClass.INTERNAL, wrong
    return Unreadable(piece.item.id, error_class, said, piece.image.file)


def refused_prompts(segmenter: Segmenter, prompts: Sequence[str]) -> dict[str, str]:
    """The prompts that the model cannot take, each with the reason, also those for which it raises an error."""

    def reasons(rows: range) -> list[str | None]:
        bad = segmenter.check_prompts(prompts[rows.start : rows.stop])
        return [bad.get(prompt) for prompt in prompts[rows.start : rows.stop]]

    answers = narrowed(range(len(prompts)), reasons, lambda error: not isinstance(error, MemoryError | OSError))
    told = [answer.text if isinstance(answer, Raised) else answer for answer in answers]
    return {prompt: reason for prompt, reason in zip(prompts, told, strict=True) if reason is not None}
