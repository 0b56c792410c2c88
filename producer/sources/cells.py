"""Text of single cells: prompts, and how to show and store whatever a cell holds. Knows no rows and no files."""

import re
from functools import lru_cache

from workers.errors import ErrorClass

PROMPT_WORDS = 30  # the model reads 32 tokens, two of which mark start and end
PROMPT_BYTES = 1000  # PostgreSQL's index of prompts takes up to 2700
UNSTORABLE = re.compile("[\0\ud800-\udfff]")  # surrogates stand for bytes that are not UTF-8
CONTROL = re.compile("[\0-\x1f\x7f-\x9f\ud800-\udfff]")
_NO_TEXT = re.compile("[\0-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff]")  # the same, without white space


class BadRow(Exception):
    """Why a row is rejected. Never leaves its source."""

    def __init__(self, error_class: ErrorClass, fault: str) -> None:
        super().__init__(error_class, fault)
        self.error_class, self.fault = error_class, fault


def prompt_fault(prompt: str) -> str | None:
    """What is wrong with a prompt's text, or None."""
    words = len(prompt.split())
    if words == 0:
        return "empty prompt; write a word, or remove it"
    if words > PROMPT_WORDS:
        return f"prompt of {words} words; shorten it to {PROMPT_WORDS} words"
    if _NO_TEXT.search(prompt):
        return "prompt with a character that is no text; write it in UTF-8"
    if (size := len(prompt.encode())) > PROMPT_BYTES:
        return f"prompt of {size:,} bytes; shorten it to {PROMPT_BYTES:,} bytes"
    return None


@lru_cache(maxsize=4096)
def split_prompts(cell: str) -> tuple[str, ...] | None:
    """The different prompts of a cell like `cat|dog`; None for an empty cell."""
    if not cell or cell.isspace():
        return None
    prompts = tuple(dict.fromkeys(prompt.strip() for prompt in cell.split("|")))
    for prompt in prompts:
        if fault := prompt_fault(prompt):
            raise BadRow(ErrorClass.PROMPT, fault)
    return prompts


def storable(cell: str) -> str:
    """A cell without what databases refuse: NUL and bytes that are not UTF-8 are spelled like \\xe9."""
    return cell.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace").replace("\0", "\\x00")


def as_name(path: str) -> str:
    """A path fit for a log line and an index, whatever it held."""
    name = one_line(path)
    encoded = name.encode()
    return name if len(encoded) <= 1000 else encoded[:1000].decode("utf-8", "ignore") + "..."


def one_line(text: str) -> str:
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), storable(text))


def quoted(text: str) -> str:
    return f"'{one_line(text)}'"


def unreadable(shown: str, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{shown}: not found; check the path"
    if isinstance(error, PermissionError):
        return f"{shown}: permission denied; make it readable for this user"
    if isinstance(error, NotADirectoryError):
        return f"{shown}: is no folder; check the path"
    return f"{shown}: cannot be read: {error.strerror}; check its disk"
