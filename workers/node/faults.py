"""Tells faults of the surroundings - database, disk, GPU, a lost mount - from those of a chunk. Handles none itself."""

import errno
import threading
from collections.abc import Sequence

from sqlalchemy.exc import SQLAlchemyError

from db.claims import Claim, ImageFailed, Outcome
from db.refusals import is_refused
from db.session import Sessions, read
from db.views.status import RunView, some_done_path
from workers.errors import ErrorClass, first_line
from workers.inference import location, selftest
from workers.inference.pipeline import Segmenter

LOST = (ErrorClass.MISSING, ErrorClass.PERMISSION)
GONE = (*LOST, ErrorClass.TIMEOUT)
GPU_WORDS = ("CUDA", "cuDNN", "CUDNN", "cuBLAS", "CUBLAS", "NCCL")
DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


class Infrastructure(Exception):
    """What failed is around the chunk: the attempt does not count."""


class BrokenModel(Infrastructure):
    """The model computes nothing any more, in this process."""


def is_infrastructure(error: BaseException) -> bool:
    """Whether another attempt, elsewhere or later, may well succeed with the same images."""
    if isinstance(error, OSError):
        return error.errno in DISK_FAULTS
    if isinstance(error, SQLAlchemyError):
        return not is_refused(error)
    return isinstance(error, Infrastructure) or is_gpu_fault(error)


def is_gpu_fault(error: BaseException) -> bool:
    """Whether the GPU failed in a way that the process may not recover from: its CUDA context is suspect.

    Where running out of memory can be mended, that has been tried before an error gets here.
    """
    # By its text: the class differs between releases of torch, which this process may not even have.
    return isinstance(error, RuntimeError) and any(word in str(error) for word in GPU_WORDS)


def ruins_process(error: BaseException) -> bool:
    """Whether this process must end, because no image can be trusted to it any more."""
    return is_gpu_fault(error) or isinstance(error, BrokenModel)


def check_model(segmenter: Segmenter) -> None:
    """Raise `BrokenModel` if the model fails at its self-test: then it is no image's fault that it raises."""
    try:
        selftest.check(segmenter)
    except Exception as error:
        raise BrokenModel(f"the model no longer passes its self-test: {first_line(error)}") from error


def check_mount(sessions: Sessions, run: RunView, claim: Claim, batch: Sequence[Outcome], seconds: float) -> None:
    """Raise `Infrastructure` if a whole batch is gone and so is a file that this run has read before, with its folder.

    Without the second condition a folder that was simply deleted would never come to an end, without the third one
    somebody who deletes what is done. A mount that does not answer within `seconds` is lost too, and so was one that
    has come back since the batch was read.
    """
    if not all(isinstance(outcome, ImageFailed) and outcome.error_class in GONE for outcome in batch):
        return
    read_before = read(sessions, some_done_path, run.id)
    if read_before is None:
        return
    missing = {
        outcome.image_id for outcome in batch if isinstance(outcome, ImageFailed) and outcome.error_class in LOST
    }
    own = [location.place(run.source.root, image.path) for image in claim.images if image.id in missing]
    path = location.place(run.source.root, read_before)
    answers: list[str | None] = []
    # In a thread of its own, because nothing else ends the wait for a mount that hangs.
    asking = threading.Thread(target=lambda: answers.append(_lost(path, own)), name="mount", daemon=True)
    asking.start()
    asking.join(seconds)
    if not answers:
        raise Infrastructure(f"{path} was read before and no longer answers: does a mount hang?")
    if (reason := answers[0]) is not None:
        raise Infrastructure(reason)


def _lost(read_before: str, missing: Sequence[str]) -> str | None:
    """In words, why the mount is or was lost; None if these files are simply missing."""
    gone = location.why_not_opened(read_before)
    if gone is not None and not location.has_neighbours(read_before):
        return f"{read_before} was read before and is gone ({gone.strerror}): is a mount lost?"
    if missing and location.why_not_opened(missing[0]) is None:
        return f"{missing[0]} was missing and is there again: was a mount lost?"
    return None
