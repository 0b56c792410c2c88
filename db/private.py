"""Makes the files and folders that only their user needs: databases, logs, locks. Knows not what is in them.

Others may look into them only if the user says that they are shared; then the umask decides, as for results.
"""

import os
from contextlib import suppress
from pathlib import Path

_OTHERS = {"may look": False}


def share(others_may_look: bool) -> None:
    """What the running command was told: SAM3_SHARED."""
    _OTHERS["may look"] = others_may_look


def file_mode() -> int:
    return 0o666 if _OTHERS["may look"] else 0o600


def make_folder(path: Path) -> Path:
    """Make `path` and what is missing above it; those that are there stay as they are. Raises `OSError`."""
    if not path.parent.exists():
        make_folder(path.parent)
    path.mkdir(exist_ok=True, mode=0o777 if _OTHERS["may look"] else 0o700)
    return path


def make_file(path: Path) -> Path:
    """Make `path`, empty, unless it is there. Raises `OSError`."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, file_mode()))
    return path
