"""The flags that say how large images are cut into tiles, and the checks of their values. Quick to import."""

from typing import Any

import click

from workers.cli.base import flag_group
from workers.errors import UsageError
from workers.inference.tiles import AUTO_ABOVE, DEFAULT_OVERLAP, BadTiling, Tiling


class TileSide(click.ParamType[str]):
    """The side of a tile in pixels, or auto."""

    name = "tile"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            Tiling.chosen(f"{value}", overlap=0)
        except BadTiling as error:
            self.fail(f"{error}", param, ctx)
        return f"{value}"


TILE_FLAGS = (
    click.option(
        "--tile",
        type=TileSide(),
        metavar="auto|PX",
        help="Cut images larger than PX x PX pixels into such tiles, which find small objects in large images and "
        f"cost a pass each; auto cuts images of over {AUTO_ABOVE // 1_000_000} megapixels.",
    ),
    click.option(
        "--overlap",
        type=click.IntRange(min=0),
        metavar="PX",
        help=f"Pixels that neighbouring tiles share ({DEFAULT_OVERLAP}, or half of a tile if that is less).",
    ),
)
tile_flags = flag_group(*TILE_FLAGS)


def chosen_tiling(flags: dict[str, Any]) -> Tiling | None:
    """The value of --tile and --overlap. Raises `UsageError`."""
    if flags["tile"] is None:
        if flags["overlap"] is not None:
            raise UsageError("--overlap is that of tiles: give --tile, too")
        return None
    try:
        return Tiling.chosen(flags["tile"], flags["overlap"])
    except BadTiling as error:
        raise UsageError(f"--overlap: {error}") from None
