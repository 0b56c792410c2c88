"""What says that memory is short, word for word as torch, drivers and libraries say it."""

import ctypes
from importlib.metadata import PackageNotFoundError, distribution

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
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",  # of cuDNN 8
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDA ran out of memory outside PyTorch's allocator. If this workload uses many dynamic shapes, cuDNN may need "
    "additional device memory to JIT-compile shape-specialized kernels. Consider calling "
    "torch.cuda.memory.set_per_process_memory_fraction(fraction) early in the process to leave memory available for "
    "cuDNN.",
    "CUDA out of memory. Allocation was preemptively rejected because it would exceed per_process_memory_fraction "
    "limit. Requested size: 2.00 GiB",
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
    "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
    'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "../c10/cuda/CUDACachingAllocator.cpp":838, please report a bug to '
    "PyTorch. ",
]
OTHER = [
    "CUDA error: an illegal memory access was encountered",
    "CUDA error: unspecified launch failure",
    "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    "cuDNN error: CUDNN_STATUS_SUBLIBRARY_VERSION_MISMATCH",
    "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED_SHARED_MEMORY_INSUFFICIENT",
    "out of resource: shared memory, Required: 147456, Hardware limit: 101376. Reducing block sizes or `num_stages` "
    "may help.",  # Triton's, of kernels for a larger GPU
    "Triton Error [CUDA]: an illegal memory access was encountered",
    "Expected mha_graph.execute(handle, variant_pack, workspace_ptr.get()).is_good() to be true, but got false.",
    "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)",
]


def test_the_table_has_what_cudnn_itself_says_of_memory() -> None:
    try:
        files = distribution("nvidia-cudnn-cu13").files or []
    except PackageNotFoundError:
        pytest.skip("torch came without this cuDNN")
    [library] = [file for file in files if file.name == "libcudnn.so.9"]
    say = ctypes.CDLL(str(library.locate())).cudnnGetErrorString
    say.restype = ctypes.c_char_p
    said = {f"cuDNN error: {say(number).decode()}" for number in range(6000)}
    assert {text for text in said if "ALLOC" in text} == {text for text in SURE if "INTERNAL_ERROR" in text}
    assert {text for text in said if "NOT_INITIALIZED" in text} <= set(PERHAPS)


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
