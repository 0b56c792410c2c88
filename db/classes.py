"""Prompts and the classes that they look for: how they are typed, and the numbers of classes. Knows no SQL, no files.

Standard library only.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Colour = tuple[int, int, int]  # red, green, blue, 0 to 255

HIGHEST_ID = 65535  # of a class: the numbers of a label map have 16 bits
LITERAL = "\0"  # stands for a sign = while a prompt is read; no prompt may hold it


@dataclass(frozen=True)
class Wording:
    """A text for the model, and the class of what it finds. Several wordings may have the same class.

    It is typed as `shipping container=container`. Without `=` a text is its own class; `==` stands for a sign =.
    """

    text: str
    class_name: str

    @classmethod
    def read(cls, typed: str) -> "Wording":
        """Raises `ValueError` with what is wrong, in words."""
        text, *names = (part.strip().replace(LITERAL, "=") for part in typed.replace("==", LITERAL).split("="))
        if len(names) > 1:
            raise ValueError("more than one =; write text=class, and == for a sign = in a text")
        if not text or "" in names:
            raise ValueError("= without a text before it and a class behind it; write == for a sign =")
        return cls(text, names[0] if names else text)

    def __str__(self) -> str:
        """As it is typed, always in the same spelling, so that equal wordings compare equal as text."""
        text, class_name = self.text.replace("=", "=="), self.class_name.replace("=", "==")
        return text if text == class_name else f"{text}={class_name}"


@dataclass(frozen=True)
class NamedClass:
    """What outputs call the things that were found. COCO calls it a category."""

    id: int  # from 1, as 0 is what is not found, in label maps
    name: str
    colour: Colour | None = None


def numbered_classes(listed: Sequence[NamedClass], names: Iterable[str]) -> dict[str, NamedClass]:
    """The classes of a run by name: those that its file lists, then the others of these names with the next numbers."""
    classes = {one.name: one for one in listed}
    last = max((one.id for one in listed), default=0)
    for name in names:
        if name not in classes:
            last += 1
            classes[name] = NamedClass(last, name)
    return classes


def classes_as_text(classes: Iterable[NamedClass]) -> str:
    """JSON as COCO writes its categories, always in the same spelling."""
    entries = [
        {"id": one.id, "name": one.name} | ({} if one.colour is None else {"color": list(one.colour)})
        for one in classes
    ]
    return json.dumps(entries, ensure_ascii=False, separators=(",", ":"))


def classes_of_text(text: str | None) -> tuple[NamedClass, ...]:
    """What `classes_as_text` wrote; none for None."""
    entries = json.loads(text or "[]")
    return tuple(
        NamedClass(entry["id"], entry["name"], tuple(entry["color"]) if "color" in entry else None) for entry in entries
    )
