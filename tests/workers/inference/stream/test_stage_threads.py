"""The threads that call a model outlive its streams, and not the model."""

import threading
import weakref
from collections.abc import Sequence
from typing import Any

import pytest

from tests.terminals import PATIENCE, wait_until
from tests.workers.inference.conftest import FakeSegmenter
from workers.inference import selftest
from workers.inference.answers import Found
from workers.inference.items import Item
from workers.inference.protocol import Options, Pixels
from workers.inference.reading.images import ReadRules
from workers.inference.stream.on_threads import OnItsThreads
from workers.inference.stream.pipeline import Pace, segment
from workers.inference.stream.stage_threads import StageThread, StageThreads


class Seen(FakeSegmenter):
    """Notes the threads that call it."""

    def __init__(self) -> None:
        super().__init__()
        self.forward: list[threading.Thread] = []
        self.masks: list[threading.Thread] = []

    def predict(self, batch: Sequence[Pixels], prompts: Sequence[tuple[str, ...]], options: Options) -> Any:
        self.forward.append(threading.current_thread())
        return super().predict(batch, prompts, options)

    def postprocess(self, raw: Any, rows: range, options: Options) -> list[tuple[Found, ...]]:
        self.masks.append(threading.current_thread())
        return super().postprocess(raw, rows, options)


def stream(segmenter: FakeSegmenter, paths: list[str], threads: StageThreads | None) -> None:
    items = [Item(number, path, ("person",)) for number, path in enumerate(paths)]
    list(segment(items, segmenter, ReadRules(), Options(), Pace(batch_size=2, stage_threads=threads)))


def test_a_self_test_and_three_streams_are_served_by_one_thread_a_stage(photograph_files: list[str]) -> None:
    seen, threads = Seen(), StageThreads()
    selftest.check(OnItsThreads(seen, threads), passes=2)
    for _ in range(3):
        stream(seen, photograph_files, threads)
    assert len(seen.forward) == len(seen.masks) == 2 + 3 * 2
    assert len(set(seen.forward)) == len(set(seen.masks)) == 1  # the objects, since numbers of threads are used again
    assert set(seen.forward) != set(seen.masks)
    threads.end()
    threads.join()


def test_a_stream_that_fails_leaves_its_threads_to_the_next_one(photograph_files: list[str]) -> None:
    seen, threads = Seen(), StageThreads()
    seen.fail_in["postprocess"] = RuntimeError("once")
    with pytest.raises(RuntimeError, match="once"):
        stream(seen, photograph_files, threads)
    seen.fail_in.clear()
    stream(seen, photograph_files, threads)
    assert len(set(seen.forward)) == len(set(seen.masks)) == 1
    threads.end()
    threads.join()


def test_a_stream_that_is_given_no_threads_ends_those_it_made(photograph_files: list[str]) -> None:
    seen = Seen()
    for _ in range(2):
        stream(seen, photograph_files, None)
    assert len(set(seen.forward)) == 2
    assert not any(thread.is_alive() for thread in (*seen.forward, *seen.masks))


def test_what_is_raised_on_a_thread_is_raised_for_who_asked() -> None:
    seen, threads = Seen(), StageThreads()
    seen.fail_in["predict"] = RuntimeError("CUDA error: no kernel image is available")
    with pytest.raises(RuntimeError, match="no kernel image"):
        selftest.check(OnItsThreads(seen, threads))
    threads.end()


def test_a_thread_ends_when_it_is_dropped() -> None:
    kept = StageThread("forward")
    thread = kept.call(threading.current_thread).result(PATIENCE)
    del kept
    wait_until(lambda: not thread.is_alive(), "the end of the thread")


@pytest.mark.parametrize("fails", [False, True])
def test_an_idle_thread_holds_on_to_nothing(*, fails: bool) -> None:
    class Model:
        def work(self) -> None:
            if fails:
                raise RuntimeError

    model, thread = Model(), StageThread("forward")
    done, gone = thread.call(model.work), weakref.ref(model)
    assert (done.exception(PATIENCE) is not None) is fails
    del done, model
    wait_until(lambda: gone() is None, "the end of the model")
    thread.end()


def test_a_thread_that_hangs_is_not_waited_for() -> None:
    released, thread = threading.Event(), StageThread("forward")
    hung = thread.call(released.wait)
    never = thread.call(lambda: None)
    thread.end()  # returns
    assert not hung.done()
    released.set()
    thread.join()
    assert never.done()  # it was given before the end
