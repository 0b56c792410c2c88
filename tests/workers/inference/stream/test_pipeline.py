"""The stream of outcomes, with real files and a segmenter without a model."""

import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.terminals import PATIENCE, wait_until
from tests.workers.inference.stream.conftest import Hurry
from workers.errors import ErrorClass
from workers.inference.items import Item, Outcome, Segmented, Unreadable
from workers.inference.protocol import Options
from workers.inference.reading.images import RGB, ReadImage, ReadRules, read_image
from workers.inference.shapes import masks
from workers.inference.stages import Report, Stage
from workers.inference.stream.caps import GOOD_BATCHES, Cap, Caps
from workers.inference.stream.pieces import Pieces
from workers.inference.stream.pipeline import READ_AHEAD, Pace, segment

ROOT = Path(__file__).parents[3]
RULES = ReadRules()
OPTIONS = Options()


def items_of(paths: Iterable[str], *prompts: str) -> list[Item]:
    return [Item(number, path, prompts or ("person",)) for number, path in enumerate(paths)]


def run(items: list[Item], fake: Any, **how: Any) -> list[Outcome]:
    return [outcome for batch in segment(items, fake, RULES, OPTIONS, Pace(**how)) for outcome in batch]


@pytest.fixture
def our_threads() -> Callable[[], list[str]]:
    """The names of the threads that streams of this test have started and that still live."""
    before = set(threading.enumerate())

    def names() -> list[str]:
        started = set(threading.enumerate()) - before
        return [thread.name for thread in started if thread.name.startswith(("sam3-", "decode"))]

    return names


@pytest.fixture
def broken_files(tmp_path: Path, photograph_files: list[str]) -> list[str]:
    """One file of each kind that cannot be segmented."""
    whole = Path(photograph_files[0]).read_bytes()
    contents = {"cut.png": whole[: len(whole) // 2], "empty.png": b"", "page.jpg": b"<html>404</html>"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    Image.new("RGB", (4, 4)).save(tmp_path / "tiny.png")
    return [str(tmp_path / name) for name in (*contents, "tiny.png", "missing.png")]


def test_batches_come_in_order_and_each_item_once(fake: Any, photograph_files: list[str]) -> None:
    items = items_of(photograph_files * 5)
    batches = list(segment(items, fake, RULES, OPTIONS, Pace(batch_size=8, threads=3)))
    assert [len(batch) for batch in batches] == [8, 8, 4]
    assert [outcome.id for batch in batches for outcome in batch] == list(range(20))
    assert fake.batches == [8, 8, 4]


def test_masks_have_the_size_and_content_of_their_own_image(
    fake: Any, photograph_files: list[str], photographs: dict[str, RGB]
) -> None:
    outcomes = run(items_of(photograph_files, "cat", "a person"), fake, batch_size=3)
    for outcome, pixels in zip(outcomes, photographs.values(), strict=True):
        assert isinstance(outcome, Segmented)
        assert (outcome.height, outcome.width) == pixels.shape[:2]
        for found, level in zip(outcome.found, (30, 80), strict=True):
            mask = masks.decode(found.instances[0].rle, outcome.height, outcome.width)
            assert np.array_equal(mask, pixels.mean(axis=2) > level)


@pytest.mark.long
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch_size=st.integers(1, 9), threads=st.integers(1, 4), cuts=st.sets(st.integers(1, 15)))
def test_batch_size_chunking_and_threads_change_nothing(
    fake: Any, photograph_files: list[str], broken_files: list[str], batch_size: int, threads: int, cuts: set[int]
) -> None:
    items = items_of([*photograph_files, *broken_files[:4]] * 2, "cat", "a person")
    chunks = [items[start:end] for start, end in pairwise([0, *sorted(cuts), len(items)])]
    outcomes = [outcome for chunk in chunks for outcome in run(chunk, fake, batch_size=batch_size, threads=threads)]
    assert outcomes == run(items, fake, batch_size=1, threads=1)


def test_broken_images_are_rejected_and_their_neighbours_are_not_touched(
    fake: Any, photograph_files: list[str], broken_files: list[str]
) -> None:
    mixed = [path for pair in zip(photograph_files * 2, broken_files, strict=False) for path in pair]
    outcomes = run(items_of(mixed), fake, batch_size=4)
    alone = run(items_of(photograph_files), fake)
    assert [outcome.id for outcome in outcomes] == list(range(len(mixed)))
    assert [replace(outcome, id=0) for outcome in outcomes[::2]] == [
        replace(outcome, id=0) for outcome in [*alone, alone[0]]
    ]
    assert [outcome.error_class for outcome in outcomes[1::2] if isinstance(outcome, Unreadable)] == [
        ErrorClass.TRUNCATED,
        ErrorClass.NOT_AN_IMAGE,
        ErrorClass.NOT_AN_IMAGE,
        ErrorClass.TOO_SMALL,
        ErrorClass.MISSING,
    ]


def test_a_batch_of_nothing_but_broken_images_never_reaches_the_model(fake: Any, broken_files: list[str]) -> None:
    outcomes = run(items_of(broken_files), fake, batch_size=2)
    assert all(isinstance(outcome, Unreadable) for outcome in outcomes)
    assert len(outcomes) == len(broken_files)
    assert fake.batches == []


def test_the_pipeline_itself_needs_no_torch_and_no_celery() -> None:
    wanted = "import sys, workers.inference.stream.pipeline, workers.inference.shapes.masks"
    forbidden = "{'torch', 'transformers', 'celery', 'sqlalchemy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", f"{wanted}; sys.exit(bool({forbidden}))"], cwd=ROOT, check=True)


def test_no_items_give_no_batches(fake: Any) -> None:
    assert list(segment([], fake, RULES, OPTIONS)) == []


def test_reading_stays_a_few_batches_ahead_of_a_slow_caller(fake: Any, photograph_files: list[str]) -> None:
    stream = segment(items_of(photograph_files * 16), fake, RULES, OPTIONS, Pace(batch_size=2, threads=2))
    next(stream)
    seen = -1
    while seen != fake.preprocessed:  # until the stages have come to a halt
        seen = fake.preprocessed
        time.sleep(0.3)
    # One batch with the caller, and one each: waiting for the caller, held by the mask stage, waiting for it, held
    # by the forward stage; and what is read ahead while a batch is taken.
    assert seen <= 2 * (5 + READ_AHEAD + 1)
    stream.close()  # type: ignore[attr-defined]


def test_closing_early_leaves_no_thread_and_starts_no_further_batch(
    fake: Any, photograph_files: list[str], our_threads: Callable[[], list[str]]
) -> None:
    stream = segment(items_of(photograph_files * 16), fake, RULES, OPTIONS, Pace(batch_size=2, threads=2))
    next(stream)
    assert our_threads()
    stream.close()  # type: ignore[attr-defined]
    assert our_threads() == []  # so none can begin a batch now
    assert len(fake.batches) < 32


def test_closing_during_a_forward_pass_waits_for_that_one_only(
    fake: Any, photograph_files: list[str], our_threads: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = segment(items_of(photograph_files * 16), fake, RULES, OPTIONS, Pace(batch_size=2, threads=2))
    next(stream)
    fake.gate = threading.Event()
    before, close = len(fake.batches), Pieces.close
    closing = threading.Thread(target=stream.close)  # type: ignore[attr-defined]

    def begun(pieces: Pieces) -> None:
        fake.gate.set()
        close(pieces)

    monkeypatch.setattr(Pieces, "close", begun)
    closing.start()
    closing.join(PATIENCE)
    assert not closing.is_alive()
    assert len(fake.batches) <= before + 1
    assert our_threads() == []


def test_a_stream_that_is_dropped_unread_starts_nothing(
    fake: Any, photograph_files: list[str], our_threads: Callable[[], list[str]]
) -> None:
    segment(items_of(photograph_files), fake, RULES, OPTIONS)
    assert our_threads() == []


@pytest.mark.parametrize("verb", ["predict", "postprocess"])
def test_an_error_in_a_stage_is_raised_once_with_its_traceback(
    fake: Any, photograph_files: list[str], verb: str, our_threads: Callable[[], list[str]]
) -> None:
    fake.fail_in[verb] = RuntimeError("the device is gone")
    stream = segment(items_of(photograph_files * 4), fake, RULES, OPTIONS, Pace(batch_size=2))
    with pytest.raises(RuntimeError, match="the device is gone") as raised:
        list(stream)
    assert "_fail" in [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]
    assert list(stream) == []
    assert our_threads() == []


@pytest.mark.parametrize(("error", "error_class"), [(MemoryError(), "out_of_memory"), (ValueError("odd"), "internal")])
def test_what_one_image_does_to_preprocessing_is_its_own_failure(
    fake: Any, photograph_files: list[str], error: Exception, error_class: str
) -> None:
    fake.fail_in["preprocess"] = error
    outcomes = run(items_of(photograph_files), fake)
    assert [outcome.error_class for outcome in outcomes if isinstance(outcome, Unreadable)] == [error_class] * len(
        outcomes
    )


def test_a_result_that_is_no_number_fails_its_image_only(
    fake: Any, photograph_files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fake.postprocess

    def first_is_nan(raw: Any, rows: range, options: Options) -> Any:
        first, *rest = real(raw, rows, options)
        return [tuple(replace(found, presence=float("nan")) for found in first), *rest]

    monkeypatch.setattr(fake, "postprocess", first_is_nan)
    first, *rest = run(items_of(photograph_files), fake)
    assert isinstance(first, Unreadable)
    assert first.error_class == ErrorClass.INTERNAL
    assert all(isinstance(outcome, Segmented) for outcome in rest)


def test_a_stopped_stream_lets_the_batches_in_hand_come_through(
    fake: Any, photograph_files: list[str], our_threads: Callable[[], list[str]]
) -> None:
    seen: list[list[Outcome]] = []
    pace = Pace(batch_size=1, stopped=lambda: bool(seen))
    for batch in segment(items_of(photograph_files * 8), fake, RULES, OPTIONS, pace):
        seen.append(batch)
    assert 1 <= len(seen) < len(photograph_files * 8)
    assert [outcome.id for batch in seen for outcome in batch] == list(range(len(seen)))
    assert our_threads() == []


def test_batches_before_an_error_are_still_delivered(
    fake: Any, photograph_files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = count(1)
    real = fake.predict

    def fails_third(*arguments: Any) -> Any:
        if next(calls) == 3:
            raise RuntimeError("third")
        return real(*arguments)

    monkeypatch.setattr(fake, "predict", fails_third)
    stream = segment(items_of(photograph_files * 4), fake, RULES, OPTIONS, Pace(batch_size=2))
    assert [outcome.id for outcome in [*next(stream), *next(stream)]] == [0, 1, 2, 3]
    with pytest.raises(RuntimeError, match="third"):
        next(stream)


def test_a_batch_that_does_not_fit_is_halved_and_the_stream_remembers(
    fake: Any, cramped: Any, photograph_files: list[str]
) -> None:
    items = items_of(photograph_files * 4)
    small, caps = cramped(forward=3), Caps()
    assert run(items, small, batch_size=8, caps=caps) == run(items, fake, batch_size=8)
    assert small.batches == [8, 4, 2, 2, 2, 2, 2, 2, 2, 2]
    assert (caps.forward.most, caps.masks.most) == (2, None)
    small.batches.clear()
    run(items, small, batch_size=8, caps=caps)
    assert small.batches == [2] * 8


def test_masks_that_do_not_fit_are_made_in_smaller_parts_of_the_same_forward_pass(
    fake: Any, cramped: Any, photograph_files: list[str]
) -> None:
    items = items_of(photograph_files * 2)
    small, caps = cramped(masks=2), Caps()
    assert run(items, small, batch_size=8, caps=caps) == run(items, fake, batch_size=8)
    assert small.batches == [8]
    assert small.masked == [8, 4, 2, 2, 2, 2]
    assert (caps.forward.most, caps.masks.most) == (None, 2)


def test_only_the_image_that_does_not_even_fit_alone_is_out_of_memory(
    fake: Any, cramped: Any, photograph_files: list[str], photographs: dict[str, RGB]
) -> None:
    widths = [pixels.shape[1] for pixels in photographs.values()]
    items = items_of(photograph_files * 2)
    outcomes = run(items, cramped(widest=sorted(set(widths))[-2]), batch_size=8)
    refused = [outcome for outcome in outcomes if isinstance(outcome, Unreadable)]
    assert {widths[outcome.id % 4] for outcome in refused} == {max(widths)}
    assert {outcome.error_class for outcome in refused} == {ErrorClass.OUT_OF_MEMORY}
    whole = run(items, fake, batch_size=8)
    assert [one for one in outcomes if isinstance(one, Segmented)] == [
        one for one in whole if one.id not in {outcome.id for outcome in refused}
    ]


def test_a_cap_grows_back_by_one_after_many_batches_that_fitted() -> None:
    cap = Cap("forward pass")
    cap.fell(8)
    for _ in range(GOOD_BATCHES - 1):
        cap.held(4)
    cap.held(3)  # a small batch proves nothing
    assert cap.most == 4
    cap.held(4)
    assert cap.most == 5


def test_with_compiled_kernels_a_cap_stays_as_larger_batches_would_run_without_them(
    cramped: Any, photograph_files: list[str]
) -> None:
    compiled = replace(OPTIONS, compiled=True)
    for options, most in ((OPTIONS, 3), (compiled, 2)):
        small, caps = cramped(forward=3), Caps()
        caps.forward.most = 2
        pace = Pace(batch_size=2, caps=caps)
        for _ in segment(items_of(photograph_files * GOOD_BATCHES)[: 2 * GOOD_BATCHES], small, RULES, options, pace):
            pass
        assert caps.forward.most == most


def test_an_image_that_takes_too_long_to_read_fails_alone_and_holds_nobody_up(
    fake: Any, photograph_files: list[str], monkeypatch: pytest.MonkeyPatch, hurry_only: Hurry
) -> None:
    hung = threading.Event()
    hurry_only(lambda item: item.path == "hangs")

    def read(path: str, rules: ReadRules, report: Report) -> ReadImage:
        if path == "hangs":
            hung.wait(PATIENCE)
        return read_image(path, rules, report)

    monkeypatch.setattr("workers.inference.stream.pieces.read_image", read)
    paths = [*photograph_files[:2], "hangs", "hangs", *photograph_files]
    outcomes = run(items_of(paths), fake, batch_size=2, threads=1, decode_seconds=0.3)
    hung.set()
    assert [outcome.id for outcome in outcomes] == list(range(8))
    assert [one.id for one in outcomes if isinstance(one, Unreadable)] == [2, 3]
    assert isinstance(outcomes[2], Unreadable)
    assert outcomes[2].error_class == ErrorClass.TIMEOUT
    assert outcomes[2].message == "reading it took longer than 0.3 s"


def test_many_images_that_hang_are_each_begun_once_and_leave_a_thread_each(
    fake: Any, photograph_files: list[str], monkeypatch: pytest.MonkeyPatch, hurry_only: Hurry
) -> None:
    released, begun = threading.Event(), []
    hurry_only(lambda item: item.path.startswith("hangs"))

    def read(path: str, rules: ReadRules, report: Report) -> ReadImage:
        begun.append(path)
        if path.startswith("hangs"):
            released.wait(PATIENCE)
        return read_image(path, rules, report)

    monkeypatch.setattr("workers.inference.stream.pieces.read_image", read)
    hanging = [f"hangs{number}" for number in range(6)]
    paths = [path for pair in zip(hanging, photograph_files * 2, strict=False) for path in pair]
    before = threading.active_count()
    outcomes = run(items_of(paths), fake, batch_size=2, threads=3, decode_seconds=0.3)
    wait_until(lambda: threading.active_count() - before <= len(hanging), "the threads that do not hang")
    released.set()
    assert [isinstance(outcome, Unreadable) for outcome in outcomes] == [True, False] * 6
    assert sorted(begun) == sorted(paths)


def test_every_stage_tells_what_it_finished(fake: Any, photograph_files: list[str]) -> None:
    told: list[tuple[Stage, int]] = []
    paths = [*photograph_files, "nowhere.jpg"]
    run(items_of(paths), fake, batch_size=2, report=lambda stage, images, seconds: told.append((stage, images)))
    readable = len(photograph_files)
    finished = {stage: sum(images for one, images in told if one is stage) for stage in Stage}
    assert finished == {
        Stage.READ: readable + 1,
        Stage.DECODE: readable,
        Stage.PREPROCESS: readable,
        Stage.FORWARD: readable,
        Stage.MASKS: readable,
        Stage.COMMIT: 0,
        Stage.WAITING: 0,
    }


def test_an_image_that_hangs_counts_as_progress_once_it_is_given_up(
    fake: Any, photograph_files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    released, told = threading.Event(), []

    def read(path: str, rules: ReadRules, report: Report) -> ReadImage:
        released.wait(PATIENCE)
        return read_image(path, rules)

    monkeypatch.setattr("workers.inference.stream.pieces.read_image", read)
    run(items_of(photograph_files[:1]), fake, decode_seconds=0.1, report=lambda stage, *_: told.append(stage))
    released.set()
    assert Stage.READ in told
