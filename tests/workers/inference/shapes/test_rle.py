"""Run lengths are those of pycocotools, which nothing here needs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.inference.shapes.masks import encode
from workers.inference.shapes.rle import run_lengths

SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 12))


@given(st.data())
def test_runs_are_those_of_the_pixels_down_the_columns(data: st.DataObject) -> None:
    height, width = data.draw(SHAPES)
    flat = np.array(data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width)))
    runs = list(run_lengths(encode(flat.reshape(width, height).T)))
    inside = np.arange(len(runs)) % 2 == 1
    assert np.repeat(inside, runs).tolist() == flat.tolist()


@pytest.mark.parametrize("long", [15, 16, 1000, 40_000])
def test_a_run_may_take_several_bytes(long: int) -> None:
    column = np.ones((long + 3, 1), np.uint8)
    column[:2] = column[-1:] = 0
    assert list(run_lengths(encode(column))) == [2, long, 1]
