"""The pictures of all runs with their boxes, and what is wrong with a few of them. Knows files, but no run.

Each has a bright rectangle of its own on black, so that an answer which belongs to another picture is seen. One in
twenty is larger than a tile and has a second rectangle far from the first. One in five is a copy of another one.
"""

import csv
import json
import random
from collections.abc import Sequence
from pathlib import Path

from PIL import Image as Picture

from tests.fakes import BREAKS_GPU, KILLS, RAISES
from workers.inference.boxes import Box

IMAGES = 1000  # of each run
NAMES = tuple(f"{row:04}.png" for row in range(1, IMAGES + 1))
# By the picture's name, since an edited CSV moves rows about.
COLOURS = {"0250.png": KILLS, "0707.png": KILLS, "0404.png": BREAKS_GPU, "0606.png": RAISES}
SPECIAL = dict.fromkeys(COLOURS, "crashed") | {
    "0606.png": "internal",
    "0100.png": "truncated",
    "0500.png": "missing",
    "0900.png": "not_an_image",
}
BAD_TILE = "0053.png"  # the model raises for its last tile; as a whole it is like the other large ones
BAD_BOX = "0151.png"  # its box reaches beyond it
TILE, OVERLAP = 64, 16  # pixels
SMALL, LARGE = (32, 24), (150, 90)  # width, height in pixels
BOX_COLUMN = "boxes"
BRIGHT = (250, 250, 250)
COPIES = 3  # pictures that each fifth one is a copy of


def write_images(folder: Path) -> Path:
    """The pictures and the CSV that names them; the path of the CSV."""
    folder.mkdir()
    for number, name in enumerate(NAMES, start=1):
        paint(folder / name, LARGE if is_large(name) else SMALL, number % (5 * COPIES) if number % 5 == 0 else number)
        match SPECIAL.get(name):
            case "truncated":
                (folder / name).write_bytes((folder / name).read_bytes()[:60])
            case "missing":
                (folder / name).unlink()
            case "not_an_image":
                (folder / name).write_text("<html>404</html>")
    table = folder.with_suffix(".csv")  # not in the folder: that is lost now and then
    write_table(table, NAMES)
    return table


def is_large(name: str) -> bool:
    """Whether the picture is larger than a tile."""
    return int(name.removesuffix(".png")) % 20 == 13


def boxes_of(name: str) -> tuple[Box, ...]:
    """The boxes that the CSV gives to a picture: each third one has some."""
    row = int(name.removesuffix(".png"))
    if row % 3 != 1:
        return ()
    edges = (2, 2, 5000 if name == BAD_BOX else 3 + row % 20, 20)
    return (Box(*edges, positive=True), *((Box(5, 5, 9, 9, positive=False),) if row % 2 else ()))


def paint(path: Path, size: tuple[int, int], look: int) -> None:
    """Draw a picture in the place of the old one, in one step: equal bytes for an equal size and look."""
    picture = Picture.new("RGB", size, COLOURS.get(path.name, (0, 0, 0)))
    if path.name not in COLOURS:
        dice = random.Random(look)
        for left in (0, size[0] - SMALL[0]) if is_large(path.name) else (0,):
            x, y = left + dice.randint(1, 12), dice.randint(1, 10)
            picture.paste(BRIGHT, (x, y, x + dice.randint(5, 18), y + dice.randint(5, 12)))
    if path.name == BAD_TILE:
        picture.putpixel((size[0] - TILE, size[1] - TILE), RAISES)
    painted = path.with_suffix(".painted")
    picture.save(painted, format="PNG")
    painted.replace(path)


def repaint(path: Path, dice: random.Random) -> None:
    """Put another picture of another size in the place of the old one."""
    width, height = LARGE if is_large(path.name) else SMALL
    paint(path, (width + dice.randint(1, 30), height + dice.randint(1, 20)), dice.randrange(1 << 30))


def write_table(table: Path, names: Sequence[str]) -> None:
    """Put a CSV with these images in the place of the old one, in one step, as a careful editor saves a file."""
    edited = table.with_suffix(".edited")
    with edited.open("w", newline="") as file:
        csv.writer(file).writerows([("path", BOX_COLUMN), *((name, _cell(boxes_of(name))) for name in names)])
    edited.replace(table)


def _cell(boxes: Sequence[Box]) -> str:
    sides = {
        side: [box[:4] for box in boxes if box.positive == (side == "positive")] for side in ("positive", "negative")
    }
    return json.dumps(sides) if boxes else ""
