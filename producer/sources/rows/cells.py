"""The text of single cells: which prompts are valid, and how any text is shown and stored. Knows no rows, no files."""

import re
from collections.abc import Iterable
from functools import lru_cache

from db.classes import Wording
from workers.errors import ErrorClass

PROMPT_WORDS = 30  # the model reads 32 tokens, and two of them mark the start and the end
PROMPT_BYTES = 1000  # PostgreSQL's index of prompts takes up to 2700 bytes
UNSTORABLE = re.compile("[\0\ud800-\udfff]")  # surrogates stand for bytes that are not UTF-8
_HALVES = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # surrogates that stand for nothing
CONTROL = re.compile("[\0-\x1f\x7f-\x9f\ud800-\udfff]")
_NO_TEXT = re.compile("[\0-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff]")  # like CONTROL, but white space is allowed


class BadRow(Exception):
    """A row breaks a rule. Each kind of input catches it and makes a rejected row."""

    def __init__(self, error_class: ErrorClass, fault: str) -> None:
        super().__init__(error_class, fault)
        self.error_class, self.fault = error_class, fault


def read_prompt(typed: str) -> Wording:
    """A prompt as it is typed: `person`, or with its class `shipping container=container`.

    Raises `ValueError` with what is wrong, in words.
    """
    if not typed or typed.isspace():
        raise ValueError("empty prompt; write a word, or remove it")
    if _NO_TEXT.search(typed):
        raise ValueError("prompt with a character that is no text; write it in UTF-8")
    wording = Wording.read(" ".join(typed.split()) if "=" in typed else typed.strip())
    if (words := len(wording.text.split())) > PROMPT_WORDS:
        raise ValueError(f"prompt of {words} words; shorten it to {PROMPT_WORDS} words")
    for name, text in (("prompt", wording.text), ("class", wording.class_name)):
        if (size := len(text.encode())) > PROMPT_BYTES:
            raise ValueError(f"{name} of {size:,} bytes; shorten it to {PROMPT_BYTES:,} bytes")
    return wording


@lru_cache(maxsize=4096)
def split_prompts(cell: str) -> tuple[str, ...] | None:
    """The prompts of a cell like `cat|dog`, each once; None for an empty cell. Raises `BadRow` for a bad prompt."""
    if not cell or cell.isspace():
        return None
    return whole_prompts(cell.split("|"))


def whole_prompts(given: Iterable[str]) -> tuple[str, ...]:
    """These prompts without blanks around them, each once, as they are typed. Raises `BadRow` for a bad one."""
    try:
        return tuple(dict.fromkeys(str(read_prompt(prompt)) for prompt in given))
    except ValueError as error:
        raise BadRow(ErrorClass.PROMPT, str(error)) from None


def storable(cell: str) -> str:
    """Replace what databases refuse: NUL, bytes that are not UTF-8 and half characters become text like \\xe9."""
    cell = _HALVES.sub(lambda found: found[0].encode("unicode_escape").decode(), cell)
    return cell.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace").replace("\0", "\\x00")


def as_name(path: str) -> str:
    """Make a path fit for a log line and an index: one line of at most about 1000 bytes."""
    name = escaped(path)
    encoded = name.encode()
    return name if len(encoded) <= 1000 else encoded[:1000].decode("utf-8", "ignore") + "..."


def escaped(text: str) -> str:
    """Replace control characters by text like \\n, so that the text stays on one line."""
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), storable(text))


def quoted(text: str) -> str:
    return f"'{escaped(text)}'"


def unreadable(shown: str, error: OSError) -> str:
    """Say why the file or folder called `shown` cannot be read, and what to do."""
    if isinstance(error, FileNotFoundError):
        return f"{shown}: not found; check the path"
    if isinstance(error, PermissionError):
        return f"{shown}: permission denied; make it readable for this user"
    if isinstance(error, NotADirectoryError):
        return f"{shown}: is no folder; check the path"
    return f"{shown}: cannot be read: {error.strerror}; check its disk"
