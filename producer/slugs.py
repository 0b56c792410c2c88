"""Names in plain letters for what people call in any script: of runs, and of prompts in files and columns.

Knows no files and no SQL. What is plain already keeps its letters.
"""

import hashlib
import re
from collections.abc import Callable, Iterable

LONGEST_SLUG = 80  # characters: prompts can be sentences
LONGEST_RUN = 100


def prompt_slugs(texts: Iterable[str]) -> dict[str, str]:
    """A name for each prompt that suits files and columns: `Red car` is `red_car`; equal ones are numbered.

    Earlier prompts keep their name when later ones join.
    """
    slugs: dict[str, str] = {}
    taken: set[str] = set()
    reached: dict[str, int] = {}  # the number that each slug has got to: rows may bring 100,000 prompts
    for text in dict.fromkeys(texts):
        slug = re.sub(r"[^a-z0-9]+", "_", in_latin(text).lower()).strip("_")[:LONGEST_SLUG] or "prompt"
        free, number = slug, reached.get(slug, 1)
        while free in taken:
            number += 1
            free = f"{slug}_{number}"
        slugs[text], reached[slug] = free, number
        taken.add(free)
    return slugs


def run_slug(text: str) -> str:
    """A name for a run that is safe in task ids, shells and file names, whatever `text` is.

    `My photos` is `My-photos`, a text in another script is written in Latin letters; one that has none at all, or too
    many, gets a checksum, so that two of them are two runs.
    """
    slug = re.sub(r"[^A-Za-z0-9._-]", "-", in_latin(text))
    checksum = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:8]
    if not slug.strip("-."):
        return f"run-{checksum}"
    return slug if len(slug) <= LONGEST_RUN else f"{slug[: LONGEST_RUN - 9]}-{checksum}"


def numbered(name: str, is_taken: Callable[[str], bool]) -> str:
    """`name`, or `name_2`, `name_3`, ...: the first that is free."""
    free, number = name, 1
    while is_taken(free):
        number += 1
        free = f"{name}_{number}"
    return free


def in_latin(text: str) -> str:
    """`красная машина` is `krasnaia-mashina`. Plain ASCII stays as it is."""
    if text.isascii():
        return text
    from slugify import slugify  # only where it is needed: most commands do without

    kept = r"[^-A-Za-z0-9._]+"
    return slugify(text, lowercase=False, regex_pattern=kept, entities=False, decimal=False, hexadecimal=False)
