import pytest

from workers.inference.tiles import BadTiling, Tiling, View

SIZES = ((4096, 4096), (1025, 700), (5000, 300), (12_000, 10_000), (1024 + 896, 1024), (2048, 1025))


def test_an_image_no_larger_than_a_tile_is_looked_at_as_a_whole() -> None:
    assert Tiling(1024, 128).views(1024, 800) == (View(0, 0, 1024, 800),)


def test_images_up_to_the_limit_are_not_cut_and_larger_ones_are() -> None:
    tiling = Tiling(1024, 128, above=4_000_000)
    assert len(tiling.views(2000, 2000)) == 1
    assert len(tiling.views(2000, 2001)) > 1


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tiling", [Tiling(1024, 128), Tiling(1024, 0), Tiling(600, 300)], ids=str)
def test_tiles_are_whole_squares_that_cover_the_image_and_share_the_overlap(
    size: tuple[int, int], tiling: Tiling
) -> None:
    whole, *tiles = tiling.views(*size)
    assert whole == View(0, 0, *size)
    assert {(tile.width, tile.height) for tile in tiles} == {tuple(min(tiling.side, side) for side in size)}
    for axis, length in enumerate(size):
        starts = sorted({tile.edges[axis] for tile in tiles})
        ends = [start + min(tiling.side, length) for start in starts]
        assert starts[0] == 0
        assert ends[-1] == length
        assert all(end - start >= tiling.overlap for end, start in zip(ends, starts[1:], strict=False))
    assert len(tiles) == len({tile.edges for tile in tiles})


def test_no_tile_is_made_that_could_be_left_out() -> None:
    assert len(Tiling(1024, 128).views(1024 + 896, 1024 + 896)) == 1 + 4


@pytest.mark.parametrize("text", ["1024/128/0", "640/0/16000000"])
def test_a_tiling_is_kept_as_text(text: str) -> None:
    assert str(Tiling.of(text)) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [("1024", "is not side/overlap/above"), ("63/0/0", "at least 64"), ("100/51/0", "must be 0 to 50, not 51")],
)
def test_what_is_no_tiling_is_refused(text: str, said: str) -> None:
    with pytest.raises(BadTiling, match=said):
        Tiling.of(text)


def test_an_overlap_that_nobody_chose_fits_a_small_tile() -> None:
    assert Tiling.chosen("100") == Tiling(100, 50)
    assert Tiling.chosen("256") == Tiling(256, 128)
    assert Tiling.chosen("auto").overlap == 128
