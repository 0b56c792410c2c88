"""Says which libraries are installed, without importing them. Knows none of them."""

import sys
from importlib.util import find_spec


def is_installed(library: str) -> bool:
    """Whether a library can be imported.

    While another thread imports OpenCV its module has no spec for a moment, at which `find_spec` raises an error.
    """
    return sys.modules.get(library) is not None or find_spec(library) is not None
