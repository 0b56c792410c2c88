"""The flags of a run that looks for everything instead of prompts, and the checks of their values. Quick to import."""

from typing import TYPE_CHECKING, Any

import click

from workers.errors import UsageError
from workers.inference.everything import EVERYTHING, MOST_POINTS_PER_SIDE, POINTS_PER_SIDE

if TYPE_CHECKING:
    from db.values import Frozen

EVERYTHING_FLAGS = (
    click.option(
        "--everything",
        is_flag=True,
        help="Look for all things instead of prompts: a mask for each of a grid of points. "
        "Needs a model with a tracker, such as facebook/sam3, or a SAM2.",
    ),
    click.option(
        "--points-per-side",
        type=click.IntRange(1, MOST_POINTS_PER_SIDE),
        metavar="N",
        help=f"Look at N x N points with --everything ({POINTS_PER_SIDE}).",
    ),
)
# Flags that say nothing without a prompt, or that were not made for such runs.
_OF_PROMPTS = ("prompt", "prompt_column", "box_column", "classes", "tile")


def looks_for_everything(flags: dict[str, Any]) -> bool:
    """Whether --everything is given. Raises `UsageError` if its flags do not agree with the others."""
    if not flags["everything"]:
        if flags["points_per_side"] is not None:
            raise UsageError("--points-per-side is that of a grid: give --everything, too")
        return False
    for name in _OF_PROMPTS:
        if flags.get(name):
            flag = f"--{name.replace('_', '-')}"
            why = "which is not made for tiles" if name == "tile" else "which looks for no prompt"
            raise UsageError(f"--everything, {why}: leave {flag} out")
    return True


def chosen_points(flags: dict[str, Any], model: str) -> int | None:
    """The points per side of the grid; None: the run has prompts. Raises `UsageError`."""
    from workers.fleet.weights import TINY

    if not looks_for_everything(flags):
        return None
    if model == TINY:
        raise UsageError(
            "--everything: tiny, the bundled model, has no tracker; give --model facebook/sam3, "
            "or --model facebook/sam2.1-hiera-small, which is open to all"
        )
    return flags["points_per_side"] or POINTS_PER_SIDE


def flags_of_run(frozen: "Frozen", prompts: tuple[str, ...]) -> dict[str, Any]:
    """The flags that give a run these prompts, or everything, for run.yaml."""
    if frozen.looks_for_everything:
        assert prompts == (EVERYTHING,)
        return {"everything": True}
    return {"prompt": list(prompts)}
