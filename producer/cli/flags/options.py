"""The flags that several commands share, and the checks of their values. Does no work itself.

It must be quick to import, as --help needs the flags and nothing else.
"""

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from producer.cli.flags.everything_flags import EVERYTHING_FLAGS, chosen_points, looks_for_everything
from producer.cli.flags.param_types import NEVER, ImageRoot, PartOfFleet, Phrase, Rule, Share, SourcePlace
from producer.cli.flags.prompt_flags import PROMPT_FLAGS
from producer.cli.flags.tile_flags import TILE_FLAGS, chosen_tiling
from producer.slugs import LONGEST_RUN, run_slug
from producer.sources import place
from producer.sources.rows.cells import escaped, read_prompt
from workers.cli.base import flag_group, say
from workers.cli.commands import image_hosts_flag
from workers.errors import UsageError
from workers.inference import everything

if TYPE_CHECKING:
    from db.values import Frozen
    from workers.settings import Settings

_BETWEEN_PROMPTS = re.compile("[,;|\u3001\uff0c\uff1b\u060c]")  # separators of lists in several scripts

THRESHOLD, SCORE_FLOOR = 0.5, 0.3  # of runs with prompts


json_flag = click.option("--json", is_flag=True, help="Print one JSON object.")
force_flag = click.option(
    "--force", is_flag=True, help="Also replace files that no export of ours made, even a run's input."
)


def _read_max_failures(context: click.Context, option: click.Parameter, text: str | None) -> str | None:
    number = (text or "0").removesuffix("%")
    if not number.replace(".", "", 1).isdecimal():
        raise click.BadParameter(f"{text!r} is neither a number nor a percentage")
    return text


exit_flags = flag_group(
    click.option(
        "--max-failures",
        metavar="N|N%",
        help="End with 0 if at most so many images or rows failed.",
        callback=_read_max_failures,
    ),
    click.option("--exit-zero", is_flag=True, help="End with 0 even if some images or rows failed."),
)


def exit_code(failed: int, total: int, max_failures: str | None, exit_zero: bool) -> int:
    """The exit code: 1 if more of `total` images failed than the flags --max-failures and --exit-zero allow, else 0."""
    if exit_zero or not failed:
        return 0
    if max_failures is None:
        return 1
    if max_failures.endswith("%"):
        return int(failed > total * float(max_failures[:-1]) / 100)
    return int(failed > float(max_failures))


turn_flags = flag_group(  # whose turn it is; None: that stays as it is
    click.option(
        "--priority",
        type=click.IntRange(-10, 10),
        metavar="P",
        help="Runs of a higher one are served first, from -10 to 10 (default: 0).",
    ),
    click.option(
        "--share",
        type=PartOfFleet(),
        metavar="S",
        help="At most this part of the workers serves the run at a time, such as 0.3.",
    ),
)


stop_flag = click.option(
    "--stop-after",
    type=Rule(),
    multiple=True,
    metavar="BUDGET",
    help="Pause the run when so many of its latest images failed or are empty: '5% failed' (of 500), "
    "'98% empty of 500'; repeatable; 'never' takes all away.",
)
price_flag = click.option(
    "--gpu-hour-price",
    type=click.FloatRange(min=0),
    metavar="P",
    help="Price of an hour of one GPU: also say what the run costs, in whatever currency that is.",
)


def steered(flags: dict[str, Any], *names: str) -> dict[str, Any]:
    """What the flags of these names change of a run: those that have a value."""
    changes = given(flags, *(name for name in names if name != "stop_after"))
    if rules := flags.get("stop_after"):
        changes["stop_after"] = [rule for rule in rules if rule != NEVER] or None
    return changes


def given(flags: dict[str, Any], *names: str) -> dict[str, Any]:
    """The flags of these names that have a value."""
    return {name: flags[name] for name in names if flags[name] is not None}


INPUT_FLAGS = (  # what is read, and how
    click.option(
        "--prompt",
        type=Phrase(),
        multiple=True,
        help="What to look for, such as person, or with its class 'shipping container=container'; repeatable.",
    ),
    *EVERYTHING_FLAGS,
    click.option(
        "--classes",
        metavar="FILE",
        type=click.Path(path_type=Path, dir_okay=False),
        help="COCO file whose categories are the classes, with their ids and colours.",
    ),
    click.option("--prompt-column", metavar="C", help="Column with each row's own prompts, joined by |."),
    click.option(
        "--box-column",
        metavar="C",
        help="Column with each row's boxes, which show what to look for: [[x1, y1, x2, y2], ...] in pixels, or an "
        "object with positive and negative ones.",
    ),
    click.option("--image-column", metavar="C", help="Column with the image paths (guessed if left out)."),
    click.option(
        "--encoding", metavar="E", help="Encoding of a text that is not UTF-8 and has no mark, such as cp1252."
    ),
    click.option(
        "--delimiter", metavar="D", help="Between a CSV's cells: , ; tab or | (found in the header if left out)."
    ),
    click.option(
        "--image-root",
        type=ImageRoot(),
        help="Folder or s3://bucket/folder that relative paths start from and no path may leave.",
    ),
    click.option("--follow-symlinks", is_flag=True, help="Let links lead out of --image-root."),
    image_hosts_flag,
)
SETTING_FLAGS = (  # the run, what its results depend on, and how it is recorded
    click.option("--run", metavar="NAME", help="Name of the run (default: that of the input)."),
    click.option(
        "--moved-from",
        metavar="OLD",
        type=SourcePlace(),
        help="Where the input was when its run was recorded, if it was moved and then changed.",
    ),
    click.option(
        "--model", metavar="M", help="Hub id, folder, pair A+B, or tiny (bundled); facebook/sam3 if left out."
    ),
    click.option(
        "--threshold",
        type=Share(),
        help=f"Score that counts as found ({THRESHOLD}; with --everything {everything.THRESHOLD}).",
    ),
    click.option(
        "--mask-threshold",
        type=Share(),
        default=0.5,
        show_default=True,
        help="Probability from which a pixel belongs to a mask.",
    ),
    click.option(
        "--score-floor",
        type=Share(),
        help=f"Instances kept for export ({SCORE_FLOOR}; with --everything the threshold).",
    ),
    click.option(
        "--mask-rule",
        type=click.Choice(["library", "meta"]),
        default="library",
        help="How a mask is made of the model's answer: as the transformers library does, or as Meta's own code.",
    ),
    click.option(
        "--orientation",
        type=click.Choice(["exif", "raw"]),
        default="exif",
        help="Turn images as their EXIF data says, or take the file's own axes.",
    ),
    click.option("--stretch", is_flag=True, help="Spread samples of more than 8 bits over their own range."),
    *TILE_FLAGS,
    click.option(
        "--dedupe", is_flag=True, help="Compute files that are equal byte by byte once, and copy the results."
    ),
    click.option("--chunk-size", default="auto", metavar="auto|N", show_default=True, help="Images of one chunk."),
    click.option(
        "--no-check",
        is_flag=True,
        help="Look at no image file: neither whether it is here nor whether it has changed.",
    ),
    click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Read only the first N rows."),
    click.option(
        "--sample",
        type=click.IntRange(min=1),
        metavar="N",
        help="Read only N random rows; without it, or with a larger N, the same command later adds others.",
    ),
    click.option("--seed", type=int, default=0, show_default=True, metavar="S", help="Another sample for another S."),
)

# of the input, the prompts and the frozen settings of a run
run_flags = flag_group(*INPUT_FLAGS, *PROMPT_FLAGS, *SETTING_FLAGS)


def asked_prompts(flags: dict[str, Any]) -> tuple[str, ...]:
    """What is asked of each image without prompts of its own. Raises `UsageError`."""
    return (everything.EVERYTHING,) if looks_for_everything(flags) else read_prompts(flags["prompt"])


def read_prompts(prompts: tuple[str, ...], flag: str = "--prompt") -> tuple[str, ...]:
    """The prompts without extra blanks, each once, with their classes. Raises `UsageError` for an invalid one."""
    read: dict[str, None] = {}
    for prompt in dict.fromkeys(" ".join(prompt.split()) for prompt in prompts):
        if not prompt:
            raise UsageError(f"{flag} is empty; give a short noun phrase such as {flag} person")
        try:
            wording = read_prompt(prompt)
        except ValueError as error:
            shown = escaped(prompt)
            raise UsageError(f"{flag} '{shown[:40]}{'...' * (len(shown) > 40)}': {error}") from None
        _hint_at_a_list(wording.text, flag)
        read[str(wording)] = None
    return tuple(read)


def _hint_at_a_list(prompt: str, flag: str) -> None:
    """Say that a prompt like `person, car` is one phrase, since most users mean two prompts."""
    parts = [part.strip() for part in _BETWEEN_PROMPTS.split(prompt) if part.strip()]
    if len(parts) > 1:
        separate = " ".join(f"{flag} {shlex.quote(part)}" for part in dict.fromkeys(parts))
        say(f"hint: {flag} {shlex.quote(prompt)} is one prompt; {len(parts)} would be {separate}")


def read_chunk_size(text: str) -> int | None:
    """The value of --chunk-size; None for auto. Raises `UsageError`."""
    if text == "auto":
        return None
    if not text.isdecimal() or not 1 <= int(text) <= 1000:
        raise UsageError(f"--chunk-size {text}: give auto or a number from 1 to 1000")
    return int(text)


def frozen_settings(settings: "Settings", flags: dict[str, Any]) -> "Frozen":
    """The frozen settings of a run; the score floor is never above the threshold."""
    from dataclasses import fields

    from db.classes import classes_as_text
    from db.values import Frozen
    from producer.sources.class_file import read_classes
    from workers.fleet.weights import absolute_model

    chosen = {setting.name: flags[setting.name] for setting in fields(Frozen) if setting.name != "model"}
    chosen["classes"] = None if flags["classes"] is None else classes_as_text(read_classes(flags["classes"]))
    if (tiling := chosen_tiling(flags)) is not None:
        chosen["overlap"] = tiling.overlap
    chosen["points_per_side"] = chosen_points(flags, settings.model)
    usual = everything.THRESHOLD, 1.0
    if chosen["points_per_side"] is None:
        usual = THRESHOLD, SCORE_FLOOR
    given = flags["threshold"], flags["score_floor"]
    threshold, floor = (known if value is None else value for value, known in zip(given, usual, strict=True))
    chosen |= {"threshold": threshold, "score_floor": min(floor, threshold)}
    return Frozen(model=absolute_model(settings.model), **chosen)


def run_name(given: str | None, source: str, moved_from: str | None) -> str:
    """The name of the run: the `given` one, or one made from the source, or from where that was before.

    Raises `UsageError` for an unsafe name.
    """
    slug = run_slug(given or Path(place.name(moved_from or source).removesuffix(".gz")).stem)
    if given is None:
        return slug
    if not given.strip("-.") or (given.isascii() and len(given) > LONGEST_RUN):
        raise UsageError("--run: give the run a name of 1 to 100 letters and digits")
    if slug != given:
        raise UsageError(f"--run '{escaped(given)}': use letters, digits, dots, dashes and underscores, such as {slug}")
    return given
