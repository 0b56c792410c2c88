"""What says that memory is short, word for word as torch, drivers and libraries say it."""

import pytest

from workers.inference.no_memory import is_short
from workers.node.faults import is_gpu_fault

SURE = [
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.79 GiB of which 1.04 GiB is free.",
    "HIP out of memory. Tried to allocate 4.50 GiB. GPU 0 has a total capacity of 15.98 GiB of which 1.40 GiB is free.",
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
    "CUDA driver error: out of memory",
    "HIP error: out of memory",
    "HIP error: hipErrorOutOfMemory",
    "Triton Error [CUDA]: out of memory",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`",
    "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "67108864 bytes. Error code 12 (Cannot allocate memory)",
    "[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: not enough memory: you tried to allocate 67108864 "
    "bytes.",
]
PERHAPS = [
    "GET was unable to find an engine to execute this computation",
    "FIND was unable to find an engine to execute this computation",
    "Unable to find an engine to execute this computation",
    "Unable to find a valid cuDNN algorithm to run convolution",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "../c10/cuda/CUDACachingAllocator.cpp":838, please report a bug to '
    "PyTorch. ",
]
OTHER = [
    "CUDA error: an illegal memory access was encountered",
    "CUDA error: unspecified launch failure",
    "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    "Triton Error [CUDA]: an illegal memory access was encountered",
    "Expected mha_graph.execute(handle, variant_pack, workspace_ptr.get()).is_good() to be true, but got false.",
    "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)",
]


@pytest.mark.parametrize("said", SURE)
@pytest.mark.parametrize("images", [1, 8])
def test_what_says_that_memory_is_short_is_believed(said: str, images: int) -> None:
    assert is_short(RuntimeError(said), images)


@pytest.mark.parametrize("said", PERHAPS)
def test_what_may_mean_memory_is_tried_with_fewer_images_and_of_one_alone_it_is_the_gpus(said: str) -> None:
    assert is_short(RuntimeError(said), 2)
    assert not is_short(RuntimeError(said), 1)
    assert is_gpu_fault(RuntimeError(said))


@pytest.mark.parametrize("said", OTHER)
def test_other_errors_of_gpus_and_libraries_are_not_about_memory(said: str) -> None:
    assert not is_short(RuntimeError(said), 8)


def test_what_is_no_runtime_error_is_not_about_a_devices_memory() -> None:
    assert not is_short(ValueError("CUDA out of memory"), 8)
