"""`python -m workers.fleet.ask_gpus list|try` prints facts about this machine's GPUs, as a line of JSON.

It is a program, so that it can be ended if the driver hangs. `list` asks the driver, which takes milliseconds; `try`
has torch compute on the one GPU in CUDA_VISIBLE_DEVICES. Chooses no GPU.
"""

import ctypes
import json
import sys
from collections.abc import Iterator
from typing import Any

NOT_OURS = {4, 6}  # NVML's numbers for "no permission", as for what a cgroup hides, and for "not found"
UUID_BYTES = 96
TRIED = 16 << 20  # numbers that torch adds up: 64 MB, as a driver may give a little memory and no more

Gpu = dict[str, str | None]  # "id": what CUDA_VISIBLE_DEVICES takes; "error": why it cannot be used, if that is known


class NvmlError(Exception):
    """The driver refused a call."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(text)
        self.number = number


class Nvml:
    """NVIDIA's library that gives facts about GPUs without using them. Raises `OSError` if it is not installed."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libnvidia-ml.so.1")
        self._library.nvmlErrorString.restype = ctypes.c_char_p
        self._call("nvmlInit_v2")

    def gpus(self) -> list[Gpu]:
        """All GPUs in the order of nvidia-smi. A GPU that is divided into slices (MIG) is given as its slices."""
        count = ctypes.c_uint()
        self._call("nvmlDeviceGetCount_v2", ctypes.byref(count))
        return [gpu for number in range(count.value) for gpu in self._at(number)]

    def _at(self, number: int) -> Iterator[Gpu]:
        handle = ctypes.c_void_p()
        try:
            self._call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(number), ctypes.byref(handle))
            handles = list(self._slices(handle)) if self._is_sliced(handle) else [handle]
            for each in handles:
                yield {"id": self._uuid(each), "error": None}
            if not handles:
                yield {"id": None, "error": "it is in MIG mode and has no slices"}
        except NvmlError as error:
            if error.number not in NOT_OURS:
                yield {"id": None, "error": str(error)}

    def _is_sliced(self, handle: ctypes.c_void_p) -> bool:
        now, later = ctypes.c_uint(), ctypes.c_uint()
        try:
            self._call("nvmlDeviceGetMigMode", handle, ctypes.byref(now), ctypes.byref(later))
        except (NvmlError, AttributeError):  # a GPU, or a driver, that knows no slices
            return False
        return bool(now.value)

    def _slices(self, handle: ctypes.c_void_p) -> Iterator[ctypes.c_void_p]:
        most = ctypes.c_uint()
        self._call("nvmlDeviceGetMaxMigDeviceCount", handle, ctypes.byref(most))
        for number in range(most.value):
            found = ctypes.c_void_p()
            try:
                self._call("nvmlDeviceGetMigDeviceHandleByIndex", handle, ctypes.c_uint(number), ctypes.byref(found))
            except NvmlError as error:
                if error.number not in NOT_OURS:
                    raise
            else:
                yield found

    def _uuid(self, handle: ctypes.c_void_p) -> str:
        text = ctypes.create_string_buffer(UUID_BYTES)
        self._call("nvmlDeviceGetUUID", handle, text, ctypes.c_uint(UUID_BYTES))
        return text.value.decode()

    def _call(self, name: str, *arguments: Any) -> None:
        if number := getattr(self._library, name)(*arguments):
            raise NvmlError(number, self._library.nvmlErrorString(number).decode())


def list_gpus() -> dict[str, Any]:
    """All GPUs as `gpus`, or an `error`; none of them is used. Without the driver's library torch counts them."""
    try:
        return {"gpus": Nvml().gpus()}
    except (OSError, NvmlError, AttributeError) as error:
        said = str(error) if isinstance(error, NvmlError) else None
    try:
        import torch
    except ImportError as error:
        return {"error": _no_torch(error)}
    count = torch.cuda.device_count()
    return {"gpus": [{"id": str(number), "error": None} for number in range(count)], "why": said or _built(torch)}


def try_gpu() -> dict[str, Any]:
    """Have torch compute on the only GPU that it sees. Gives its `name` and `uuid`, or an `error`."""
    try:
        import torch
    except ImportError as error:
        return {"error": _no_torch(error)}
    try:
        torch.zeros(TRIED, device="cuda").sum().tolist()
        gpu = torch.cuda.get_device_properties(0)
    except Exception as error:
        if not (torch.version.cuda or torch.version.hip):  # then the error says less
            return {"error": _built(torch)}
        return {"error": f"{str(error).splitlines()[0]}{_kernels(torch, error)}"}
    uuid = getattr(gpu, "uuid", None)
    return {"name": gpu.name, "uuid": uuid and str(uuid), "by_uuid": torch.version.hip is None}


def _kernels(torch: Any, error: Exception) -> str:
    """What torch was built for, if it has no kernels for this GPU."""
    if "no kernel image" not in str(error):
        return ""
    major, minor = torch.cuda.get_device_capability(0)
    return f": it is an sm_{major}{minor}, and torch {torch.__version__} has {' '.join(torch.cuda.get_arch_list())}"


def _built(torch: Any) -> str:
    return f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built without CUDA"


def _no_torch(error: ImportError) -> str:
    return f"torch cannot be imported ({error}); pip install 'sam3-queue[worker]'"


if __name__ == "__main__":
    print(json.dumps({"list": list_gpus, "try": try_gpu}[sys.argv[1]]()))
