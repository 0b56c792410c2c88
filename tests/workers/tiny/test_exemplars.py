"""Questions by boxes: which objects are the answer."""

import numpy as np
import pytest

from workers.tiny import exemplars, scenes


def scene(*objects: str) -> scenes.Scene:
    """A picture of 100 x 50 pixels with objects such as "red circle", each in a square of its own."""
    drawn = []
    for number, name in enumerate(objects):
        mask = np.zeros((50, 100), dtype=bool)
        mask[10:20, 20 * number : 20 * number + 10] = True
        colour, shape = name.split()
        drawn.append(scenes.Drawn(colour, shape, mask))
    return scenes.Scene(np.zeros((50, 100, 3), dtype=np.uint8), tuple(drawn))


def columns(masks: list[scenes.Mask]) -> list[int]:
    return [int(np.flatnonzero(mask.any(axis=0))[0]) for mask in masks]


SHAPES = {0: "circle", 20: "square", 40: "circle"}  # by their left side
PICTURE = scene("red circle", "red square", "blue circle")


@pytest.mark.parametrize("number", range(8))
def test_positive_boxes_ask_for_all_objects_of_their_shape_whatever_the_colour(number: int) -> None:
    question = exemplars.by_box(PICTURE, np.random.default_rng(number))
    wanted = {shown(box) for box in question.boxes if box.positive}
    unwanted = {shown(box) for box in question.boxes if not box.positive}
    assert question.text == "visual"
    assert len(wanted) == 1
    assert not wanted & unwanted
    assert columns(question.truth) == [left for left, shape in SHAPES.items() if shape in wanted]


def shown(box: exemplars.Box) -> str:
    """The shape that a box is around."""
    return SHAPES[round(box.corners(100, 50)[0] / 20) * 20]


@pytest.mark.parametrize("number", range(8))
def test_a_negative_box_takes_its_shape_away_from_what_the_text_names(number: int) -> None:
    question = exemplars.without_box(PICTURE, np.random.default_rng(number))
    [box] = question.boxes
    assert not box.positive
    named = {"shape": (0, 20, 40), "red shape": (0, 20), "blue shape": (40,)}[question.text]
    assert columns(question.truth) == [left for left in named if SHAPES[left] != shown(box)]


def test_an_object_that_is_wholly_covered_is_neither_shown_nor_wanted() -> None:
    hidden = scenes.Drawn("green", "star", np.zeros((50, 100), dtype=bool))
    picture = scenes.Scene(PICTURE.image, (hidden, *scene("red circle").objects))
    for number in range(8):
        rng = np.random.default_rng(number)
        assert len(exemplars.by_box(picture, rng).truth) == 1
        assert exemplars.without_box(picture, rng).truth == []


def test_a_box_has_the_same_corners_in_pixels() -> None:
    box = exemplars.tight(PICTURE.objects[1].mask)
    assert box.corners(100, 50) == pytest.approx([20, 10, 30, 20])
    assert box.corners(200, 50) == pytest.approx([40, 10, 60, 20])
