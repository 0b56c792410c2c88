"""One chunk as a stream of outcomes: decode -> forward -> masks, overlapped. Knows no Celery, no SQL, no torch.

    items -> [decode threads] -> forward thread -> mask thread -> the caller
             read ahead two      one batch          one batch
             batches             waiting            waiting

Each stage waits for the next one when it is that far ahead, so memory stays bounded however slow the caller is.
Threads only: a worker is a daemonic process, which may have no children.
"""

import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Generic, Literal, Protocol, TypeVar

from workers.errors import ErrorClass
from workers.inference.images import RGB, ReadRules, UnreadableImage, read_image

T = TypeVar("T")
S = TypeVar("S")

READ_AHEAD = 2  # batches that are decoded or being decoded while another one is in the forward pass


@dataclass(frozen=True)
class Item:
    """One image to segment: what its outcome will be called, an absolute path, and at least one prompt."""

    id: int
    path: str
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class Options:
    """What counts as an instance and as part of its mask, frozen with the run.

    `mask_rule`: "library" enlarges probabilities to the image's size and cuts them at `mask_threshold`, as
    `post_process_instance_segmentation` does; "meta" enlarges logits first, as Meta's own code does.
    """

    threshold: float = 0.5
    mask_threshold: float = 0.5
    score_floor: float = 0.3
    mask_rule: Literal["library", "meta"] = "library"

    @property
    def floor(self) -> float:
        """Instances that score higher than this are kept."""
        return min(self.threshold, self.score_floor)


@dataclass(frozen=True)
class Instance:
    """One object: `box` is x1, y1, x2, y2 in pixels (it may reach over the edge), `rle` has the image's size."""

    score: float
    box: tuple[float, float, float, float]
    area: int
    rle: bytes


@dataclass(frozen=True)
class Found:
    """What one prompt found in one image, best score first. `capped`: the model had hardly a query left, so there
    may be more."""

    presence: float
    instances: tuple[Instance, ...]
    capped: bool = False


@dataclass(frozen=True)
class Segmented:
    """An image that was read: its size as the masks have it, and what was found, in the order of its prompts."""

    id: int
    width: int
    height: int
    found: tuple[Found, ...]


@dataclass(frozen=True)
class Rejected:
    """An image that cannot be used, and why. A value, not an exception: its neighbours are fine."""

    id: int
    error_class: ErrorClass
    message: str


Outcome = Segmented | Rejected


@dataclass(frozen=True, eq=False)
class Pixels:
    """An image as the model takes it, and the size that it had: `data` is uint8, its shape the segmenter's affair."""

    data: Any
    height: int
    width: int


Raw = Any  # what a forward pass leaves on the device; only the segmenter that made it looks inside


@dataclass(frozen=True)
class ModelFacts:
    """Which weights answer, in which precision. `model` is the name as the user gave it."""

    model: str
    revision: str | None
    weights_sha256: str
    dtype: str
    device: str

    @property
    def text(self) -> str:
        """One line for a log."""
        revision = f"@{self.revision[:12]}" if self.revision else ""
        return f"{self.model}{revision} (sha256 {self.weights_sha256[:12]}) in {self.dtype} on {self.device}"


class Segmenter(Protocol):
    """A model, in three verbs, so that the stages can overlap. Each verb is called from one stage's threads only:
    `preprocess` from several at once, the other two from one each."""

    @property
    def facts(self) -> ModelFacts:
        """What is loaded."""

    def check_prompts(self, prompts: Sequence[str]) -> dict[str, str]:
        """The prompts that the model cannot take, each with the reason."""

    def preprocess(self, image: RGB) -> Pixels:
        """Bring an image of shape (height, width, 3) to the model's size."""

    def predict(self, batch: Sequence[Pixels], prompts: Sequence[tuple[str, ...]], options: Options) -> Raw:
        """Run the model once on the whole batch; row i is asked for `prompts[i]`. Keeps what `options` ask for."""

    def postprocess(self, raw: Raw, options: Options) -> list[tuple[Found, ...]]:
        """Masks at the images' own sizes, for each row one `Found` a prompt. Memory is bounded."""


@dataclass(frozen=True)
class _Decoded:
    """A batch after decoding: in order, each item with its pixels or its rejection."""

    items: Sequence[Item]
    results: Sequence[Pixels | Rejected]


@dataclass(frozen=True)
class _Predicted:
    batch: _Decoded
    raw: Raw  # None if no image of the batch could be read


@dataclass(frozen=True)
class Pace:
    """How a stream runs, which changes nothing about its outcomes."""

    batch_size: int = 8  # images of one forward pass
    threads: int | None = None  # that decode; by default one a core, at most 4
    stopped: Callable[[], bool] = lambda: False  # once true, no further batch is begun


def segment(
    items: Sequence[Item], segmenter: Segmenter, rules: ReadRules, options: Options, pace: Pace = Pace()
) -> Iterator[list[Outcome]]:
    """Yield one list of outcomes a batch, in the order of `items`, each item exactly once.

    A batch with unreadable images is that much smaller for the model. Whatever else goes wrong in a stage is raised
    here, with its traceback; the first error wins. Closing the generator stops all stages: it waits for what is in
    their hands, starts nothing new and leaves no thread behind. A stopped `pace` lets the batches in hand come through
    and then ends early.
    """
    predicted: _Channel[_Predicted] = _Channel(capacity=1)
    outcomes: _Channel[list[Outcome]] = _Channel(capacity=1)
    pool = ThreadPoolExecutor(pace.threads or min(4, os.cpu_count() or 1), thread_name_prefix="decode")
    decoded = _decode(items, partial(_read, segmenter=segmenter, rules=rules), pool, pace)
    stages = [
        _stage("forward", decoded, partial(_predict, segmenter=segmenter, options=options), predicted),
        _stage("masks", predicted, partial(_postprocess, segmenter=segmenter, options=options), outcomes),
    ]
    try:
        yield from outcomes
    finally:
        for channel in (predicted, outcomes):
            channel.close()
        pool.shutdown(cancel_futures=True)  # before the stages: forward may be waiting for a decode
        for stage in stages:
            stage.join()


def _decode(
    items: Sequence[Item], read: Callable[[Item], Pixels | Rejected], pool: ThreadPoolExecutor, pace: Pace
) -> Iterator[_Decoded]:
    """Batches in order, while the pool works on the next ones."""
    batch_size = pace.batch_size
    todo = iter(items)
    ahead: deque[tuple[Item, Future[Pixels | Rejected]]] = deque()

    def submit(count: int) -> None:
        ahead.extend((item, pool.submit(read, item)) for item in islice(todo, count))

    submit(READ_AHEAD * batch_size)
    while ahead and not pace.stopped():
        submit(batch_size)
        batch = [ahead.popleft() for _ in range(min(batch_size, len(ahead)))]
        yield _Decoded([item for item, _ in batch], [future.result() for _, future in batch])


def _read(item: Item, segmenter: Segmenter, rules: ReadRules) -> Pixels | Rejected:
    try:
        image = read_image(item.path, rules)
        return segmenter.preprocess(image)
    except UnreadableImage as error:
        return Rejected(item.id, error.error_class, error.message)
    except MemoryError:
        return Rejected(item.id, ErrorClass.OUT_OF_MEMORY, "does not fit into memory")
    except Exception as error:  # whatever one image does to us, its neighbours are fine
        return Rejected(item.id, ErrorClass.INTERNAL, f"{type(error).__name__}: {error}")


def _predict(batch: _Decoded, segmenter: Segmenter, options: Options) -> _Predicted:
    rows = [
        (pixels, item.prompts)
        for item, pixels in zip(batch.items, batch.results, strict=True)
        if isinstance(pixels, Pixels)
    ]
    if not rows:
        return _Predicted(batch, None)
    pixels, prompts = zip(*rows, strict=True)
    return _Predicted(batch, segmenter.predict(pixels, prompts, options))


def _postprocess(predicted: _Predicted, segmenter: Segmenter, options: Options) -> list[Outcome]:
    found = iter([] if predicted.raw is None else segmenter.postprocess(predicted.raw, options))
    return [
        result if isinstance(result, Rejected) else _segmented(item, result, next(found))
        for item, result in zip(predicted.batch.items, predicted.batch.results, strict=True)
    ]


def _segmented(item: Item, pixels: Pixels, found: tuple[Found, ...]) -> Outcome:
    if not all(math.isfinite(one.presence) for one in found):  # NaN compares with nothing, and no database stores it
        return Rejected(item.id, ErrorClass.INTERNAL, "the model gave no number for it; try --dtype fp32")
    return Segmented(item.id, pixels.width, pixels.height, found)


class _Closed(Exception):
    """The reader of a channel has gone."""


class _Channel(Generic[T]):
    """A bounded queue between two threads that can be closed from the reading end and carries an error along.

    (`queue.Queue` cannot wake a waiting writer for good; `Queue.shutdown` needs Python 3.13.)
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._values: deque[T] = deque()
        self._changed = threading.Condition()
        self._finished = self._closed = False
        self._error: BaseException | None = None

    def put(self, value: T) -> None:
        """Add a value, waiting for room. Raises `_Closed` if nobody will read it."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._values) < self._capacity)
            if self._closed:
                raise _Closed
            self._values.append(value)
            self._changed.notify_all()

    def finish(self, error: BaseException | None = None) -> None:
        """Nothing follows; after the values in the queue, the reader gets the error, if any."""
        with self._changed:
            self._finished, self._error = True, error
            self._changed.notify_all()

    def close(self) -> None:
        """Stop both ends: waiting values are dropped."""
        with self._changed:
            self._closed = True
            self._values.clear()
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        return self._closed

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._values or self._finished or self._closed)
                if not self._values:
                    break
                value = self._values.popleft()
                self._changed.notify_all()
            yield value
        if self._error is not None and not self._closed:
            raise self._error


def _stage(name: str, source: Iterable[S], work: Callable[[S], T], out: _Channel[T]) -> threading.Thread:
    """Start a thread that puts `work(value)` of every value of `source` into `out`, errors included."""

    def run() -> None:
        try:
            for value in source:
                if out.closed:
                    return
                out.put(work(value))
        except _Closed:
            return
        except BaseException as error:
            out.finish(error)
        else:
            out.finish()

    thread = threading.Thread(target=run, name=f"sam3-{name}", daemon=True)
    thread.start()
    return thread
