"""Files as a hint names them: ready to be typed here. Knows no input."""

import os
import shlex

from producer.slugs import numbered
from producer.sources.cells import one_line


def typed(path: str) -> str:
    """A path as one would type it here: relative if it is below the working folder, quoted for the shell."""
    below = os.path.relpath(path)
    return shlex.quote(one_line(path if below.startswith("..") else below))


def new_file(shown: str, stem: str) -> str:
    """A CSV that is not there yet, beside the one shown: there its relative paths mean the same. Quoted for shells."""
    begin = os.path.join(os.path.dirname(shown), stem)
    return shlex.quote(numbered(begin, lambda name: os.path.lexists(f"{name}.csv")) + ".csv")
