"""Draws pictures of coloured shapes together with their true masks. Knows numpy and Pillow, but no model.

A scene depends on its random generator only, so scene 17 of seed 5 is the same picture everywhere.
"""

import colorsys
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Floats = NDArray[np.float32]

SHAPES = ("circle", "square", "triangle", "star")
# Hue in degrees, and how far it may vary: enough to look painted, but not so far that two colours are confused.
COLOURS = {"red": (0, 10), "yellow": (52, 7), "green": (125, 20), "blue": (222, 16)}
ASPECTS = (1.0, 1.0, 5 / 4, 4 / 3, 3 / 2, 16 / 9)
MOST_OBJECTS = 6
SMALLEST, LARGEST = 0.12, 0.27  # radius of the circle around an object, as part of the image's short side
# Share of prompts that name an absent object, where that is possible. Over all kinds of prompts it makes one in five.
ABSENT = 0.31
SUPERSAMPLING = 3


@dataclass(frozen=True)
class Drawn:
    """One object of a scene; `mask` (height, width) is what can be seen of it."""

    colour: str
    shape: str
    mask: Mask


@dataclass(frozen=True)
class Scene:
    """A picture, RGB (height, width, 3), and everything drawn in it, back to front."""

    image: Pixels
    objects: tuple[Drawn, ...]

    def truth(self, prompt: str) -> list[Mask]:
        """Return the masks that `prompt` names: "red circle", "circle", "red shape" or "shape"."""
        *colour, shape = prompt.split()
        return [
            drawn.mask
            for drawn in self.objects
            if (not colour or drawn.colour == colour[0]) and shape in ("shape", drawn.shape)
        ]


@dataclass(frozen=True)
class Member:
    """One object of a crowd: `mask` (height, width) is what is seen of it, from the pixel (x, y) of the picture on."""

    name: str  # such as "red circle"
    x: int
    y: int
    mask: Mask


@dataclass(frozen=True)
class Crowd:
    """A large picture, RGB (height, width, 3), and everything drawn in it. No object covers another one."""

    image: Pixels
    members: tuple[Member, ...]


@dataclass(frozen=True)
class _Place:
    """Where an object goes, in pixels."""

    x: float
    y: float
    radius: float


def scene(seed: int, number: int, short_side: tuple[int, int] = (112, 256)) -> Scene:
    """Draw scene `number` of the endless series `seed`; `short_side` bounds its smaller side in pixels."""
    return draw_scene(np.random.default_rng([seed, number]), short_side)


def draw_scene(rng: np.random.Generator, short_side: tuple[int, int] = (112, 256)) -> Scene:
    """Draw one to six shapes that hardly overlap over a background, and light and noise over all of it."""
    height, width = _size(rng, short_side)
    canvas = _background(rng, height, width)
    objects: list[Drawn] = []
    for place in _places(rng, height, width):
        colour, shape = str(rng.choice(list(COLOURS))), str(rng.choice(SHAPES))
        cover = _cover(_outline(rng, shape, place), height, width)
        canvas += cover[..., None] * (_paint(rng, colour, height, width) - canvas)
        mask = cover >= 0.5
        objects = [Drawn(o.colour, o.shape, o.mask & ~mask) for o in objects]
        objects.append(Drawn(colour, shape, mask))
    canvas *= _light(rng, height, width, 0.25)[..., None]
    canvas += rng.standard_normal(canvas.shape, dtype=np.float32) * rng.uniform(0, 0.04)
    return Scene((canvas.clip(0, 1) * 255).astype(np.uint8), tuple(objects))


def draw_crowd(seed: int, side: int = 4096, columns: int = 20) -> Crowd:
    """Draw a square picture of so many pixels a side, with columns x columns objects at uneven distances."""
    rng = np.random.default_rng(seed)
    cell = side // columns
    canvas = _background(rng, side, side)
    members = []
    for left, top in product(range(0, columns * cell, cell), repeat=2):
        colour, shape = str(rng.choice(list(COLOURS))), str(rng.choice(SHAPES))
        radius = cell * rng.uniform(0.3, 0.42)
        x, y = (float(rng.uniform(radius, cell - radius)) for _ in range(2))
        cover = _cover(_outline(rng, shape, _Place(x, y, radius)), cell, cell)
        patch = canvas[top : top + cell, left : left + cell]
        patch += cover[..., None] * (_paint(rng, colour, cell, cell) - patch)
        members.append(Member(f"{colour} {shape}", left, top, cover >= 0.5))
    canvas += rng.standard_normal(canvas.shape, dtype=np.float32) * np.float32(0.02)
    return Crowd((canvas.clip(0, 1) * 255).astype(np.uint8), tuple(members))


def prompts(scene: Scene, rng: np.random.Generator) -> list[str]:
    """Return one prompt of each kind for the scene; about one in five of all names nothing in it."""
    pairs = {f"{colour} {shape}" for colour in COLOURS for shape in SHAPES}
    colours = {f"{colour} shape" for colour in COLOURS}
    return [_choose(scene, rng, kind) for kind in (sorted(pairs), list(SHAPES), sorted(colours))] + ["shape"]


def _choose(scene: Scene, rng: np.random.Generator, kind: list[str]) -> str:
    absent = [prompt for prompt in kind if not scene.truth(prompt)]
    present = [prompt for prompt in kind if scene.truth(prompt)]
    return str(rng.choice(absent if absent and rng.random() < ABSENT else present))


def _size(rng: np.random.Generator, short_side: tuple[int, int]) -> tuple[int, int]:
    short = int(rng.integers(short_side[0], short_side[1] + 1))
    long = round(short * float(rng.choice(ASPECTS)))
    return (short, long) if rng.random() < 0.6 else (long, short)


def _places(rng: np.random.Generator, height: int, width: int) -> list[_Place]:
    """Return one to six places; the first always fits, later ones are left out when there is no room."""
    wanted = int(rng.integers(1, MOST_OBJECTS + 1))
    short = min(height, width)
    places: list[_Place] = []
    for _ in range(wanted * 12):
        radius = short * rng.uniform(SMALLEST, LARGEST)
        margin = radius * 0.85
        place = _Place(rng.uniform(margin, width - margin), rng.uniform(margin, height - margin), radius)
        if all(np.hypot(place.x - p.x, place.y - p.y) > 0.9 * (radius + p.radius) for p in places):
            places.append(place)
        if len(places) == wanted:
            break
    return places


def _outline(rng: np.random.Generator, shape: str, place: _Place) -> list[tuple[float, float]]:
    """Return the polygon of a shape, turned at random around its place."""
    corners = {"circle": 40, "square": 4, "triangle": 3, "star": 10}[shape]
    angles = rng.uniform(0, 2 * np.pi) + np.arange(corners) * 2 * np.pi / corners
    radii = np.full(corners, place.radius)
    if shape == "star":
        radii[1::2] *= 0.45
    if shape == "circle":
        radii *= 0.85  # so that circles look as large as the other shapes
    points = np.stack([place.x + radii * np.cos(angles), place.y + radii * np.sin(angles)], axis=1)
    return [(float(x), float(y)) for x, y in points]


def _cover(outline: list[tuple[float, float]], height: int, width: int) -> Floats:
    """Return which part of each pixel the polygon covers, (height, width) in [0, 1]."""
    large = Image.new("L", (width * SUPERSAMPLING, height * SUPERSAMPLING))
    ImageDraw.Draw(large).polygon([(x * SUPERSAMPLING, y * SUPERSAMPLING) for x, y in outline], fill=255)
    return np.asarray(large.reduce(SUPERSAMPLING), dtype=np.float32) / np.float32(255)


def _paint(rng: np.random.Generator, colour: str, height: int, width: int) -> Floats:
    hue, spread = COLOURS[colour]
    turn = ((hue + rng.uniform(-spread, spread)) % 360) / 360
    rgb = colorsys.hsv_to_rgb(turn, rng.uniform(0.7, 1.0), rng.uniform(0.65, 1.0))
    return np.asarray(np.array(rgb) * _light(rng, height, width, 0.2)[..., None], dtype=np.float32)


def _light(rng: np.random.Generator, height: int, width: int, strength: float) -> Floats:
    """Return a gain around 1 that changes evenly over the picture in a random direction."""
    angle, change = rng.uniform(0, 2 * np.pi), rng.uniform(0, strength)
    y, x = _axes(height, width)
    return np.asarray(1 + change * (np.cos(angle) * x + np.sin(angle) * y), dtype=np.float32)


def _axes(height: int, width: int) -> tuple[Floats, Floats]:
    """Return coordinates from -1 to 1 as a column and a row."""
    return np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)


def _background(rng: np.random.Generator, height: int, width: int) -> Floats:
    """Return two muted colours blended by a gradient, stripes, checks or clouds, (height, width, 3)."""
    first, second = _muted(rng), _muted(rng)
    y, x = _axes(height, width)
    blend: NDArray[np.floating[Any]]
    kind = rng.integers(4)
    if kind == 0:
        blend = (_light(rng, height, width, 1.0) - 1) * 0.35 + 0.5
    elif kind == 1:
        angle = rng.uniform(0, np.pi)
        blend = np.sin((np.cos(angle) * x + np.sin(angle) * y) * rng.uniform(4, 30)) * 0.5 + 0.5
    elif kind == 2:
        step = rng.uniform(0.15, 0.6)
        blend = (np.floor(x / step) + np.floor(y / step)) % 2
    else:
        grid = rng.integers(3, 12)
        clouds = Image.fromarray(rng.integers(0, 256, (grid, grid), dtype=np.uint8))
        blend = np.asarray(clouds.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    return np.asarray(first + blend[..., None] * (second - first), dtype=np.float32)


def _muted(rng: np.random.Generator) -> Floats:
    rgb = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0, 0.35), rng.uniform(0.1, 0.95))
    return np.array(rgb, dtype=np.float32)
