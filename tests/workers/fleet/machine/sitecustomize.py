"""Stands for NVIDIA's libnvidia-ml in every Python that starts with this folder in its path: FAKE_MACHINE's GPUs."""

import ctypes
import json
import os
import time
from pathlib import Path
from typing import Any

_SAYS = {3: b"Not Supported", 4: b"Insufficient Permissions", 6: b"Not Found", 15: b"GPU is lost"}
_machine: dict[str, Any] = json.loads(Path(os.environ["FAKE_MACHINE"]).read_text())
_real = ctypes.CDLL


class _Nvml:
    """A handle is a GPU's number times 100, plus that of its slice, counted from 1."""

    def __init__(self) -> None:
        self.nvmlErrorString = lambda number: _SAYS[number]
        self._gpus = _machine["gpus"]

    def nvmlInit_v2(self) -> int:
        if _machine["nvml"] == "hangs":
            time.sleep(3600)
        return 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        count._obj.value = len(self._gpus)
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, number: Any, handle: Any) -> int:
        gpu = self._gpus[number.value]
        handle._obj.value = (number.value + 1) * 100
        return 4 if gpu["hidden"] else int(gpu["nvml_error"])

    def nvmlDeviceGetMigMode(self, handle: Any, now: Any, later: Any) -> int:
        gpu = self._gpus[handle.value // 100 - 1]
        now._obj.value = later._obj.value = gpu["mig"] or 0
        return 3 if gpu["mig"] is None else 0

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Any, most: Any) -> int:
        most._obj.value = 7
        return 0

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Any, number: Any, found: Any) -> int:
        found._obj.value = handle.value + number.value + 1
        return 0 if number.value < len(self._gpus[handle.value // 100 - 1]["slices"]) else 6

    def nvmlDeviceGetUUID(self, handle: Any, text: Any, size: Any) -> int:
        gpu = self._gpus[handle.value // 100 - 1]
        text.value = (gpu["slices"][handle.value % 100 - 1] if handle.value % 100 else gpu)["uuid"].encode()
        return 0


def _library(name: str | None, *how: Any, **more: Any) -> Any:
    if name != "libnvidia-ml.so.1":
        return _real(name, *how, **more)
    if _machine["nvml"] == "missing":
        raise OSError("libnvidia-ml.so.1: cannot open shared object file: No such file or directory")
    return _Nvml()


ctypes.CDLL = _library  # type: ignore[assignment,misc]
