"""A stream that cuts large images, with real files and a segmenter without a model: it finds what is bright."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from workers.errors import ErrorClass
from workers.inference.items import Item, Outcome, Segmented, Unreadable
from workers.inference.protocol import Options, Pixels
from workers.inference.reading.images import RGB, ReadRules, read_image
from workers.inference.shapes import masks
from workers.inference.stream.pipeline import NothingGotThrough, Pace, segment
from workers.inference.tiles import Tiling

TILING = Tiling(100, 20)
SMALL, LARGE = (90, 60), (260, 180)  # width, height; a large image has 1 + 3 x 2 views


def picture(size: tuple[int, int], seed: int) -> RGB:
    """A black image with a bright ellipse somewhere."""
    width, height = size
    x, y = np.random.default_rng(seed).integers((20, 20), (width - 20, height - 20))
    down, across = np.ogrid[:height, :width]
    bright = ((across - x) / 18) ** 2 + ((down - y) / 13) ** 2 <= 1
    return np.repeat(bright[:, :, None] * np.uint8(255), 3, axis=2)


@pytest.fixture
def items(tmp_path: Path) -> list[Item]:
    """Small and large images in turn; the sixth is no image."""
    found = []
    for number in range(10):
        path = tmp_path / f"{number}.png"
        Image.fromarray(picture(SMALL if number % 3 == 2 else LARGE, number)).save(path)
        found.append(Item(number, str(path), ("person", "hat"), TILING))
    Path(found[5].path).write_bytes(b"no image")
    return found


def outcomes(items: list[Item], fake: Any, **how: Any) -> list[Outcome]:
    batches = list(segment(items, fake, ReadRules(), Options(), Pace(**how)))
    assert all(batches)
    return [outcome for batch in batches for outcome in batch]


@pytest.mark.parametrize("batch_size", [1, 3, 8, 64])
@pytest.mark.parametrize("threads", [1, 3])
def test_each_image_has_one_outcome_in_its_own_pixels_whatever_the_batches(
    fake: Any, items: list[Item], batch_size: int, threads: int
) -> None:
    got = outcomes(items, fake, batch_size=batch_size, threads=threads)
    assert [one.id for one in got] == [item.id for item in items]
    for one in got:
        if one.id == 5:
            assert isinstance(one, Unreadable)
            continue
        assert isinstance(one, Segmented)
        expected = picture((one.width, one.height), one.id)[..., 0] > 0
        for found in one.found:
            [instance] = [each for each in found.instances if each.area]
            assert instance.rle == masks.encode(expected)


def test_tiles_of_several_images_share_the_batches(fake: Any, items: list[Item]) -> None:
    outcomes(items, fake, batch_size=8)
    rows = 3 * 1 + 7 * 7 - 1  # the small images, the large ones, without the one that is none
    assert sum(fake.batches) == rows
    assert len(fake.batches) == -(-(rows + 1) // 8)


def test_an_image_is_decoded_once(fake: Any, items: list[Item], monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counted(path: str, *how: Any) -> Any:
        read.append(path)
        return read_image(path, *how)

    monkeypatch.setattr("workers.inference.stream.pieces.read_image", counted)
    outcomes(items, fake)
    assert sorted(read) == [item.path for item in items]


class Held:
    """Counts the pixels that are made for the model and not yet seen by it."""

    def __init__(self, fake: Any) -> None:
        self.now = self.most = 0
        prepare, predict = fake.preprocess, fake.predict

        def preprocess(image: RGB) -> Pixels:
            self.now += 1
            self.most = max(self.most, self.now)
            return prepare(image)  # type: ignore[no-any-return]

        def seen(batch: Any, *how: Any) -> Any:
            self.now -= len(batch)
            return predict(batch, *how)

        fake.preprocess, fake.predict = preprocess, seen


def test_of_a_large_image_only_a_few_tiles_exist_at_a_time(fake: Any, tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.fromarray(np.zeros((1500, 1500, 3), np.uint8)).save(path)  # 19 x 19 tiles
    held = Held(fake)
    outcomes([Item(0, str(path), ("person",), TILING)], fake, batch_size=4, threads=2)
    assert sum(fake.batches) == 1 + 19 * 19
    # A batch that is full, one that is filled, and what is cut ahead.
    assert held.most <= 4 + 4 + 2 * 4 + 2


def test_a_tile_that_does_not_fit_into_memory_makes_its_image_unreadable_alone(
    cramped: Callable[..., Any], items: list[Item]
) -> None:
    got = outcomes(items, cramped(widest=95), batch_size=64)  # the small images, which are in the same batch, fit
    assert {one.id for one in got if isinstance(one, Segmented)} == {2, 8}
    assert {one.error_class for one in got if isinstance(one, Unreadable) and one.id != 5} == {ErrorClass.OUT_OF_MEMORY}


def test_a_device_with_room_for_two_gives_the_same(cramped: Callable[..., Any], fake: Any, items: list[Item]) -> None:
    assert outcomes(items, cramped(forward=2, masks=3), batch_size=8) == outcomes(items, fake, batch_size=8)


def test_an_image_of_which_one_tile_makes_the_model_raise_fails_alone(fake: Any, items: list[Item]) -> None:
    predict, corner = fake.predict, np.asarray(Image.open(items[3].path))[:100, -100:]

    def refusing(batch: Any, *how: Any) -> Any:
        if any(np.array_equal(pixels.data, corner) for pixels in batch):
            raise ValueError("such a corner")
        return predict(batch, *how)

    fake.predict = refusing
    if not corner.any():  # otherwise it is like any other black tile
        Image.fromarray(picture(LARGE, 3) | np.uint8(1)).save(items[3].path)
        corner = corner | np.uint8(1)
    got = outcomes(items, fake, batch_size=3, narrows=lambda error: isinstance(error, ValueError))
    assert [one.id for one in got if isinstance(one, Unreadable)] == [3, 5]
    assert "such a corner" in next(one.message for one in got if one.id == 3 and isinstance(one, Unreadable))


def test_if_no_piece_of_a_batch_gets_through_its_images_are_told_once_each(fake: Any, items: list[Item]) -> None:
    fake.fail_in["predict"] = ValueError("broken")
    stream = segment(items, fake, ReadRules(), Options(), Pace(batch_size=9, narrows=lambda error: True))
    with pytest.raises(NothingGotThrough) as told:
        list(stream)
    assert [one.id for one in told.value.outcomes] == [0, 1]  # seven pieces of the first image, two of the second


def test_images_that_are_not_cut_have_the_same_outcome_as_without_tiles(fake: Any, items: list[Item]) -> None:
    small = [item for item in items if item.id in (2, 5, 8)]
    assert outcomes(small, fake) == outcomes([replace(item, tiling=None) for item in small], fake)


def test_a_large_image_that_was_met_before_is_not_cut_again(fake: Any, items: list[Item]) -> None:
    twice = [replace(item, id=number) for number, item in enumerate([items[0], items[1], items[0], items[2]])]
    batches = segment(twice, fake, ReadRules(digests=True), Options(), Pace(batch_size=4), lambda contents: {})
    got = [outcome for batch in batches for outcome in batch]
    assert sum(fake.batches) == 7 + 7 + 1
    assert isinstance(got[2], Segmented)
    assert got[2] == replace(got[0], id=2, file=got[2].file)


def test_an_image_that_is_cut_may_be_as_large_as_memory_allows_and_no_larger(
    fake: Any, items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = ReadRules(max_pixels=LARGE[0] * LARGE[1] - 1)

    def got(item: Item) -> Outcome:
        [[outcome]] = segment([item], fake, strict, Options(), Pace(threads=2))
        return outcome

    assert isinstance(got(items[0]), Segmented)
    whole = got(replace(items[0], tiling=None))
    monkeypatch.setattr("workers.inference.reading.rules.usable_memory", lambda: 2 * 2 * 10 * 1000)
    small = got(items[0])
    for outcome in (whole, small):
        assert isinstance(outcome, Unreadable)
        assert outcome.error_class == ErrorClass.TOO_LARGE
        assert outcome.message == "260 x 180 pixels, over the limit of 46,799"
