"""Tells faults of the surroundings - database, disk, GPU, a lost mount - from those of a chunk. Handles none itself."""

import errno
from collections.abc import Sequence

from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from db.leases import ImageFailed, Outcome
from db.session import Sessions, read
from db.views import RunView, some_done_path
from workers.errors import ErrorClass
from workers.stream import absolute

GONE = (ErrorClass.MISSING, ErrorClass.PERMISSION, ErrorClass.TIMEOUT)
DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


class Infrastructure(Exception):
    """What failed is around the chunk: the attempt does not count."""


def is_infrastructure(error: BaseException) -> bool:
    """Whether another attempt, elsewhere or later, may well succeed with the same images."""
    if isinstance(error, OSError):
        return error.errno in DISK_FAULTS
    if isinstance(error, IntegrityError | DataError):
        return False  # the database is well: it refuses what we gave it, and will again
    return isinstance(error, Infrastructure | SQLAlchemyError) or is_gpu_fault(error)


def is_gpu_fault(error: BaseException) -> bool:
    """Whether the GPU failed in a way that the process does not recover from: its CUDA context is broken."""
    # By its text: the class differs between releases of torch, which this process may not even have.
    said = str(error)
    return isinstance(error, RuntimeError) and "CUDA" in said and "out of memory" not in said


def check_mount(sessions: Sessions, run: RunView, batch: Sequence[Outcome]) -> None:
    """Raise `Infrastructure` if a whole batch is gone and so is a file that this run has read before.

    Without the second condition a folder that was simply deleted would never come to an end.
    """
    if not all(isinstance(outcome, ImageFailed) and outcome.error_class in GONE for outcome in batch):
        return
    read_before = read(sessions, some_done_path, run.id)
    if read_before is None:
        return
    path = absolute(run, read_before)
    try:
        open(path, "rb").close()
    except OSError as error:
        raise Infrastructure(f"{path} was read before and is gone ({error.strerror}): is a mount lost?") from None
