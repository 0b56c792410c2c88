"""Writes paths for the commands in hints, quoted for the shell. Knows no input."""

import os
import shlex

from producer.slugs import numbered
from producer.sources.rows.cells import escaped


def shell_path(path: str) -> str:
    """A path quoted for the shell; relative if it is below the working folder."""
    below = os.path.relpath(path)
    return shlex.quote(escaped(path if below.startswith("..") else below))


def new_file(shown: str, stem: str, suffix: str = ".csv") -> str:
    """The path of a new file beside `shown`, so that relative paths keep their meaning; quoted for the shell."""
    begin = os.path.join(os.path.dirname(shown), stem)
    return shlex.quote(numbered(begin, lambda name: os.path.lexists(f"{name}{suffix}")) + suffix)
