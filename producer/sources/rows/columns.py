"""Which columns an input has and which of them are used. Knows no rows and no files."""

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from producer.sources.rows.cells import UNSTORABLE, quoted
from workers.errors import UsageError
from workers.inference.reading.formats import SUFFIXES

TEXT = "string"  # the type of a column of text, where columns have types
IMAGE_COLUMNS = ("path", "image_path", "image", "file", "filename")  # guessed in this order


@dataclass(frozen=True)
class Columns:
    """The names in the input's header, and which of these columns are used."""

    names: tuple[str, ...]
    image: str
    prompt: str | None
    types: Mapping[str, str] | None = None  # name -> type of the cells; None: all are text
    boxes: str | None = None


PATHS_ALONE = Columns(("path",), "path", None)  # of sources that are nothing but paths: users cannot name this column


def choose_columns(
    shown: str,
    names: tuple[str, ...],
    image_column: str | None,
    prompt_column: str | None,
    box_column: str | None = None,
) -> Columns:
    """Choose the columns of a header. `shown` names the input in errors. Raises `UsageError` for an unusable header."""
    if UNSTORABLE.search("".join(names)):
        raise UsageError(f"{shown}: its header holds bytes that are no text; correct them")
    for name, count in Counter(names).items():
        if count > 1 and not name:  # as spreadsheets write columns that were once used, and look empty there
            *others, last = (str(place) for place, name in enumerate(names, start=1) if not name)
            which = f"columns {', '.join(others)} and {last} have no name in the header"
            raise UsageError(f"{shown}: {which}; give all but one a name, or remove them")
        if count > 1:
            raise UsageError(f"{shown}: column {quoted(name)} appears {count} times in the header; rename all but one")
    refuse_our_names(shown, names)
    image = _choose_image(shown, names, image_column)
    prompt = _chosen(shown, names, prompt_column, "--prompt-column")
    boxes = _chosen(shown, names, box_column, "--box-column")
    for one, other, both in ((image, prompt, "image and prompt"), (image, boxes, "image and boxes")):
        if one == other:
            raise UsageError(f"{shown}: column {quoted(one)} cannot hold both {both}; name two columns")
    if prompt is not None and prompt == boxes:
        raise UsageError(f"{shown}: column {quoted(prompt)} cannot hold both prompt and boxes; name two columns")
    return Columns(names, image, prompt, boxes=boxes)


def refuse_our_names(shown: str, names: Iterable[str]) -> None:
    """Raise `UsageError` for a column that is called like one of our results."""
    for name in names:
        if name.lower().startswith("sam3_"):
            raise UsageError(f"{shown}: column {quoted(name)} has a name of our results; rename or remove it")


def _chosen(shown: str, names: tuple[str, ...], wanted: str | None, flag: str) -> str | None:
    found = None if wanted is None else _named(names, wanted)
    if wanted is not None and found is None:
        raise _no_column(shown, names, wanted, flag)
    return found


def may_hold_images(names: Sequence[str], image_column: str | None) -> bool:
    """Whether this header has `image_column`, or, if that is None, a column with one of the usual names."""
    return (_guessed(names) if image_column is None else _named(names, image_column)) is not None


def _named(names: Sequence[str], wanted: str) -> str | None:
    """The column called `wanted`, without regard to blanks around both names; None if there is none."""
    return wanted if wanted in names else {name.strip(): name for name in reversed(names)}.get(wanted.strip())


def _guessed(names: Sequence[str]) -> str | None:
    spelled = {name.strip().lower(): name for name in reversed(names)}
    return next((spelled[guess] for guess in IMAGE_COLUMNS if guess in spelled), None)


def _choose_image(shown: str, names: tuple[str, ...], image_column: str | None) -> str:
    found = _guessed(names) if image_column is None else _named(names, image_column)
    if found is not None:
        return found
    if image_column is not None:
        raise _no_column(shown, names, image_column, "--image-column")
    for name in names:
        if name.lower().endswith(SUFFIXES):
            raise UsageError(f"{shown}: its first line holds {quoted(name)}, no column names; put a header above it")
    raise _no_column(shown, names, None, "--image-column")


def _no_column(shown: str, names: tuple[str, ...], wanted: str | None, flag: str) -> UsageError:
    targets = IMAGE_COLUMNS if wanted is None else (wanted.lower(),)
    scores = {name: max(SequenceMatcher(None, name.lower(), target).ratio() for target in targets) for name in names}
    best = max(scores, key=scores.__getitem__)
    missing = "no column of image paths" if wanted is None else f"no column {quoted(wanted)}"
    listed = ", ".join(map(quoted, names[:20])) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    advice = f"{flag} {shlex.quote(best)}?" if scores[best] >= 0.5 else f"name it with {flag}"
    return UsageError(f"{shown}: {missing}; columns found: {listed}; {advice}")
