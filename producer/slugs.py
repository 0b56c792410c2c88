"""Makes slugs: names in plain letters for runs, and for prompts in files and columns, whatever script they are in.

Knows no files and no SQL. Plain letters stay as they are.
"""

import hashlib
import re
from collections.abc import Callable, Iterable

LONGEST_SLUG = 80  # characters: prompts can be sentences
LONGEST_RUN = 100


def prompt_slugs(texts: Iterable[str]) -> dict[str, str]:
    """A slug for each prompt, by its text: `Red car` becomes `red_car`. Prompts with equal slugs get a number.

    Later prompts never change the slug of an earlier one.
    """
    slugs: dict[str, str] = {}
    taken: set[str] = set()
    last_number: dict[str, int] = {}  # last number given for each slug, as 100,000 prompts may have the same
    for text in dict.fromkeys(texts):
        slug = re.sub(r"[^a-z0-9]+", "_", in_latin(text).lower()).strip("_")[:LONGEST_SLUG] or "prompt"
        free, number = slug, last_number.get(slug, 1)
        while free in taken:
            number += 1
            free = f"{slug}_{number}"
        slugs[text], last_number[slug] = free, number
        taken.add(free)
    return slugs


def run_slug(text: str) -> str:
    """A name for a run that is safe in task ids, shells and file names.

    `My photos` becomes `My-photos`, and another script is written in Latin letters. A text without any letter, or with
    too many, gets a checksum, so that two different texts never give the same name.
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
    """Write other scripts in Latin letters: `красная машина` becomes `krasnaia-mashina`. ASCII stays as it is."""
    if text.isascii():
        return text
    from slugify import slugify  # imported late, as most commands do not need it

    kept = r"[^-A-Za-z0-9._]+"
    return slugify(text, lowercase=False, regex_pattern=kept, entities=False, decimal=False, hexadecimal=False)
