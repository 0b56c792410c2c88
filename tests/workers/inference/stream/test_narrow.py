"""Which rows make a piece of work raise, found by halving; and what the stream makes of images that do so."""

import gc
import math
import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.inference.conftest import FakeSegmenter
from workers.errors import ErrorClass
from workers.inference.items import Item, Outcome, Segmented, Unreadable
from workers.inference.protocol import Options, OutOfMemory
from workers.inference.reading.images import ReadRules
from workers.inference.stream.narrow import Raised, narrowed
from workers.inference.stream.pipeline import NothingGotThrough, Pace, refused_prompts, segment


def always(error: Exception) -> bool:
    return True


@given(size=st.integers(1, 64), guilty=st.data())
def test_exactly_the_guilty_rows_are_found_and_each_costs_few_calls(size: int, guilty: st.DataObject) -> None:
    bad = guilty.draw(st.sets(st.integers(0, size - 1), max_size=3))
    calls = []

    def work(rows: range) -> list[int]:
        calls.append(rows)
        if bad & set(rows):
            raise ValueError(f"not {min(bad & set(rows))}")
        return list(rows)

    found = narrowed(range(size), work, always)
    assert [one for one in found if not isinstance(one, Raised)] == [row for row in range(size) if row not in bad]
    assert {row: one.text for row, one in enumerate(found) if isinstance(one, Raised)} == {
        row: f"ValueError: not {row}" for row in bad
    }
    assert len(calls) <= 1 + len(bad) * 2 * math.ceil(math.log2(size)) if bad else len(calls) == 1


def test_an_error_that_is_no_rows_own_is_raised_at_once_and_nothing_is_called_again() -> None:
    calls = []

    def work(rows: range) -> list[int]:
        calls.append(rows)
        raise RuntimeError("CUDA error")

    with pytest.raises(RuntimeError, match="CUDA error"):
        narrowed(range(8), work, lambda error: False)
    assert calls == [range(8)]


def test_what_a_row_raised_keeps_its_traceback_but_not_what_was_in_its_frames() -> None:
    held: list[weakref.ref[Any]] = []

    def work(rows: range) -> list[int]:
        pixels = np.zeros(1000)
        held.append(weakref.ref(pixels))
        try:
            raise KeyError("inner")
        except KeyError:
            raise ValueError("outer") from None

    found = narrowed(range(4), work, always)
    gc.collect()
    assert [one() for one in held] == [None] * 7
    assert all(isinstance(one, Raised) and one.error.__traceback__ is not None for one in found)


class Touchy(FakeSegmenter):
    """Raises in `verb` for images of these widths and for these prompts."""

    def __init__(self, verb: str, widths: Sequence[int] = (), prompts: Sequence[str] = ()) -> None:
        super().__init__()
        self.verb, self.widths, self.prompts = verb, set(widths), set(prompts)

    def predict(self, batch: Sequence[Any], prompts: Sequence[tuple[str, ...]], options: Options) -> Any:
        raw = super().predict(batch, prompts, options)
        if self.verb == "predict":
            self._look(raw)
        return raw

    def postprocess(self, raw: Any, rows: range, options: Options) -> Any:
        if self.verb == "postprocess":
            self._look(raw[rows.start : rows.stop])
        return super().postprocess(raw, rows, options)

    def check_prompts(self, prompts: Sequence[str]) -> dict[str, str]:
        if self.verb == "check_prompts" and self.prompts & set(prompts):
            raise TypeError("not a text")
        return super().check_prompts(prompts)

    def _look(self, part: Sequence[tuple[Any, tuple[str, ...]]]) -> None:
        if any(pixels.width in self.widths or self.prompts & set(prompts) for pixels, prompts in part):
            raise ValueError("an odd width")


def run(items: Sequence[Item], segmenter: Any, **how: Any) -> list[Outcome]:
    pace = replace(Pace(batch_size=8, narrows=always), **how)
    return [outcome for batch in segment(items, segmenter, ReadRules(), Options(), pace) for outcome in batch]


@pytest.fixture
def widths(photographs: dict[str, Any]) -> list[int]:
    return [pixels.shape[1] for pixels in photographs.values()]


@pytest.mark.parametrize("verb", ["predict", "postprocess"])
def test_an_image_that_makes_the_model_raise_fails_alone_with_what_it_raised(
    fake: Any, photograph_files: list[str], widths: list[int], verb: str
) -> None:
    items = [Item(number, path, ("cat", "person")) for number, path in enumerate(photograph_files * 4)]
    odd = max(widths, key=lambda width: (widths.count(width) == 1, width))
    outcomes = run(items, Touchy(verb, [odd]))
    refused = [outcome for outcome in outcomes if isinstance(outcome, Unreadable)]
    assert {widths[one.id % len(widths)] for one in refused} == {odd}
    assert {one.error_class for one in refused} == {ErrorClass.INTERNAL}
    assert {one.message for one in refused} == {"the model raises for it, even alone: ValueError: an odd width"}
    whole = run(items, fake)
    assert [one for one in outcomes if isinstance(one, Segmented)] == [
        one for one in whole if one.id not in {other.id for other in refused}
    ]


@pytest.mark.parametrize("verb", ["predict", "postprocess"])
def test_an_image_whose_own_prompt_makes_the_model_raise_fails_alone(photograph_files: list[str], verb: str) -> None:
    prompts = {3: ("cat", "\u0000"), 9: ("\u0000",)}
    items = [Item(number, path, prompts.get(number, ("cat",))) for number, path in enumerate(photograph_files * 4)]
    outcomes = run(items, Touchy(verb, prompts=["\u0000"]))
    assert [one.id for one in outcomes if isinstance(one, Unreadable)] == [3, 9]
    assert [one.id for one in outcomes] == list(range(len(items)))


@pytest.mark.parametrize("verb", ["predict", "postprocess"])
@pytest.mark.parametrize("count", [1, 8])
def test_a_batch_of_which_nothing_gets_through_is_for_the_caller_to_judge(
    photograph_files: list[str], widths: list[int], verb: str, count: int
) -> None:
    items = [
        Item(number, path, ("cat",)) for number, path in enumerate([*photograph_files * 2, "nowhere"][-1 - count :])
    ]
    with pytest.raises(NothingGotThrough) as nothing:
        run(items, Touchy(verb, widths), batch_size=len(items))
    assert isinstance(nothing.value.__cause__, ValueError)
    assert [one.id for one in nothing.value.outcomes] == list(range(len(items)))
    classes = [one.error_class for one in nothing.value.outcomes if isinstance(one, Unreadable)]
    assert classes == [ErrorClass.INTERNAL] * count + [ErrorClass.MISSING]


def test_a_batch_of_which_no_image_fits_even_alone_is_for_the_caller_to_judge(
    photograph_files: list[str], cramped: Any
) -> None:
    items = [Item(number, path, ("cat",)) for number, path in enumerate([*photograph_files, "nowhere"])]
    with pytest.raises(NothingGotThrough) as nothing:
        run(items, cramped(forward=0), batch_size=len(items))
    assert isinstance(nothing.value.__cause__, OutOfMemory)
    classes = [one.error_class for one in nothing.value.outcomes if isinstance(one, Unreadable)]
    assert classes == [ErrorClass.OUT_OF_MEMORY] * len(photograph_files) + [ErrorClass.MISSING]


def test_raising_and_not_fitting_are_told_apart(photograph_files: list[str], widths: list[int]) -> None:
    class Both(Touchy):
        def predict(self, batch: Sequence[Any], prompts: Sequence[tuple[str, ...]], options: Options) -> Any:
            if len(batch) > 2:
                raise OutOfMemory
            return super().predict(batch, prompts, options)

    items = [
        Item(number, path, ("cat", "odd") if number == 5 else ("cat",))
        for number, path in enumerate(photograph_files * 2)
    ]
    outcomes = run(items, Both("predict", prompts=["odd"]))
    assert [one.id for one in outcomes if isinstance(one, Unreadable)] == [5]


def test_without_a_judge_nothing_is_narrowed(photograph_files: list[str], widths: list[int]) -> None:
    items = [Item(number, path, ("cat",)) for number, path in enumerate(photograph_files)]
    segmenter = Touchy("predict", widths[:1])
    with pytest.raises(ValueError, match="an odd width"):
        run(items, segmenter, narrows=Pace().narrows)
    assert segmenter.batches == [len(items)]


@pytest.mark.parametrize("prompts", [["cat", "odd", " ", "dog"], ["odd"], []])
def test_a_prompt_that_makes_the_check_of_prompts_raise_is_refused_like_one_that_it_refuses(
    prompts: list[str],
) -> None:
    told = {"odd": "TypeError: not a text", " ": "is empty"}
    expected = {prompt: told[prompt] for prompt in prompts if prompt in told}
    assert refused_prompts(Touchy("check_prompts", prompts=["odd"]), prompts) == expected
