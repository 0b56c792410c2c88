"""Which faults are a chunk's own, and which are around it."""

import errno

import pytest
from sqlalchemy.exc import IntegrityError, OperationalError

from db.claims import LeaseLost
from workers.errors import ErrorClass
from workers.node.faults import BrokenModel, Infrastructure, Ruling, Verdict, is_gpu_fault, is_infrastructure, judge


def test_what_the_database_refuses_is_no_fault_of_the_surroundings() -> None:
    refused = IntegrityError("insert", {}, Exception("NOT NULL constraint failed"))
    assert not is_infrastructure(refused)
    assert is_infrastructure(OperationalError("insert", {}, Exception("server closed the connection")))
    assert is_infrastructure(OSError(errno.ENOSPC, "No space left on device"))


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be asynchronously reported",
        "CUDA error: device-side assert triggered",
        "CUDA error: uncorrectable ECC error encountered",
        "CUDA error: unspecified launch failure",
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.79 GiB",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle, opa, opb, m, n, k)`",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuBLAS error: the library was not initialized",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
        "GET was unable to find an engine to execute this computation: CUDNN_STATUS_NOT_SUPPORTED",
        "NCCL error in: ../torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:1691, unhandled system error",
        'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "../c10/cuda/CUDACachingAllocator.cpp":838',
    ],
)
def test_what_the_gpu_and_its_libraries_say_is_a_fault_of_the_gpu(said: str) -> None:
    assert is_gpu_fault(RuntimeError(said))
    assert is_infrastructure(RuntimeError(said))


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
