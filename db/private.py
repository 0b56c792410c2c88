"""Makes files and folders that only their user may read: databases, logs, locks. Knows nothing of their content.

Other users may read them only if the setting SAM3_SHARED says so; then the umask decides, as it does for results.
"""

import os
from contextlib import suppress
from pathlib import Path

_SHARED = {"shared": False}  # one value of the process, which `share` changes


def share(shared: bool) -> None:
    """Set whether other users may read what this process makes from now on."""
    _SHARED["shared"] = shared


def file_mode() -> int:
    """The permission bits of a new file, before the umask."""
    return 0o666 if _SHARED["shared"] else 0o600


def make_folder(path: Path) -> Path:
    """Make the folder `path` and its missing parents; folders that exist stay as they are. Raises `OSError`."""
    if not path.parent.exists():
        make_folder(path.parent)
    path.mkdir(exist_ok=True, mode=0o777 if _SHARED["shared"] else 0o700)
    return path


def make_file(path: Path) -> Path:
    """Make an empty file at `path` unless one exists. Raises `OSError`."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, file_mode()))
    return path
