"""What a model answers is judged once, where it leaves inference: what cannot be an answer fails its image alone."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from db.columns import LARGEST_COORDINATE
from workers.errors import ErrorClass
from workers.inference import answers
from workers.inference.answers import Found, Instance, fault
from workers.inference.items import Item, Segmented, Unreadable
from workers.inference.protocol import Options
from workers.inference.reading.images import ReadRules
from workers.inference.shapes.masks import encode
from workers.inference.stream.pipeline import Pace, segment

GOOD = Instance(0.9, (-1.5, 0.0, 12.0, 8.0), 4, b"12")
BOX = GOOD.box


def told(*found: Found, prompts: Sequence[str] = ("cat",)) -> str | None:
    return fault(found, prompts, width=10, height=8)


@pytest.mark.parametrize(
    "one",
    [
        GOOD,
        replace(GOOD, score=0.0),
        replace(GOOD, score=1.0),
        replace(GOOD, score=1),
        replace(GOOD, area=0),
        replace(GOOD, area=80),
        replace(GOOD, box=(LARGEST_COORDINATE, -LARGEST_COORDINATE, 5, 5.0)),
    ],
)
def test_an_answer_at_the_edge_of_what_can_be_is_none_the_worse(one: Instance) -> None:
    assert told(Found(0.0, (one,))) is None
    assert told(Found(1.0, (GOOD, one), capped=True)) is None


# Also what equals a number, but would be stored as something else, or not at all.
NO_SHARES: list[Any] = [math.nan, math.inf, -math.inf, -0.1, 1.0000001, -5e-324, None, "0.5", np.float32(0.5)]
WRONG: dict[str, Any] = {
    **{f"score {value!r}": replace(GOOD, score=value) for value in NO_SHARES},
    **{
        f"box {value!r}": replace(GOOD, box=(*BOX[:corner], value, *BOX[corner + 1 :]))  # type: ignore[arg-type]
        for corner, value in enumerate([math.nan, math.inf, -math.inf, 1.1e9])
    },
    "box of float32": replace(GOOD, box=(0.0, 0.0, 1.0, np.float32(1))),  # type: ignore[arg-type]
    "box of three": replace(GOOD, box=BOX[:3]),  # type: ignore[arg-type]
    "area -1": replace(GOOD, area=-1),
    "area above the image": replace(GOOD, area=1_000_000),
    "area as a float": replace(GOOD, area=4.0),  # type: ignore[arg-type]
    "area of numpy": replace(GOOD, area=np.int64(4)),  # type: ignore[arg-type]
    "no mask": replace(GOOD, rle=b""),
    "mask as text": replace(GOOD, rle="12"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("one", WRONG.values(), ids=WRONG)
def test_an_instance_that_cannot_be_is_told_with_its_prompt_in_one_line(one: Instance) -> None:
    said = told(Found(0.5, (GOOD, one)))
    assert said is not None
    assert said.startswith("the model gave ")
    assert "for 'cat', not " in said
    assert "\n" not in said


@pytest.mark.parametrize("presence", NO_SHARES)
def test_a_presence_that_is_no_share_is_told(presence: float) -> None:
    assert "as a presence for 'cat', not a number from 0 to 1" in str(told(Found(presence, ())))


def test_each_prompt_has_an_answer() -> None:
    assert told(Found(0.5, ()), prompts=("cat", "dog")) == "the model gave 1 answers to 2 prompts"


def test_only_what_is_no_number_asks_for_more_precision() -> None:
    assert "; try --dtype fp32" in str(told(Found(math.nan, ())))
    assert "--dtype" not in str(told(Found(1.5, ())))


def test_the_largest_coordinate_is_the_databases() -> None:
    assert answers.LARGEST_COORDINATE == LARGEST_COORDINATE


@pytest.mark.parametrize("one", WRONG.values(), ids=WRONG)
def test_such_an_image_fails_alone_and_its_neighbours_are_segmented(
    fake: Any, photograph_files: list[str], monkeypatch: pytest.MonkeyPatch, one: Instance
) -> None:
    real = fake.postprocess

    def second_is_wrong(raw: Any, rows: range, options: Options) -> Any:
        found = real(raw, rows, options)
        found[1] = tuple(replace(prompt, instances=(*prompt.instances, one)) for prompt in found[1])
        return found

    monkeypatch.setattr(fake, "postprocess", second_is_wrong)
    items = [Item(number, path, ("cat",)) for number, path in enumerate(photograph_files)]
    [outcomes] = segment(items, fake, ReadRules(), Options(), Pace(batch_size=4))
    assert [outcome.id for outcome in outcomes if isinstance(outcome, Segmented)] == [0, 2, 3]
    assert isinstance(outcomes[1], Unreadable)
    assert outcomes[1].error_class == ErrorClass.INTERNAL
    assert outcomes[1].message.startswith("the model gave ")


def test_an_instance_without_a_pixel_leaves_with_nothing_of_it_counted(
    fake: Any, photograph_files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fake.postprocess
    blank = Instance(0.95, BOX, 0, encode(np.zeros((1, 1), bool)))

    def with_blanks(raw: Any, rows: range, options: Options) -> Any:
        first, second = real(raw, rows, options)
        return [
            tuple(replace(prompt, instances=(blank, *prompt.instances)) for prompt in first),
            tuple(replace(prompt, instances=(blank,), capped=True) for prompt in second),
        ]

    monkeypatch.setattr(fake, "postprocess", with_blanks)
    items = [Item(number, path, ("cat",)) for number, path in enumerate(photograph_files[:2])]
    [[seen, empty]] = segment(items, fake, ReadRules(), Options(), Pace(batch_size=2))
    assert isinstance(seen, Segmented)
    assert isinstance(empty, Segmented)
    assert [one.area > 0 for one in seen.found[0].instances] == [True]
    assert (empty.found[0].instances, empty.found[0].capped) == ((), True)
