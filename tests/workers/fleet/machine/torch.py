"""Stands for torch in a process that asks a GPU: what FAKE_MACHINE describes, seen as CUDA_VISIBLE_DEVICES says."""

import json
import os
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_machine: dict[str, Any] = json.loads(Path(os.environ["FAKE_MACHINE"]).read_text())
version = SimpleNamespace(cuda=_machine["built"], hip=_machine["hip"])
warnings.warn("The pynvml package is deprecated. Please install nvidia-ml-py instead.", FutureWarning, stacklevel=2)


def _seen() -> list[dict[str, Any]]:
    by_number = [gpu for gpu in _machine["gpus"] if not gpu["hidden"]]
    if os.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        by_number.sort(key=lambda gpu: not gpu["fast"])
    names = os.environ.get("HIP_VISIBLE_DEVICES") if _machine["hip"] else None
    names = os.environ.get("CUDA_VISIBLE_DEVICES") if names is None else names
    if names is None:
        return by_number
    slices = [one for gpu in by_number for one in gpu["slices"]]
    found = []
    for name in names.split(","):
        if name.isdigit():
            found += by_number[int(name) : int(name) + 1]
        else:
            found += [gpu for gpu in (*by_number, *slices) if gpu["uuid"].startswith(name) or gpu.get("old") == name]
    return found


__version__ = "2.14.1"


def zeros(count: int, device: str) -> Any:
    with Path(os.environ["FAKE_MACHINE"] + ".tried").open("a") as tried:
        tried.write(f"{os.environ.get('CUDA_VISIBLE_DEVICES')}\n")
    if _machine["torch_error"]:
        raise RuntimeError(_machine["torch_error"])
    if not (seen := _seen()):
        raise RuntimeError("No CUDA GPUs are available")
    if any(gpu["hangs"] for gpu in seen):
        time.sleep(3600)
    for gpu in seen:  # all that are visible: a bad one spoils the others
        if gpu["error"]:
            raise RuntimeError(gpu["error"])
        if gpu["fixed"] and "expandable_segments:True" in os.environ.get("PYTORCH_ALLOC_CONF", ""):
            raise RuntimeError("CUDA driver error: operation not supported")
    return SimpleNamespace(sum=lambda: SimpleNamespace(tolist=lambda: 0.0))


def _properties(number: int) -> Any:
    gpu = _seen()[number]
    return SimpleNamespace(name=gpu["name"], uuid=gpu["uuid"].removeprefix("GPU-").removeprefix("MIG-"))


cuda = SimpleNamespace(
    device_count=lambda: len(_seen()),
    get_device_properties=_properties,
    get_device_capability=lambda number: (7, 0),
    get_arch_list=lambda: ["sm_75", "sm_80"],
)
