"""Which slots (a GPU each, or CPU ones) a machine offers; asks torch in a short process and imports it nowhere."""

import ctypes
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec

from workers.errors import UsageError

_ASK_TORCH = """
import json, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    try:
        import torch
    except ImportError as error:
        print(json.dumps({"error": f"torch cannot be imported ({error}); pip install 'sam3-queue[worker]'"}))
        raise SystemExit
    names, error = [], None
    try:
        if torch.cuda.is_available():
            for index in range(torch.cuda.device_count()):
                torch.zeros(1, device=f"cuda:{index}")
                names.append(torch.cuda.get_device_name(index))
    except Exception as failure:
        error = str(failure).splitlines()[0]
if not names and not error and caught:
    error = str(caught[0].message).splitlines()[0]
print(json.dumps({"names": names, "error": error, "built": torch.version.cuda}))
"""


@dataclass(frozen=True)
class Slot:
    """One place for a node: its name, and the value of CUDA_VISIBLE_DEVICES it gets (None on a CPU)."""

    name: str
    visible: str | None

    @property
    def device(self) -> str:
        return "cpu" if self.visible is None else "cuda"


def choose_slots(gpus: str, count: int | None) -> list[Slot]:
    """The slots that `--gpus all|0,1|cpu` and `--num-gpus N` ask for.

    Raises `UsageError`, naming what torch says, when there is no GPU that it can use.
    """
    if gpus == "cpu":
        return [Slot(f"cpu{number}", None) for number in range(count or 1)]
    names = usable_gpus()
    wanted = list(range(len(names))) if gpus == "all" else _indices(gpus)
    if missing := [index for index in wanted if index >= len(names)]:
        raise UsageError(f"--gpus {gpus}: there is no GPU {missing[0]}; this machine has 0 to {len(names) - 1}")
    if count is not None and count > len(wanted):
        raise UsageError(f"--num-gpus {count}: only {len(wanted)} GPU{'s' if len(wanted) != 1 else ''} to use")
    visible = _visible(len(names))
    return [Slot(f"gpu{visible[index]}", visible[index]) for index in wanted[:count]]


def usable_gpus() -> list[str]:
    """Names of the GPUs that torch can use. Raises `UsageError` with the reason when there is none."""
    if sys.platform == "linux" and find_spec("torch") is not None and not _has_driver():
        raise UsageError("no GPU found (no driver of one is installed here); use --gpus cpu")
    asked = subprocess.run([sys.executable, "-P", "-c", _ASK_TORCH], capture_output=True, text=True, check=False)
    try:
        answer = json.loads(asked.stdout)
    except ValueError:
        lines = asked.stderr.strip().splitlines()
        answer = {"error": lines[-1] if lines else f"python ended with {asked.returncode}"}
    if answer.get("error") and not answer.get("names"):
        raise UsageError(f"no GPU that torch can use: {answer['error']}; use --gpus cpu")
    if not answer["names"]:
        built = f"torch is built for CUDA {answer['built']}" if answer["built"] else "torch is built without CUDA"
        raise UsageError(f"no GPU found ({built}); use --gpus cpu")
    return list(answer["names"])


def _has_driver() -> bool:
    """Whether the library is there without which torch finds no NVIDIA GPU, or the device without which no AMD one.

    That is quickly told, while torch takes seconds to be imported.
    """
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return os.path.exists("/dev/kfd")
    return True


def _indices(gpus: str) -> list[int]:
    try:
        indices = [int(part) for part in gpus.split(",")]
    except ValueError:
        raise UsageError(f"--gpus {gpus}: give all, cpu, or numbers such as 0,1") from None
    if min(indices) < 0 or len(set(indices)) != len(indices):
        raise UsageError(f"--gpus {gpus}: give each GPU once, counting from 0")
    return indices


def _visible(count: int) -> list[str]:
    """What the driver calls our GPUs: a scheduler may have given us only some of the machine's."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [name.strip() for name in given.split(",")] if given else [str(index) for index in range(count)]
