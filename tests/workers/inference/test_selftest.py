"""The test that a model passes before it may touch anybody's images."""

import math
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from workers.inference.answers import Found, Instance
from workers.inference.models.sam3_model import Sam3Segmenter
from workers.inference.protocol import Options, OutOfMemory
from workers.inference.selftest import SelfTestFailed, check, fits_compiled


def test_a_model_that_answers_passes(fake: Any) -> None:
    check(fake)
    assert fake.batches == [1]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ([], "did not give one answer"),
        ([()], "did not give one answer"),
        ([(Found(math.nan, ()),)], "gave nan as a presence for 'person'.*; try --dtype fp32"),
        ([(Found(1.0, (Instance(math.inf, (0.0, 0.0, 1.0, 1.0), 1, b"1"),)),)], "gave inf as a score"),
        ([(Found(1.0, (Instance(0.9, (0.0, math.nan, 1.0, 1.0), 1, b"1"),)),)], "nan, 1.0, 1.0.* as a box"),
    ],
)
def test_an_answer_that_is_none_fails(fake: Any, monkeypatch: pytest.MonkeyPatch, answer: Any, said: str) -> None:
    monkeypatch.setattr(fake, "postprocess", lambda raw, rows, options: answer)
    with pytest.raises(SelfTestFailed, match=said):
        check(fake)


def test_masks_of_all_that_the_model_has_are_made(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    floors = []
    answer = fake.postprocess

    def postprocess(raw: Any, rows: range, options: Options) -> Any:
        floors.append(options.floor)
        return answer(raw, rows, options)

    monkeypatch.setattr(fake, "postprocess", postprocess)
    check(fake)
    assert floors == [0.0]


def test_a_model_whose_masks_are_no_numbers_fails(checkpoint: Path) -> None:
    segmenter = Sam3Segmenter(checkpoint, model_name="tiny")
    check(segmenter)
    for parameter in segmenter._model.mask_decoder.parameters():
        parameter.data.fill_(math.nan)
    with pytest.raises(ValueError, match="nan in a mask"):
        check(segmenter)


def test_what_the_model_raises_comes_through(fake: Any) -> None:
    fake.fail_in["predict"] = RuntimeError("CUDA error: no kernel image is available")
    with pytest.raises(RuntimeError, match="no kernel image"):
        check(fake)


def test_masks_are_made_whatever_they_score(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    answer = fake.postprocess

    def watched(raw: Any, rows: range, options: Options) -> Any:
        asked.append(options)
        return answer(raw, rows, options)

    monkeypatch.setattr(fake, "postprocess", watched)
    check(fake)
    assert [options.floor for options in asked] == [0.0]


@pytest.mark.parametrize("passes", [3, 8])
def test_a_model_that_looks_at_its_images_passes_however_often(fake: Any, passes: int) -> None:
    check(fake, passes)
    assert fake.batches == [1] * passes


def test_a_model_that_answers_all_images_alike_fails(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    only = Instance(0.9, (0.0, 0.0, 9.0, 9.0), 9, b"1")
    monkeypatch.setattr(fake, "postprocess", lambda raw, rows, options: [(Found(1.0, (only,)),)])
    check(fake, 1)
    with pytest.raises(SelfTestFailed, match="two images got one and the same answer"):
        check(fake, 3)


@pytest.mark.parametrize("what", ["presence", "score", "area"])
def test_a_model_that_answers_one_image_now_so_now_so_fails(
    fake: Any, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    numbers = count()

    def other(raw: Any, rows: range, options: Options) -> Any:
        number = next(numbers)
        off = number // 2  # the same for both images of a turn
        presence, score, area = (0.5 + 0.02 * off * (what == one) for one in ("presence", "score", "area"))
        box = (float(number % 2), 0.0, 9.0, 9.0)
        return [(Found(presence, (Instance(score, box, int(1000 * area), b"1"),)),)]

    monkeypatch.setattr(fake, "postprocess", other)
    with pytest.raises(SelfTestFailed, match="one image got two answers, 4% apart"):
        check(fake, 3)


def compiled_otherwise(fake: Any, monkeypatch: pytest.MonkeyPatch, score: float | None) -> list[tuple[int, bool]]:
    """Let the fake answer with this score for compiled kernels, or run out of memory; returns what it is given."""
    given: list[tuple[int, bool]] = []

    def predict(batch: Any, prompts: Any, options: Options) -> Any:
        given.append((len(batch), options.compiled))
        if options.compiled and score is None:
            raise OutOfMemory
        return score if options.compiled else 0.5

    def postprocess(raw: Any, rows: range, options: Options) -> Any:
        return [(Found(0.5, (Instance(raw, (0.0, 0.0, 9.0, 9.0), 9, b"1"),)),) for _ in rows]

    monkeypatch.setattr(fake, "predict", predict)
    monkeypatch.setattr(fake, "postprocess", postprocess)
    return given


def test_compiled_kernels_are_tried_with_a_whole_batch(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given = compiled_otherwise(fake, monkeypatch, 0.5)
    assert fits_compiled(fake, 8)
    assert given == [(1, False), (8, True)]


def test_compiled_kernels_that_do_not_fit_are_told(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled_otherwise(fake, monkeypatch, None)
    assert not fits_compiled(fake, 8)


@pytest.mark.parametrize(("score", "apart"), [(0.3, "40%"), (0.0, "100%"), (math.nan, "gave nan")])
def test_compiled_kernels_that_answer_otherwise_fail(
    fake: Any, monkeypatch: pytest.MonkeyPatch, score: float, apart: str
) -> None:
    compiled_otherwise(fake, monkeypatch, score)
    with pytest.raises(SelfTestFailed, match=apart):
        fits_compiled(fake, 8)


def test_after_a_fault_a_run_is_tested_as_it_is_computed(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given = compiled_otherwise(fake, monkeypatch, 0.5)
    check(fake, compiled=True)
    assert given == [(1, True)]
