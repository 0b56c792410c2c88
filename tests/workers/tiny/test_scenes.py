"""Scenes: the same seed draws the same picture, and the masks lie on what was drawn."""

import colorsys

import numpy as np
import pytest

from workers.tiny import scenes

SEEDS = range(40)


def test_the_same_seed_draws_the_same_scene() -> None:
    first, second = scenes.scene(3, 17), scenes.scene(3, 17)
    assert np.array_equal(first.image, second.image)
    assert [drawn.mask.sum() for drawn in first.objects] == [drawn.mask.sum() for drawn in second.objects]
    assert not np.array_equal(first.image.mean(), scenes.scene(3, 18).image.mean())


def test_scenes_come_in_many_sizes_and_with_one_to_six_objects() -> None:
    drawn = [scenes.scene(1, number) for number in SEEDS]
    assert len({scene.image.shape for scene in drawn}) > 20
    assert {len(scene.objects) for scene in drawn} == {1, 2, 3, 4, 5, 6}
    assert any(scene.image.shape[0] > scene.image.shape[1] for scene in drawn)
    assert any(scene.image.shape[0] < scene.image.shape[1] for scene in drawn)


def test_each_mask_covers_pixels_of_its_colour_and_no_other_object() -> None:
    for number in SEEDS:
        scene = scenes.scene(2, number)
        stacked = np.array([drawn.mask for drawn in scene.objects])
        assert stacked.sum(axis=0).max() == 1
        for drawn in scene.objects:
            assert drawn.mask.shape == scene.image.shape[:2]
            red, green, blue = np.median(scene.image[drawn.mask], axis=0) / 255
            hue = colorsys.rgb_to_hsv(red, green, blue)[0] * 360
            wanted, spread = scenes.COLOURS[drawn.colour]
            assert abs((hue - wanted + 180) % 360 - 180) < spread + 8


@pytest.mark.parametrize(
    ("shape", "part"), [("circle", 0.72 * np.pi), ("square", 2.0), ("triangle", 1.3), ("star", 1.32)]
)
def test_a_shape_has_the_area_that_geometry_gives_it(shape: str, part: float) -> None:
    rng = np.random.default_rng(0)
    cover = scenes._cover(scenes._outline(rng, shape, scenes._Place(100.0, 100.0, 60.0)), 200, 200)
    assert cover.sum() == pytest.approx(part * 60**2, rel=0.03)


def test_the_truth_of_a_prompt_is_what_it_names() -> None:
    mask = np.ones((2, 2), dtype=bool)
    scene = scenes.Scene(
        np.zeros((2, 2, 3), np.uint8),
        (scenes.Drawn("red", "circle", mask), scenes.Drawn("red", "star", mask), scenes.Drawn("blue", "star", mask)),
    )
    prompts = ("red circle", "star", "red shape", "shape", "green shape", "blue circle")
    assert [len(scene.truth(prompt)) for prompt in prompts] == [1, 2, 2, 3, 0, 0]


def test_about_one_prompt_in_five_names_something_absent() -> None:
    rng = np.random.default_rng(0)
    drawn = [scenes.scene(4, number) for number in range(150)]
    absent = [not scene.truth(prompt) for scene in drawn for prompt in scenes.prompts(scene, rng)]
    assert 0.16 < np.mean(absent) < 0.24
