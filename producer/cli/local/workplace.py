"""Makes the folders of a sam3-run, locks its state, and removes new folders if no run was recorded. Starts nothing."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from sqlalchemy.exc import SQLAlchemyError

from db import private
from db.read_only import is_mounted_read_only
from db.refusals import DatabaseUnusable
from db.session import connect, read, sqlite_url
from db.views.run_views import run_names
from producer.cli.run_folder import RUN_LOCK
from producer.layout import DATABASE_FILE, STATE_FOLDER
from workers.cli.base import RUN_FILE
from workers.errors import UsageError


@contextmanager
def new_folders(output: Path, state_dir: Path) -> Iterator[None]:
    """Make both folders; remove the new ones again if the block fails before it has recorded a run."""
    new = [folder for folder in (output, *output.parents) if not folder.exists()]
    try:
        make_folders(output, state_dir)
        yield
    except Exception:
        if new and not (output / RUN_FILE).exists() and not _has_runs(output / STATE_FOLDER / DATABASE_FILE):
            shutil.rmtree(output / STATE_FOLDER, ignore_errors=True)
            with suppress(OSError):  # another program has put a file there meanwhile
                for folder in new:
                    folder.rmdir()
        raise


def _has_runs(database: Path) -> bool:
    if not database.is_file():
        return False
    try:
        return bool(read(connect(sqlite_url(database), create=False), run_names))
    except (SQLAlchemyError, DatabaseUnusable):  # an unknown file is never removed
        return True


def make_folders(output: Path, state_dir: Path) -> None:
    """Make both folders and check that files can be made there. Only this user may read the state folder."""
    for folder in (output, state_dir):
        try:
            private.make_folder(folder) if folder == state_dir else folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise _cannot_write(folder, error) from None


def refuse_unwritable(*folders: Path) -> None:
    """Raise the `UsageError` of `make_folders` if one of these folders could not be made or written. Writes nothing."""
    for folder in folders:
        above = next(there for there in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(there))
        try:
            if not above.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            if not os.access(above, os.W_OK | os.X_OK):
                number = errno.EROFS if is_mounted_read_only(above) else errno.EACCES
                raise OSError(number, os.strerror(number))
        except OSError as error:
            raise _cannot_write(folder, error) from None


def _cannot_write(folder: Path, error: OSError) -> UsageError:
    return UsageError(f"{folder}: cannot write there: {error.strerror}; choose another folder")


def taken(state_dir: Path) -> UsageError:
    """The error for a state folder that another sam3-run works with."""
    return UsageError(f"another sam3-run works with {state_dir}; wait for it, or use others for -o and --state-dir")


class StateLock:
    """`with StateLock(folder):` refuses a second sam3-run with the same state folder. Raises `UsageError`."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir
        self._lock = FileLock(private.make_file(state_dir / RUN_LOCK))

    def __enter__(self) -> None:
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise taken(self._folder) from None

    def __exit__(self, *_: object) -> None:
        self._lock.release()
