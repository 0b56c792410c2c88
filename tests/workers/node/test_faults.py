"""Which faults are a chunk's own, and which are around it."""

import ctypes
import errno
from importlib.metadata import PackageNotFoundError, distribution

import pytest
from sqlalchemy.exc import IntegrityError, OperationalError

from db.claims import LeaseLost
from workers.errors import ErrorClass
from workers.inference.protocol import OutOfMemory
from workers.node.faults import BrokenModel, Infrastructure, Ruling, Verdict, is_gpu_fault, is_infrastructure, judge


def test_what_the_database_refuses_is_no_fault_of_the_surroundings() -> None:
    refused = IntegrityError("insert", {}, Exception("NOT NULL constraint failed"))
    assert not is_infrastructure(refused)
    assert is_infrastructure(OperationalError("insert", {}, Exception("server closed the connection")))
    assert is_infrastructure(OSError(errno.ENOSPC, "No space left on device"))


# By CUDA's number of it, what its runtime says, word for word, and whether that is about the card and not its work.
CUDA_ERRORS = [
    (3, "initialization error", True),
    (4, "driver shutting down", True),
    (35, "CUDA driver version is insufficient for CUDA runtime version", True),
    (46, "CUDA-capable device(s) is/are busy or unavailable", True),
    (100, "no CUDA-capable device is detected", True),
    (200, "device kernel image is invalid", True),
    (209, "no kernel image is available for execution on the device", True),
    (214, "uncorrectable ECC error encountered", True),
    (220, "uncorrectable NVLink error detected during the execution", True),
    (226, "Invalid access of peer GPU memory over nvlink or a hardware error", True),
    (702, "the launch timed out and was terminated", True),
    (802, "system not yet initialized", True),
    (803, "system has unsupported display driver / cuda driver combination", True),
    (805, "MPS client failed to connect to the MPS control daemon or the MPS server", True),
    (806, "the remote procedural call between the MPS server and the MPS client failed", True),
    (810, "the MPS client has been terminated by the server", True),
    (999, "unknown error", True),
    (1, "invalid argument", False),
    (700, "an illegal memory access was encountered", False),
    (701, "too many resources requested for launch", False),
    (710, "device-side assert triggered", False),
    (714, "hardware stack error", False),  # "possibly due to stack corruption", which a kernel does
    (715, "an illegal instruction was encountered", False),
    (716, "misaligned address", False),
    (718, "invalid program counter", False),
    (719, "unspecified launch failure", False),
]
AROUND = (
    "CUDA error: {}\nSearch for `cudaError...' in https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html"
    " for more information.\nCUDA kernel errors might be asynchronously reported at some other API call, so the"
    " stacktrace below might be incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\nCompile with"
    " `TORCH_USE_CUDA_DSA` to enable device-side assertions.\n"
)
# What else is said around a GPU, word for word as its authors' sources or users' reports have it.
OTHER_ERRORS = [
    ("CUDA error: all CUDA-capable devices are busy or unavailable", True),  # of older runtimes
    ("CUDA driver error: unknown error", True),
    ("CUDA unknown error - this may be due to an incorrectly set up environment, e.g. changing env variable "
     "CUDA_VISIBLE_DEVICES after program start. Setting the available devices to be zero.", True),
    ("CUDA driver error: invalid argument", False),
    ("Triton Error [CUDA]: device kernel image is invalid", True),
    ("Triton Error [CUDA]: an illegal memory access was encountered", False),
    ("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle, opa, opb, m, n, k)`", False),
    ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", False),
    ("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR", False),
    ("[cudnn_frontend] Error: No execution plans support the graph.", False),
    ("Expected mha_graph.execute(handle, variant_pack, workspace_ptr.get()).is_good() to be true, but got false.  "
     "(Could this error message be improved?  If so, please report an enhancement request to PyTorch.)", False),
    ('NVML_SUCCESS == DriverAPI::get()->nvmlInit_v2_() INTERNAL ASSERT FAILED at "/__w/pytorch/pytorch/c10/cuda/'
     'PeerToPeerAccess.cpp":83, please report a bug to PyTorch. ', False),
    ("HIP error: an illegal memory access was encountered", False),
]  # fmt: skip
SAID = [*((AROUND.format(text), cards) for _, text, cards in CUDA_ERRORS), *OTHER_ERRORS]


@pytest.mark.parametrize(("said", "cards"), SAID)
def test_what_a_gpu_says_is_a_fault_of_the_gpu_and_charged_to_a_chunk_only_if_its_images_can_be_the_reason(
    said: str, *, cards: bool
) -> None:
    error = RuntimeError(said)
    assert is_gpu_fault(error)
    assert is_infrastructure(error)
    verdict = judge(error, gpu_works=True)
    assert verdict.ruling is (Ruling.GIVE_BACK if cards else Ruling.HOLD)
    assert (verdict.is_fault, verdict.ends_process) == (True, True)
    assert judge(error, gpu_works=False).ruling is Ruling.GIVE_BACK


def test_the_table_has_the_words_of_cudas_own_runtime() -> None:
    try:
        nvidia = distribution("nvidia-cuda-runtime")
    except PackageNotFoundError:
        pytest.skip("torch came without CUDA")
    [library] = [file for file in nvidia.files or [] if file.name.startswith("libcudart.so")]
    say = ctypes.CDLL(str(library.locate())).cudaGetErrorString
    say.restype = ctypes.c_char_p
    assert [(number, say(number).decode()) for number, *_ in CUDA_ERRORS] == [(one[0], one[1]) for one in CUDA_ERRORS]


class CudaError(RuntimeError):
    """Named as torch's, which puts no more before the runtime's words."""


class DeferredCudaCallError(Exception):
    """Named as torch's, which is no RuntimeError."""


@pytest.mark.parametrize(
    ("error", "ruling"),
    [
        (CudaError("uncorrectable ECC error encountered (214)"), Ruling.GIVE_BACK),
        (CudaError("an illegal memory access was encountered (700)"), Ruling.HOLD),
        (DeferredCudaCallError("call failed lazily at initialization with error: device >= 0"), Ruling.HOLD),
    ],
    ids=repr,
)
def test_an_error_of_torchs_own_kind_for_gpus_is_known_whatever_it_says(error: Exception, ruling: Ruling) -> None:
    assert is_gpu_fault(error)
    assert judge(error, gpu_works=True).ruling is ruling


def test_a_self_test_that_fails_for_the_card_in_the_midst_of_a_chunk_is_not_charged_to_it() -> None:
    error = BrokenModel("the model no longer passes its self-test: CUDA error: uncorrectable ECC error encountered")
    assert judge(error, gpu_works=True).ruling is Ruling.GIVE_BACK


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
        RuntimeError("Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"),
        ValueError("CUDA is not a prompt"),
    ],
    ids=str,
)
def test_a_bug_of_ours_is_no_fault_of_the_gpu(error: Exception) -> None:
    assert not is_gpu_fault(error)
    assert not is_infrastructure(error)


DISK = OSError(errno.ENOSPC, "No space left on device")
AWAY = OperationalError("commit", {}, Exception("server closed the connection\nunexpectedly"))
GPU = RuntimeError("CUDA error: device-side assert triggered\nCompile with ...")


@pytest.mark.parametrize(
    ("error", "gpu_works", "verdict"),
    [
        (LeaseLost(), True, Verdict(Ruling.LOST, "")),
        (LeaseLost("2 of 4"), True, Verdict(Ruling.LOST, "2 of 4")),
        (DISK, True, Verdict(Ruling.GIVE_BACK, "[Errno 28] No space left on device", is_fault=True)),
        (AWAY, True, Verdict(Ruling.GIVE_BACK, "(builtins.Exception) server closed the connection", is_fault=True)),
        (OutOfMemory(), True, Verdict(Ruling.GIVE_BACK, str(OutOfMemory()), is_fault=True)),
        (Infrastructure("a mount"), True, Verdict(Ruling.GIVE_BACK, "a mount", is_fault=True)),
        (ValueError("two\nlines"), True, Verdict(Ruling.CHARGE, "ValueError: two lines")),
        (MemoryError(), True, Verdict(Ruling.CHARGE, "MemoryError:")),
    ],
    ids=repr,
)
def test_an_error_is_judged_by_whether_the_same_images_may_succeed(
    error: Exception, gpu_works: bool, verdict: Verdict
) -> None:
    assert judge(error, gpu_works) == verdict


@pytest.mark.parametrize("error", [GPU, BrokenModel("the model no longer passes its self-test: nan")], ids=repr)
@pytest.mark.parametrize(("gpu_works", "ruling"), [(True, Ruling.HOLD), (False, Ruling.GIVE_BACK)])
def test_a_broken_gpu_ends_the_process_and_charges_the_chunk_only_if_the_gpu_was_seen_to_work(
    error: Exception, gpu_works: bool, ruling: Ruling
) -> None:
    verdict = judge(error, gpu_works)
    assert (verdict.ruling, verdict.is_fault, verdict.ends_process) == (ruling, True, True)
    assert verdict.error_class == ErrorClass.CRASHED
    assert "\n" not in verdict.line
