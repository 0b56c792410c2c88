"""What a person may choose among, by name. Standard library only: commands name the choices in their help."""

from enum import StrEnum


class Redo(StrEnum):
    """Which images to compute again."""

    CHANGED = "changed"  # whose file is not as it was when it was read
    FAILED = "failed"
    ALL = "all"  # that were computed, or failed
    EMPTY = "empty"  # in which nothing was found
