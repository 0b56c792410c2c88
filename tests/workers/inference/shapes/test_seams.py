"""Objects that are drawn on a large image, looked at through its tiles by a model that finds exactly what it sees."""

from collections.abc import Sequence

import numpy as np
import pytest

from workers.inference.answers import Found, Instance
from workers.inference.shapes import masks
from workers.inference.shapes.rle import Mask
from workers.inference.shapes.seams import joined
from workers.inference.tiles import Tiling, View

SIZE = (300, 260)  # width, height
TILING = Tiling(100, 30)


def disc(x: int, y: int, radius: int) -> Mask:
    down, across = np.ogrid[: SIZE[1], : SIZE[0]]
    return np.asarray((across - x) ** 2 + (down - y) ** 2 <= radius**2)


def bar(x1: int, y1: int, x2: int, y2: int) -> Mask:
    mask = np.zeros((SIZE[1], SIZE[0]), bool)
    mask[y1:y2, x1:x2] = True
    return mask


def instance(mask: Mask, score: float) -> Instance:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
    return Instance(score, box, int(mask.sum()), masks.encode(mask))


def seen(view: View, objects: Sequence[Mask], least: int = 1) -> Found:
    """What a perfect model finds in a view: the part of each object that has at least so many pixels there."""
    x1, y1, x2, y2 = view.edges
    parts = [one[y1:y2, x1:x2] for one in objects]
    found = [instance(part, 0.5 + part.sum() / 1e6) for part in parts if part.sum() >= least]
    return Found(0.9 if found else 0.1, tuple(found))


def look(objects: Sequence[Mask], whole: Sequence[Mask] = (), least: int = 1) -> Found:
    views = TILING.views(*SIZE)
    answers = [(seen(views[0], whole),), *((seen(view, objects, least),) for view in views[1:])]
    [found] = joined(views, answers)
    return found


def drawn(found: Found) -> set[bytes]:
    return {one.rle for one in found.instances}


def test_an_image_that_is_not_cut_keeps_its_answers() -> None:
    answer = (seen(View(0, 0, *SIZE), [disc(50, 50, 20)]),)
    assert joined([View(0, 0, *SIZE)], [answer]) == answer


def test_every_object_is_found_once_wherever_it_lies() -> None:
    for x in range(30, 280, 11):
        for y in (40, 65, 83, 100, 135, 170):
            one = disc(x, y, 18)
            found = look([one])
            assert drawn(found) == {masks.encode(one)}, (x, y)
            assert found.instances[0].area == one.sum()
            assert found.instances[0].box == instance(one, 0.5).box


def test_many_objects_stay_as_many_as_they_are() -> None:
    objects = [disc(x, y, 9) for x in range(12, 290, 21) for y in range(12, 250, 21)]
    assert drawn(look(objects)) == {masks.encode(one) for one in objects}


def test_neighbours_that_touch_on_a_seam_stay_two() -> None:
    left, right = bar(40, 40, 75, 60), bar(75, 40, 110, 60)
    assert drawn(look([left, right])) == {masks.encode(left), masks.encode(right)}


def test_an_object_longer_than_a_tile_is_put_together_from_its_parts() -> None:
    long = bar(10, 120, 290, 140)
    assert drawn(look([long])) == {masks.encode(long)}


def test_of_a_long_object_the_parts_give_way_to_the_whole_view_if_they_do_not_agree() -> None:
    big = disc(150, 130, 100)
    half = big & (np.arange(SIZE[0]) < 150)  # its other half is found in no tile
    assert drawn(look([half], whole=[big])) == {masks.encode(big)}


def test_of_a_long_object_the_finer_mask_of_the_tiles_stays_if_both_agree() -> None:
    big, coarse = disc(150, 130, 100), disc(150, 130, 98)
    assert drawn(look([big], whole=[coarse])) == {masks.encode(big)}


def test_what_lies_whole_before_a_long_object_stays() -> None:
    big, small = disc(150, 130, 100), disc(50, 50, 12)
    inside = disc(150, 130, 6)
    assert drawn(look([small, inside], whole=[big])) == {masks.encode(one) for one in (big, small, inside)}


def test_of_a_short_object_the_whole_view_adds_only_what_no_tile_has_found() -> None:
    small, coarse, missed = disc(50, 50, 12), disc(51, 51, 13), disc(200, 200, 20)
    assert drawn(look([small], whole=[coarse, missed])) == {masks.encode(small), masks.encode(missed)}


def test_a_sliver_at_an_edge_is_no_object_of_its_own() -> None:
    views = TILING.views(*SIZE)
    one = disc(60, 50, 35)  # whole in the first tile, cut in the second one
    answers = [[seen(view, [one])] for view in views]
    sliver = bar(views[2].x, 45, views[2].x + 4, 55)
    x1, y1, x2, y2 = views[2].edges
    answers[0] = [Found(0.1, ())]
    answers[2] = [Found(0.9, (instance(sliver[y1:y2, x1:x2], 0.6),))]
    [found] = joined(views, [tuple(answer) for answer in answers])
    assert drawn(found) == {masks.encode(one)}


def test_the_best_score_and_presence_count_and_a_full_tile_is_told() -> None:
    views = TILING.views(*SIZE)
    one = disc(85, 50, 14)
    answers = [Found(0.1, ())] + [seen(view, [one]) for view in views[1:]]
    answers[3] = Found(0.95, answers[3].instances, capped=True)
    [found] = joined(views, [(answer,) for answer in answers])
    assert found.presence == 0.95
    assert found.capped
    best = max(each.score for answer in answers for each in answer.instances)
    assert [each.score for each in found.instances] == [best]


@pytest.mark.parametrize("capped", [True, False])
def test_that_the_whole_view_was_full_does_not_count(capped: bool) -> None:
    views = TILING.views(*SIZE)
    answers = [(Found(0.9, (), capped),)] + [(Found(0.1, ()),)] * (len(views) - 1)
    assert not joined(views, answers)[0].capped
