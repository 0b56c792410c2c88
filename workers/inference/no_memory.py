"""How torch, drivers and libraries say that memory is short. Knows their words only, and none of them."""

# Each is part of what is said, word for word, and by whom.
SURE = (
    "out of memory",  # torch on a GPU (CUDA, HIP), its runtime, its driver, Triton
    "can't allocate memory",  # torch on a CPU
    "not enough memory",  # torch on a CPU with Windows
    "_STATUS_ALLOC_FAILED",  # cuBLAS, cuDNN, cuSOLVER
    "hipErrorOutOfMemory",
)
# What is said where memory is short, and where a GPU or its libraries are broken as well.
PERHAPS = (
    "unable to find an engine to execute this computation",  # cuDNN: no plan got its workspace, or none works
    "Unable to find a valid cuDNN algorithm to run convolution",  # the same, of older code
    "CUBLAS_STATUS_NOT_INITIALIZED",  # no memory for its handle, or no GPU that works
    "NVML_SUCCESS == r",  # torch asks the driver what is left, and gets no answer, as on a MIG slice or a Jetson
)


def is_short(error: BaseException, images: int = 1) -> bool:
    """Whether this error, of so many images at a time, says that fewer may fit.

    What only perhaps means memory is believed of several images: half of them are tried, and at last one alone. If that
    one gets the same error, it is not for want of memory.
    """
    if not isinstance(error, RuntimeError):
        return False
    text = str(error)
    return any(words in text for words in SURE) or (images > 1 and any(words in text for words in PERHAPS))
