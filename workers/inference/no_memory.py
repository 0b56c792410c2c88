"""The messages with which torch, drivers and libraries say that memory is short. Imports none of them."""

# Each is a part of a message, in lower case, with its source.
SURE = (
    "out of memory",  # torch on a GPU (CUDA, HIP), its runtime, its driver, Triton
    "can't allocate memory",  # torch on a CPU
    "not enough memory",  # torch on a CPU with Windows
    "_status_alloc_failed",  # cuBLAS, cuSOLVER, cuDNN 8
    "_allocation_failed",  # cuDNN 9, on the host or on the device
    "hiperroroutofmemory",
)
# Messages that come if memory is short, but also if a GPU or its libraries are broken.
PERHAPS = (
    "unable to find an engine to execute this computation",  # cuDNN: no plan got its workspace, or none works
    "unable to find a valid cudnn algorithm to run convolution",  # the same, of older code
    "cublas_status_not_initialized",  # no memory for its handle, or no GPU that works
    "cudnn_status_not_initialized",  # the same
    "nvml_success == r",  # torch asks the driver what is left, and gets no answer, as on a MIG slice or a Jetson
)


def is_short(error: BaseException, images: int = 1) -> bool:
    """Whether this error, of so many images at a time, says that fewer may fit.

    A message that may have another cause (`PERHAPS`) counts only if there are several images: then half of them are
    tried, and in the end one alone. If one image alone gets the same error, memory is not the cause.
    """
    return _says(error, SURE) or (images > 1 and may_be_short(error))


def may_be_short(error: BaseException) -> bool:
    """Whether this error may mean that memory is short, or else that a GPU is broken."""
    return _says(error, PERHAPS)


def _says(error: BaseException, words: tuple[str, ...]) -> bool:
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(one in text for one in words)
