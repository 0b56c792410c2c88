"""Images whose files are equal byte by byte go through a model once, as long as a stream can know that."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from workers.errors import ErrorClass
from workers.inference.items import Item, Outcome, Segmented, Unreadable
from workers.inference.protocol import Options
from workers.inference.reading.images import ReadRules
from workers.inference.stream.pipeline import IN_HAND, NothingGotThrough, Pace, segment
from workers.inference.stream.repeats import Known

RULES = ReadRules(digests=True)
Places = dict[str, list[str]]


@pytest.fixture
def colours(tmp_path: Path) -> Places:
    """For each colour the paths of files that are equal byte by byte."""
    places: Places = {}
    for number, name in enumerate(("white", "grey", "black")):
        Image.new("RGB", (20 + number, 30), name).save(tmp_path / f"{name}-0.png")
        for copy in range(1, 20):
            shutil.copy(tmp_path / f"{name}-0.png", tmp_path / f"{name}-{copy}.png")
        places[name] = [str(tmp_path / f"{name}-{copy}.png") for copy in range(20)]
    return places


class Memory:
    """What was computed before, and what was asked of it."""

    def __init__(self, *known: Segmented) -> None:
        self._known = {one.content: Known(one.width, one.height, one.found, one.warning) for one in known}
        self.asked: list[int] = []

    def __call__(self, contents: Mapping[int, bytes]) -> dict[int, Known]:
        self.asked += contents
        return {id: self._known[content] for id, content in contents.items() if content in self._known}


def items(paths: list[str], *prompts: str) -> list[Item]:
    return [Item(number, path, prompts or ("cat",)) for number, path in enumerate(paths)]


def run(given: list[Item], fake: Any, memory: Memory | None = None, batch_size: int = 4) -> list[Outcome]:
    pace = Pace(batch_size=batch_size, threads=3)
    batches = segment(given, fake, RULES, Options(), pace, memory or Memory())
    return [outcome for batch in batches for outcome in batch]


def alone(item: Item, fake: Any) -> Outcome:
    [[outcome]] = segment([item], fake, RULES, Options())
    return outcome


def test_each_content_is_computed_once_and_each_image_has_its_own_outcome(fake: Any, colours: Places) -> None:
    given = items([path for paths in zip(*colours.values(), strict=True) for path in paths][:29])
    outcomes = run(given, fake)
    assert fake.batches == [3]
    assert outcomes == [alone(item, fake) for item in given]


def test_other_prompts_are_another_content(fake: Any, colours: Places) -> None:
    given = items(colours["white"][:8])
    given = [replace(item, prompts=("cat", "dog") if item.id % 2 else ("cat",)) for item in given]
    outcomes = run(given, fake)
    assert fake.batches == [2]
    assert [len(outcome.found) for outcome in outcomes if isinstance(outcome, Segmented)] == [1, 2] * 4


def test_without_a_memory_nothing_is_hashed_and_all_is_computed(fake: Any, colours: Places) -> None:
    batches = list(segment(items(colours["white"][:4]), fake, ReadRules(), Options(), Pace(batch_size=4)))
    assert fake.batches == [4]
    assert [outcome.content for outcome in batches[0] if isinstance(outcome, Segmented)] == [None] * 4


def test_what_was_computed_before_the_stream_is_not_computed_but_where_it_shall_be(fake: Any, colours: Places) -> None:
    white, grey = items([colours["white"][0], colours["grey"][0]])
    before = alone(white, fake)
    assert isinstance(before, Segmented)
    fake.batches.clear()
    memory = Memory(before)
    first, again, *others = items([*colours["white"][1:6], grey.path])
    outcomes = run([first, replace(again, again=True), *others], fake, memory, batch_size=2)
    assert sum(fake.batches) == 2  # the one that shall be computed, and grey
    assert [outcome == replace(before, id=outcome.id, file=outcome.file) for outcome in outcomes] == [True] * 5 + [
        False
    ]
    assert memory.asked == [first.id, 5], "images of a content that the stream computes are not asked for"


def test_a_content_that_was_met_long_ago_is_asked_for_again(fake: Any, colours: Places, tmp_path: Path) -> None:
    others = []
    for number in range(IN_HAND + 1):
        Image.new("RGB", (40 + number, 30)).save(tmp_path / f"{number}.png")
        others.append(str(tmp_path / f"{number}.png"))
    white = colours["white"]
    memory = Memory()
    outcomes = run(items([white[0], *others[:-1], white[1], others[-1], white[2]]), fake, memory, batch_size=1)
    assert memory.asked == [*range(IN_HAND + 1), IN_HAND + 1, IN_HAND + 2]
    assert len(fake.batches) == IN_HAND + 3
    assert all(isinstance(outcome, Segmented) for outcome in outcomes)


def test_a_copy_of_an_image_that_the_model_cannot_take_fails_as_that_does(fake: Any, colours: Places) -> None:
    fake.fail_in["predict"] = MemoryError()
    given = items([*colours["white"][:3], str(Path(colours["white"][0]).parent / "missing.png")])
    with pytest.raises(NothingGotThrough) as told:
        run(given, fake)
    outcomes = told.value.outcomes
    assert [outcome.id for outcome in outcomes] == [0, 1, 2, 3]
    assert [outcome.error_class for outcome in outcomes if isinstance(outcome, Unreadable)] == [
        *[ErrorClass.OUT_OF_MEMORY] * 3,
        ErrorClass.MISSING,
    ]
    assert len(fake.batches) == 1
