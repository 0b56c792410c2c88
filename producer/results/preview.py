"""Chooses up to 25 images of a run, and draws a contact sheet of them: one JPEG. Knows no Celery.

`producer.results.overlay` draws the masks.
"""

import io
import math
import os
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from sqlalchemy.orm import Session

from db.session import Sessions, read
from db.states import ImageState
from db.views.results import ExportedImage, some_images
from db.views.rows import sample_rows
from db.views.run_views import RunView
from producer.results.choice import Choice, Chooser
from producer.results.files.marks import JPEG_COMMENT
from producer.results.files.targets import Targets
from producer.results.overlay import Colour, class_colour, overlay
from producer.results.reading import read_within, rules_of_exports
from workers.places import location

COLUMNS = 5
TILES = COLUMNS * COLUMNS
# How many tiles each kind gets first. Tiles that a kind cannot fill are then given to the other kinds, one at a time.
SHARES = {"most instances": 5, "lowest score": 5, "empty": 4, "failed": 3, "random": 8}
RANDOM_ROWS = 60  # more than are shown, as some of them are pending, duplicates or chosen already
SHOWN = (ImageState.DONE, ImageState.FAILED)

SHEET_WIDTH = 1920
WIDEST_TILE = 960
GAP = 10
STRIP = 52  # height of the caption under a picture, in pixels
HEADER = 58
JPEG_QUALITY = 88

SHEET, TILE, BACK = (23, 24, 28), (37, 39, 45), (14, 15, 17)
BRIGHT, DIM = (240, 241, 244), (160, 164, 174)
KIND_COLOURS = {
    "most instances": (110, 190, 255),
    "lowest score": (255, 190, 90),
    "empty": (175, 180, 190),
    "failed": (255, 120, 120),
    "random": (130, 220, 160),
}
# Pillow's own font has ASCII letters only. For other texts the first of these fonts that the system has is used.
WIDE_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "Arial.ttf")
OWN_SIGNS = str.maketrans("", "", "…·")  # removes two signs that Pillow's own font has as well


@dataclass(frozen=True)
class Tile:
    """One image of the sheet, and why it was chosen: a key of `SHARES`."""

    image: ExportedImage
    kind: str


@dataclass(frozen=True)
class Layout:
    """Sizes and positions of the tiles, in pixels."""

    columns: int
    rows: int
    width: int  # of the picture of a tile, without its caption
    height: int

    @property
    def size(self) -> tuple[int, int]:
        across = GAP + self.columns * (self.width + GAP)
        return across, HEADER + self.rows * (self.height + STRIP + GAP)

    def corner(self, index: int) -> tuple[int, int]:
        row, column = divmod(index, self.columns)
        return GAP + column * (self.width + GAP), HEADER + row * (self.height + STRIP + GAP)


def write_preview(
    view: RunView, sessions: Sessions, out: Path, targets: Targets | None = None, *, seed: int = 0
) -> int:
    """Write the sheet as a JPEG and return how many images it shows; if there are none, no file is written.

    It shows instances with at least the run's threshold. An image that cannot be opened any more becomes a grey tile,
    never an error. The same run and seed give the same sheet. Raises `UsageError` when `out` cannot be written.
    """
    tiles = read(sessions, lambda session: choose(view, session, seed))
    if not tiles:
        return 0
    sheet = draw_sheet(view, tiles)
    with (targets or Targets(out)).replacing(out) as temporary:
        temporary.write_bytes(sheet)
    return len(tiles)


def draw_sheet(view: RunView, tiles: Sequence[Tile]) -> bytes:
    """Draw the tiles as one JPEG. Reads the files of the images."""
    layout = _layout(len(tiles))
    sheet = Image.new("RGB", layout.size, SHEET)
    _draw_header(sheet, view, len(tiles))
    for index, tile in enumerate(tiles):
        _draw_tile(sheet, layout, layout.corner(index), view, tile)
    file = io.BytesIO()
    comment = JPEG_COMMENT + view.name.encode()
    sheet.save(file, format="JPEG", quality=JPEG_QUALITY, subsampling=0, comment=comment)
    return file.getvalue()


def choose(view: RunView, session: Session, seed: int = 0) -> list[Tile]:
    """Choose up to 25 different images, grouped by why they were chosen. `seed` chooses the random ones."""
    candidates = sample_rows(session, view.id)
    numbers = range(1, view.images + 1)
    candidates["random"] = random.Random(seed).sample(numbers, min(RANDOM_ROWS, len(numbers)))
    choose = Chooser(view, Choice.of_run(view))
    rows = {row for kind in candidates.values() for row in kind}
    images = {
        image.row: image
        for image in some_images(session, view.id, choose.least_score, sorted(rows), choose)
        if image.state in SHOWN
    }
    left = {kind: [row for row in candidates[kind] if row in images] for kind in SHARES}
    chosen: dict[int, str] = {}
    for kind, share in SHARES.items():
        _take(chosen, left[kind], kind, share)
    while len(chosen) < TILES and any(left.values()):
        for kind in reversed(SHARES):
            _take(chosen, left[kind], kind, min(1, TILES - len(chosen)))
    order = list(SHARES)
    return [Tile(images[row], kind) for row, kind in sorted(chosen.items(), key=lambda item: order.index(item[1]))]


def _take(chosen: dict[int, str], rows: list[int], kind: str, count: int) -> None:
    """Move up to `count` rows that are not chosen yet from `rows` to `chosen`."""
    while rows and count:
        row = rows.pop(0)
        if row not in chosen:
            chosen[row] = kind
            count -= 1


def _layout(tiles: int) -> Layout:
    columns = min(COLUMNS, max(min(tiles, 3), math.ceil(math.sqrt(tiles))))
    width = min(WIDEST_TILE, (SHEET_WIDTH - GAP) // columns - GAP)
    return Layout(columns, math.ceil(tiles / columns), width, width * 3 // 4)


def _draw_header(sheet: Image.Image, view: RunView, tiles: int) -> None:
    draw = ImageDraw.Draw(sheet)
    name = _fitted(view.name, 24, sheet.width // 3)
    draw.text((GAP + 2, HEADER // 2), name, BRIGHT, _font(name, 24), anchor="lm")
    x = GAP + 2 + _width(name, 24) + 18
    shown = f"{tiles} of {view.images:,} images" if view.images > 1 else "1 image"
    about = _fitted(f"{shown} · score from {view.frozen.threshold:g} · {view.frozen.model}", 16, sheet.width - x - GAP)
    draw.text((x, HEADER // 2 + 2), about, DIM, _font(about, 16), anchor="lm")
    _draw_legend(draw, view, x + _width(about, 16) + 24, sheet.width - GAP)


def _draw_legend(draw: ImageDraw.ImageDraw, view: RunView, start: int, end: int) -> None:
    """The classes with their colours, right-aligned, as many as there is room for."""
    entries: list[tuple[str, Colour]] = []
    room = end - start
    for class_id, one in view.classes.items():
        label = _fitted(one.name, 16, 260)
        room -= _width(label, 16) + 40
        if room < 0:
            break
        entries.append((label, class_colour(view, class_id)))
    x, middle = end, HEADER // 2
    for label, colour in reversed(entries):
        x -= _width(label, 16)
        draw.text((x, middle + 2), label, BRIGHT, _font(label, 16), anchor="lm")
        x -= 22
        if len(view.classes) > 1:
            draw.rounded_rectangle((x, middle - 6, x + 14, middle + 8), 4, fill=colour)
        x -= 18


def _draw_tile(sheet: Image.Image, layout: Layout, corner: tuple[int, int], view: RunView, tile: Tile) -> None:
    x, y = corner
    draw = ImageDraw.Draw(sheet)
    draw.rounded_rectangle((x, y, x + layout.width - 1, y + layout.height + STRIP - 1), 6, fill=TILE)
    picture = _picture(view, tile, (layout.width, layout.height))
    if isinstance(picture, str):
        draw.rectangle((x, y, x + layout.width - 1, y + layout.height - 1), fill=(78, 80, 87))
        centre = (x + layout.width // 2, y + layout.height // 2)
        label = _fitted(picture, 20, layout.width - 24)
        draw.text(centre, label, BRIGHT, _font(label, 20), anchor="mm")
    else:
        draw.rectangle((x, y, x + layout.width - 1, y + layout.height - 1), fill=BACK)
        offset = ((layout.width - picture.width) // 2, (layout.height - picture.height) // 2)
        sheet.paste(picture, (x + offset[0], y + offset[1]))
    _draw_caption(draw, view, tile, (x + 10, y + layout.height), layout.width - 20)


def _draw_caption(draw: ImageDraw.ImageDraw, view: RunView, tile: Tile, corner: tuple[int, int], width: int) -> None:
    """File name and reason on the first line, what was found on the second."""
    x, y = corner
    kind_width = _width(tile.kind, 14)
    draw.text((x + width, y + 17), tile.kind, KIND_COLOURS[tile.kind], _font(tile.kind, 14), anchor="rm")
    name = _fitted(os.path.basename(tile.image.path) or tile.image.path, 17, width - kind_width - 12)
    draw.text((x, y + 17), name, BRIGHT, _font(name, 17), anchor="lm")
    found = _fitted(told_found(view, tile.image), 14, width)
    draw.text((x, y + 38), found, DIM, _font(found, 14), anchor="lm")


def told_found(view: RunView, image: ExportedImage) -> str:
    """What was found, such as `190 person (capped) · 1 hat · best 0.91`, or why the image failed."""
    if image.state != ImageState.DONE:
        return " ".join((image.error or image.error_class or "").split())
    counts = Counter({view.classes[result.class_id].name: len(result.instances) for result in image.results})
    scores = [instance.score for result in image.results for instance in result.instances]
    if not scores:
        presence = max((result.presence for result in image.results), default=0.0)
        return f"nothing found · presence {presence:.2f}"
    best = f"best {max(scores):.2f}" if len(scores) > 1 else f"score {scores[0]:.2f}"
    capped = {view.classes[result.class_id].name for result in image.results if result.capped}
    told = [f"{count} {text}{' (capped)' * (text in capped)}" for text, count in counts.items() if count]
    return " · ".join([*told, best])


def _picture(view: RunView, tile: Tile, room: tuple[int, int]) -> Image.Image | str:
    """The image with its masks, fitted into `room` (width, height), or a text to show instead."""
    if tile.image.state != ImageState.DONE:
        return tile.image.error_class or tile.image.state
    try:
        picture = read_within(location.place(view.source.root, tile.image.path), rules_of_exports(view), room)
    except Exception:  # decoders raise errors of any kind, and a preview must not end the command
        return "cannot be opened any more"
    return overlay(picture, view, tile.image)


def _fitted(text: str, size: int, width: int) -> str:
    """Put `text` on one line of at most `width` pixels; if it is too long, its middle is replaced by `…`."""
    text = " ".join(text.split())[:300]
    short, keep = text, len(text)
    while keep > 2 and _width(short, size) > width:
        keep -= 1
        short = f"{text[: (keep + 1) // 2]}…{text[len(text) - keep // 2 :]}"
    return short


def _width(text: str, size: int) -> int:
    return math.ceil(_font(text, size).getlength(text))


def _font(text: str, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return _load_font(text.translate(OWN_SIGNS).isascii(), size)


@lru_cache
def _load_font(plain: bool, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    for name in () if plain else WIDE_FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)
