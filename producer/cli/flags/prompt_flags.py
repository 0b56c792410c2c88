"""The flags that change the prompts of a run that was recorded before, and what is said of it. Quick to import."""

from typing import TYPE_CHECKING

import click

from producer.cli.flags.param_types import Phrase

if TYPE_CHECKING:
    from producer.runs.load import Recorded
    from producer.runs.request import RunRequest

PROMPT_FLAGS = (
    click.option(
        "--add-prompt",
        type=Phrase(),
        multiple=True,
        help="Look for this, too, in images of a run that was recorded before; its results stay; repeatable.",
    ),
    click.option(
        "--drop-prompt",
        type=Phrase(),
        multiple=True,
        help="Leave a prompt of a run out from now on; added again, it has its results again; repeatable.",
    ),
)


def tell_cost(url: str, request: "RunRequest", price: float | None) -> None:
    """Say what the prompts to be added cost, before anything is changed."""
    from producer.cli.projection import projected_addition
    from workers.cli.base import say

    if request.change.add and (told := projected_addition(url, request, price).told):
        say(told)


def tell_change(recorded: "Recorded", request: "RunRequest") -> None:
    """Say what became of the prompts."""
    from workers.cli.base import counted, say

    change = request.change
    if recorded.changed:
        parts = [f"has {', '.join(change.add)} now"] if change.add else []
        parts += [f"has {', '.join(change.drop)} no longer"] if change.drop else []
        say(f"run {request.name} {' and '.join(parts)}")
    elif change:
        so = "has these prompts already" if change.add else f"is without {', '.join(change.drop)} already"
        say(f"run {request.name} {so}")
    if recorded.adding:
        say(f"{counted(recorded.adding, 'image')} to compute for prompts that were added")
