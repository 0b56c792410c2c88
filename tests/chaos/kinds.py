"""How the runs of chaos differ: by model, tiles, boxes and `--dedupe`. Knows flags, but no files and no database."""

from dataclasses import dataclass

from tests.chaos.models import FRAMES, SHAPES
from tests.chaos.pictures import BOX_COLUMN, OVERLAP, TILE
from workers.inference.tiles import Tiling

PROMPT = "person"
PROMPTS = (PROMPT, "hat", "cup")  # all but the first are added to runs that go on
TILES = Tiling(TILE, OVERLAP)
TILE_FLAGS = ("--tile", str(TILE), "--overlap", str(OVERLAP))


@dataclass(frozen=True)
class Kind:
    """The settings that a run's results depend on."""

    model: str
    tiling: Tiling | None = None
    dedupe: bool = False
    boxes: bool = False

    @property
    def flags(self) -> tuple[str, ...]:
        """What sam3-enqueue is told of them, beside the prompts."""
        tiles = TILE_FLAGS if self.tiling else ()
        boxes = ("--box-column", BOX_COLUMN) if self.boxes else ()
        dedupe = ("--dedupe",) if self.dedupe else ()
        return ("--model", self.model, *tiles, *boxes, *dedupe)


KINDS = (
    Kind(SHAPES),
    Kind(SHAPES, TILES),
    Kind(FRAMES, dedupe=True, boxes=True),
    Kind(FRAMES, TILES, dedupe=True),
)


def kind_of(name: str) -> Kind:
    """That of the run with this name, such as `run3`."""
    return KINDS[(int(name.removeprefix("run")) - 1) % len(KINDS)]
