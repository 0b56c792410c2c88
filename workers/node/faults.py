"""Judges errors: what an error means for the chunk in hand, for this process, and for the node. Carries nothing out."""

import errno
from dataclasses import dataclass
from enum import Enum, auto

from sqlalchemy.exc import SQLAlchemyError

from db.claims import LeaseLost
from db.refusals import is_refused
from workers.errors import ErrorClass, first_line, one_line
from workers.inference.no_memory import may_be_short
from workers.inference.protocol import OutOfMemory

# What only a GPU and its libraries say, by which an error is known as theirs. "cuda" is no such word: devices are
# called so in errors that any code may raise. The last ones are an AMD GPU's.
GPU_WORDS = (
    "CUDA", "cuDNN", "CUDNN", "cudnn", "mha_graph", "cuBLAS", "CUBLAS", "NVML_",
    "HIP error", "HIP out of memory", "miopenStatus",
)  # fmt: skip
GPU_CLASSES = {"AcceleratorError", "CudaError", "DeferredCudaCallError"}  # of torch, whatever their texts
# What a GPU or its driver says, in lower case, when no work that it was given can have been the reason. An error that a
# kernel's own mistake may cause as well, such as an illegal memory access, is not among them.
CARD_WORDS = (
    "uncorrectable ecc error",
    "uncorrectable nvlink error",
    "or a hardware error",
    "unknown error",  # among others, when the GPU is no longer on its bus
    "fallen off the bus",
    "gpu is lost",
    "gpu requires reset",
    "busy or unavailable",
    "no cuda-capable device is detected",
    "no cuda gpus are available",
    "the launch timed out",  # a display's GPU, or one that hangs: our kernels are short
    "no kernel image is available",
    "device kernel image is invalid",
    "system not yet initialized",
    "driver / cuda driver combination",
    "driver version is insufficient",
    "driver shutting down",
    "initialization error",
    "mps client",  # of a server that several processes share
    "mps server",
)
DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


class Infrastructure(Exception):
    """The surroundings failed, and not the chunk: the attempt does not count."""


class BrokenModel(Infrastructure):
    """The model in this process does not work any more."""


class Ruling(Enum):
    """What becomes of the chunk in hand."""

    GIVE_BACK = auto()  # the attempt does not count: another attempt, elsewhere or later, may succeed
    CHARGE = auto()  # the attempt counts: the chunk rests, and fails at the fifth such attempt
    HOLD = auto()  # the chunk stays claimed until this process is found dead, which counts as a crash
    LOST = auto()  # another worker has the chunk already, or its run is stopped


@dataclass(frozen=True)
class Verdict:
    """What an error means for the chunk, the process and the node."""

    ruling: Ruling
    line: str  # the error in one line
    is_fault: bool = False  # whether the surroundings failed: three such faults in a row end the node
    ends_process: bool = False  # whether this process can no longer be trusted with images
    error_class: ErrorClass = ErrorClass.INTERNAL  # of the images that fail with a chunk that is charged


def judge(error: Exception, gpu_works: bool) -> Verdict:
    """The verdict on an error that ended an attempt, or happened before the claim.

    `gpu_works`: whether this process has shown that its GPU works, by a commit or by a thorough self-test.
    """
    line = one_line(first_line(error))
    if isinstance(error, LeaseLost):
        return Verdict(Ruling.LOST, line)
    if is_gpu_fault(error) or isinstance(error, BrokenModel):
        # A GPU that was seen to work may have been broken by an image of the chunk, unless it says itself that it is
        # broken. Any other is the suspect itself, and the chunk goes back. The next process tests its GPU thoroughly
        # before it claims anything.
        ruling = Ruling.HOLD if gpu_works and not blames_card(error) else Ruling.GIVE_BACK
        return Verdict(ruling, line, is_fault=True, ends_process=True, error_class=ErrorClass.CRASHED)
    if is_infrastructure(error):
        return Verdict(Ruling.GIVE_BACK, line or type(error).__name__, is_fault=True)
    return Verdict(Ruling.CHARGE, one_line(f"{type(error).__name__}: {error}"))


def is_infrastructure(error: BaseException) -> bool:
    """Whether another attempt, elsewhere or later, may succeed with the same images."""
    if isinstance(error, OSError):
        return error.errno in DISK_FAULTS
    if isinstance(error, SQLAlchemyError):
        return not is_refused(error)
    # The images that a batch finds no memory for are halved, so that an `OutOfMemory` that gets here is not theirs.
    return isinstance(error, Infrastructure | OutOfMemory) or is_gpu_fault(error)


def is_gpu_fault(error: BaseException) -> bool:
    """Whether the GPU failed in a way that the process may not recover from: its CUDA context is suspect.

    Where running out of memory can be mended, that has been tried before an error gets here.
    """
    # By its text: the class differs between releases of torch, which this process may not even have.
    if GPU_CLASSES & {kind.__name__ for kind in type(error).__mro__}:
        return True
    if may_be_short(error):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in GPU_WORDS)


def blames_card(error: BaseException) -> bool:
    """Whether a fault of the GPU, by its own words, has nothing to do with what it was given to compute."""
    text = str(error).lower()
    return any(words in text for words in CARD_WORDS)
