"""Text of single cells: paths, prompts, and how to show and store whatever they hold. Knows no files."""

import re
from functools import lru_cache

from workers.errors import ErrorClass

PROMPT_WORDS = 30  # the model reads 32 tokens, two of which mark start and end
PROMPT_BYTES = 1000  # PostgreSQL's index of prompts takes up to 2700
PATH_BYTES, NAME_BYTES = 2600, 255  # Linux opens up to 4096, PostgreSQL's index of paths takes up to 2700
SHORT = NAME_BYTES // 4  # characters that no path is too long with, in any script
UNSTORABLE = re.compile("[\0\ud800-\udfff]")  # surrogates stand for bytes that are not UTF-8
_CONTROL = re.compile("[\0-\x1f\x7f-\x9f\ud800-\udfff]")
_NO_TEXT = re.compile("[\0-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff]")  # the same, without white space
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|file:/|data:\w+/", re.IGNORECASE)


class BadRow(Exception):
    """Why a row is rejected. Never leaves the manifest."""

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


def check_path(path: str) -> None:
    """Raise `BadRow` for what can name no local file, whatever the disk holds."""
    if not path or path.isspace():
        fault = "empty path; give the image's path, or remove the row"
    elif not path.isprintable() and (found := _CONTROL.search(path)):
        fault = f"the path holds {as_name(found[0])}, which is no text; rename the file"
    elif ":" in path and (url := _URL.match(path)):
        fault = f"{quoted(url[0])} is a URL, and nothing is downloaded; give the path of a local copy"
    elif path.startswith("\\\\"):
        fault = "a network share is no path; mount it and give the path below its mount"
    elif (size := len(encoded := path.encode())) <= NAME_BYTES:
        return
    elif size > PATH_BYTES:
        fault = f"path of {size} bytes; shorten it to {PATH_BYTES}"
    elif (longest := max(map(len, encoded.split(b"/")))) > NAME_BYTES:
        fault = f"the path holds a name of {longest} bytes; shorten it to {NAME_BYTES}"
    else:
        return
    raise BadRow(ErrorClass.BAD_PATH, fault)


def storable(cell: str) -> str:
    """A cell without what databases refuse: NUL and bytes that are not UTF-8 are spelled like \\xe9."""
    return cell.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace").replace("\0", "\\x00")


def as_name(path: str) -> str:
    """A path fit for a log line and an index, whatever it held."""
    name = one_line(path)
    encoded = name.encode()
    return name if len(encoded) <= 1000 else encoded[:1000].decode("utf-8", "ignore") + "..."


def one_line(text: str) -> str:
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), storable(text))


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
