"""Reads the file of --classes: names, numbers and colours of classes, as COCO lists its categories. Knows no runs.

The format: `categories` of https://cocodataset.org/#format-data; `color` is that of COCO's panoptic categories. So the
file of any data set in COCO's format will do.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from db.classes import HIGHEST_ID, Colour, NamedClass
from producer.sources.rows.cells import UNSTORABLE, unreadable
from workers.errors import UsageError


def read_classes(file: Path) -> tuple[NamedClass, ...]:
    """The categories of a COCO file in the order of their ids. Raises `UsageError` with what is wrong."""
    try:
        content = json.loads(file.read_text("utf-8-sig"))
    except OSError as error:
        raise UsageError(f"--classes {unreadable(str(file), error)}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--classes {file} is no JSON: {error}; give a COCO file with a list of categories") from None
    entries = content.get("categories") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise UsageError(f"--classes {file} has no list of categories, as COCO files have")
    classes = sorted((_class(file, entry) for entry in entries), key=lambda one: one.id)
    for what, values in (("id", [one.id for one in classes]), ("name", [one.name for one in classes])):
        [(value, count)] = Counter(values).most_common(1)
        if count > 1:
            raise UsageError(f"--classes {file}: {count} categories have the {what} {value}; give each its own")
    return tuple(classes)


def _class(file: Path, entry: Any) -> NamedClass:
    facts = entry if isinstance(entry, dict) else {}
    id, name = facts.get("id"), facts.get("name")
    if type(id) is not int or not 1 <= id <= HIGHEST_ID:
        raise UsageError(
            f"--classes {file}: the category {entry} needs an id from 1 to {HIGHEST_ID}; 0 is what is not found"
        )
    if not isinstance(name, str) or not name.strip() or UNSTORABLE.search(name):
        raise UsageError(f"--classes {file}: category {id} needs a name")
    return NamedClass(id, " ".join(name.split()), _colour(file, id, facts.get("color")))


def _colour(file: Path, id: int, given: Any) -> Colour | None:
    if given is None:
        return None
    if isinstance(given, list) and len(given) == 3 and all(type(part) is int and 0 <= part <= 255 for part in given):
        return given[0], given[1], given[2]
    raise UsageError(f"--classes {file}: the color of category {id} is three numbers from 0 to 255, not {given}")
