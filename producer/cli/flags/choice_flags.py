"""The flags that choose which instances count, and the choice that they make. Quick to import, as --help needs it."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from producer.cli.flags.param_types import Phrase, Share
from workers.cli.base import flag_group
from workers.errors import UsageError

if TYPE_CHECKING:
    from db.views.run_views import RunView
    from producer.results.choice import Choice

Thresholds = dict[str | None, float]  # by class; None: all other classes

OTHERS = ("min_area", "nms", "contain", "nms_across", "iou", "max_instances")  # fields of a choice, and flags
# The flags that say which instances count, except their thresholds.
choice_flags = flag_group(
    click.option(
        "--min-area", type=click.IntRange(min=0), default=0, help="Only instances with so many pixels, or more."
    ),
    click.option(
        "--nms",
        type=Share(),
        metavar="IOU",
        help="Leave out an instance whose IoU with a better one of its class is higher.",
    ),
    click.option(
        "--contain",
        type=Share(),
        metavar="SHARE",
        help="Of two instances of a class, one of which lies in the other by so much, leave out the worse one.",
    ),
    click.option("--nms-across", is_flag=True, help="Let --nms and --contain compare instances of all classes."),
    click.option(
        "--iou",
        type=click.Choice(["mask", "box"]),
        default="mask",
        show_default=True,
        help="What --nms and --contain compare.",
    ),
    click.option(
        "--max-instances",
        type=click.IntRange(min=1),
        help="At most so many instances for each image and class, those with the highest scores.",
    ),
)


class Threshold(Phrase):
    """Thresholds that are written like `0.5`, `person=0.7` or `0.5,person=0.7`."""

    name = "threshold"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from producer.results.choice import read_thresholds

        text = str(value) if isinstance(value, int | float) else super().convert(value, param, ctx)
        try:
            read_thresholds(text)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return text


def choice(view: "RunView", thresholds: Iterable[str], flags: dict[str, Any], named: str = "--threshold") -> "Choice":
    """The choice that these thresholds and flags make. `named` is the flag of the thresholds.

    Raises `UsageError`, for instance for a threshold below the run's score floor.
    """
    from producer.results.choice import Choice, read_thresholds

    together: Thresholds = {}
    for text in thresholds:
        for name, least in read_thresholds(text).items():
            if together.setdefault(name, least) != least:
                raise UsageError(f"{named} {text}: two thresholds for {name or 'all classes'}; give one")
    try:
        return Choice.made(view, together, **{name: flags[name] for name in OTHERS})
    except ValueError as error:
        setting, told = re.split(r"(?=[ :])", str(error), maxsplit=1)
        flag = named if setting == "threshold" else "--" + setting.replace("_", "-")
        raise UsageError(f"{flag}{told}") from None
