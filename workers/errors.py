"""Names all that can go wrong with an image or a service. Knows no library and handles no error."""

from enum import StrEnum

LONGEST_LINE = 500  # characters

# Exit codes by which a node tells its launcher why it ended.
NODE_BROKE = 3  # its surroundings failed repeatedly: it is started again after a pause, which grows each time
NODE_RENEWS = 4  # it wants to be replaced by a new process: it is started again at once


class ErrorClass(StrEnum):
    """Why an image has no result. Stored as text with the image; `sam3-retry --error-class` selects by it."""

    MISSING = "missing"  # there is no such file
    PERMISSION = "permission"  # the file may not be read
    NOT_AN_IMAGE = "not_an_image"  # empty, text, HTML, a folder, a pipe
    TRUNCATED = "truncated"  # the file ends before its picture does
    TOO_LARGE = "too_large"  # over the pixel or byte limit
    TOO_SMALL = "too_small"
    UNSUPPORTED = "unsupported"  # an image in a format that we do not open
    TIMEOUT = "timeout"
    NO_ANSWER = "no_answer"  # its server does not answer for it, and does for other images
    DECODER_CRASH = "decoder_crash"  # the decoder raised an error that none of the other classes describes
    OUT_OF_MEMORY = "out_of_memory"  # does not fit into memory even in a batch of its own
    CRASHED = "crashed"  # its worker process died while it had the image in hand
    GAVE_UP = "gave_up"  # too many attempts at its chunk ended without a commit
    PROMPT = "prompt"  # empty or too long for the model
    BAD_BOX = "bad_box"  # a box that is none, or that its image does not have room for
    BAD_ROW = "bad_row"  # the CSV row cannot be read
    BAD_PATH = "bad_path"  # the path cannot name a file
    OUTSIDE_ROOT = "outside_root"  # the path leaves --image-root
    INTERNAL = "internal"  # an unexpected error of ours


# Errors that may not happen again with the same file: the surroundings were the cause, or the file was being written.
# The other errors stay until a person changes the file, the row or the prompt.
CURABLE = frozenset(
    {
        ErrorClass.MISSING,
        ErrorClass.PERMISSION,
        ErrorClass.TRUNCATED,
        ErrorClass.TIMEOUT,
        ErrorClass.NO_ANSWER,
        ErrorClass.OUT_OF_MEMORY,
        ErrorClass.CRASHED,
        ErrorClass.GAVE_UP,
        ErrorClass.INTERNAL,
    }
)


class Sam3Error(Exception):
    """An error that is shown as one line: what, where, what to do. Its message never holds a password."""

    exit_code = 2


class UsageError(Sam3Error):
    """A flag, a file or a setting is wrong."""


class Unreachable(Sam3Error):
    """The broker, the database or the model cannot be reached."""

    exit_code = 3


class NoSuchRun(Sam3Error):
    """The named run does not exist."""

    exit_code = 4


class NotOver(Sam3Error):
    """The command was right, but its run has not ended yet."""

    exit_code = 1


def first_line(error: BaseException) -> str:
    """The first line of an error's message, with the notes on what to do about it; empty if it has none.

    Source of notes: https://peps.python.org/pep-0678/.
    """
    return "; ".join([(str(error).strip().splitlines() or [""])[0], *getattr(error, "__notes__", ())])


def printable(text: str) -> str:
    """The text on one line: characters that command a terminal, or show nothing, become text such as `\\n`."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def one_line(text: str) -> str:
    """Make a text fit for a table, a log and PostgreSQL: one line, at most `LONGEST_LINE` long, without NUL."""
    return " ".join(text.split())[:LONGEST_LINE].replace("\0", "\\0")
