"""The folder in which torch keeps compiled kernels for later processes, where one process at a time makes new ones.

Imports no torch and knows no kernels, only their names.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

CACHE_FOLDER = "TORCHINDUCTOR_CACHE_DIR"  # torch's variable


@contextmanager
def alone(kernels: str) -> Iterator[None]:
    """Of the processes that share a folder for compiled kernels, let one at a time make new ones.

    The others wait, and then find them in the folder instead of making the same ones on the same cores.
    """
    if not os.environ.get(CACHE_FOLDER):
        yield
        return
    folder = Path(os.environ[CACHE_FOLDER])
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # what lies there is executed
    made = folder / f"sam3-{kernels}.made"
    with FileLock(folder / "sam3.lock"):
        if not made.exists():
            yield
            made.touch()
            return
    yield
