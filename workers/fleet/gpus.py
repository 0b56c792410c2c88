"""Finds the slots of a machine: its GPUs, or shares of its CPU. Short processes look at GPUs; imports no torch."""

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from workers.errors import UsageError
from workers.fleet.gpu_memory import growing
from workers.machine.cores import usable_cores

LIST_SECONDS = 60.0  # time limit for a list of all GPUs; the driver may have to wake up eight of them
TRY_SECONDS = 120.0  # time limit for a try of one GPU; the import of torch from a slow disk takes most of it
VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")  # an AMD GPU obeys either; if both are set, the second one

Say = Callable[[str], None]


@dataclass(frozen=True)
class Slot:
    """One place for a node: its name, and the value of CUDA_VISIBLE_DEVICES it gets (None on a CPU).

    `card` is the UUID of the GPU or of its slice, if it has one. It does not depend on how a process numbers GPUs.
    `grows`: its memory can be allocated so that it grows in place.
    """

    name: str
    visible: str | None
    card: str | None = None
    grows: bool = True

    @property
    def device(self) -> str:
        return "cpu" if self.visible is None else "cuda"


@dataclass(frozen=True)
class _Place:
    """A GPU before it is tried: its name in CUDA_VISIBLE_DEVICES, or why it cannot be used."""

    name: str
    visible: str
    error: str | None = None


def choose_slots(gpus: str, count: int | None, say: Say) -> list[Slot]:
    """The slots that `--gpus all|0,1|cpu` and `--num-gpus N` ask for. Only GPUs that are needed for them are tried.

    With `all`, a GPU that cannot be used is left out, and `say` gets the reason. Raises `UsageError` if a GPU that the
    user named cannot be used, or if no GPU can.
    """
    if gpus == "cpu":
        return [Slot(f"cpu{number}", None) for number in range(count or 1)]
    if sys.platform == "linux" and find_spec("torch") is not None and not _has_driver():
        raise UsageError("no GPU found (no driver of one is installed here); use --gpus cpu")
    if gpus == "all":
        return _all(_places(), count, say)
    wanted = _wanted(gpus)
    if count is not None and count > len(wanted):
        raise _too_few(count, len(wanted))
    slots, bad = _try(wanted[:count], [])
    if bad:
        raise UsageError(f"--gpus {gpus}: {_told(bad)}; mend that, or name other GPUs")
    return slots


def _all(places: list[_Place], count: int | None, say: Say) -> list[Slot]:
    """Slots of the GPUs that can be used, at most `count`."""
    slots: list[Slot] = []
    bad: list[tuple[str, str]] = []
    while places and (count is None or len(slots) < count):
        wanted = len(places) if count is None else count - len(slots)
        more, worse = _try(places[:wanted], slots)
        slots, bad, places = slots + more, bad + worse, places[wanted:]
    if not slots:
        reasons = {reason for _, reason in bad}
        why = reasons.pop() if len(reasons) == 1 else _told(bad)
        raise UsageError(f"no GPU that torch can use: {why}; use --gpus cpu")
    for name, reason in bad:
        say(f"{name} is left out: {reason}")
    if count is not None and count > len(slots):
        raise _too_few(count, len(slots))
    return slots


def _told(bad: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{name} cannot be used ({reason})" for name, reason in bad)


def _too_few(count: int, found: int) -> UsageError:
    return UsageError(f"--num-gpus {count}: only {found} GPU{'s' if found != 1 else ''} to use")


def _wanted(gpus: str) -> list[_Place]:
    """The GPUs that `--gpus 0,2` names. If the driver does not list the GPUs, they are tried nevertheless."""
    indices = _indices(gpus)
    try:
        places = _places()
    except _NoAnswer:
        return [_Place(f"gpu{index}", str(index)) for index in indices]
    if missing := [index for index in indices if index >= len(places)]:
        raise UsageError(f"--gpus {gpus}: there is no GPU {missing[0]}; this machine has 0 to {len(places) - 1}")
    return [places[index] for index in indices]


def _indices(gpus: str) -> list[int]:
    try:
        indices = [int(part) for part in gpus.split(",")]
    except ValueError:
        raise UsageError(f"--gpus {gpus}: give all, cpu, or numbers such as 0,1") from None
    if min(indices) < 0 or len(set(indices)) != len(indices):
        raise UsageError(f"--gpus {gpus}: give each GPU once, counting from 0")
    return indices


class _NoAnswer(UsageError):
    """The driver does not list the GPUs. They may work nevertheless."""


def _places() -> list[_Place]:
    """The GPUs in CUDA_VISIBLE_DEVICES, else all GPUs in the order of nvidia-smi. Each MIG slice counts as one.

    A GPU is named by its number, or by its place in the list if it has no number. Raises `UsageError` if there is none.
    """
    if (chosen := next((name for name in VISIBLE if name in os.environ), None)) is not None:
        names = _given(os.environ[chosen])
        if not names:
            raise UsageError(f"no GPU found ({chosen} names none); use --gpus cpu")
        return [_Place(f"gpu{name if name.isdigit() else at}", name) for at, name in enumerate(names)]
    answer = _ask("list", LIST_SECONDS)
    if "gpus" not in answer:
        raise _NoAnswer(f"no GPU that torch can use: {answer['error']}; use --gpus cpu")
    gpus = answer["gpus"]
    if not gpus:
        raise UsageError(f"no GPU found ({answer.get('why', 'the driver knows none')}); use --gpus cpu")
    return [_Place(f"gpu{at}", gpu["id"] or "", gpu["error"]) for at, gpu in enumerate(gpus)]


def _given(text: str) -> list[str]:
    """The GPUs that CUDA reads from its variable, each once. It stops at a negative number or an empty name."""
    names: list[str] = []
    for name in map(str.strip, text.split(",")):
        if not name or name.startswith("-"):
            break
        if name not in names:
            names.append(name)
    return names


def _try(places: Sequence[_Place], before: Sequence[Slot]) -> tuple[list[Slot], list[tuple[str, str]]]:
    """The slots of GPUs that torch can use, and the names of the others with the reasons.

    Each GPU is tried in its own process, which sees no other GPU, since a bad GPU can make CUDA fail for every process
    that sees it. These processes run at the same time.
    """
    with ThreadPoolExecutor(max(1, min(len(places), usable_cores()))) as pool:
        answers = list(pool.map(_answer, places))
    slots: list[Slot] = list(before)
    bad: list[tuple[str, str]] = []
    for place, answer in zip(places, answers, strict=True):
        if "error" in answer:
            bad.append((place.name, answer["error"]))
            continue
        slot = _slot(place, answer)
        same = [one.name for one in slots if one.card is not None and one.card == slot.card]
        if same:
            bad.append((place.name, f"it is {same[0]} by another name"))
        else:
            slots.append(slot)
    return slots[len(before) :], bad


def _answer(place: _Place) -> dict[str, Any]:
    if place.error is not None:
        return {"error": place.error}
    environment = showing(place.visible)
    if "CUDA_VISIBLE_DEVICES" not in os.environ:
        environment |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}  # so that numbers mean the same as in nvidia-smi
    answer = _ask("try", TRY_SECONDS, environment | growing())
    if "error" in answer and growing() and not answer.get("late"):
        # Some virtual GPUs cannot map memory so that it grows in place, and work without that.
        without = _ask("try", TRY_SECONDS, environment)
        if "error" not in without:
            return without | {"grows": False}
    return answer


def showing(visible: str) -> dict[str, str]:
    """The variables that show a process this GPU and no other."""
    return {"CUDA_VISIBLE_DEVICES": visible} | {name: visible for name in VISIBLE if name in os.environ}


def _slot(place: _Place, answer: dict[str, Any]) -> Slot:
    """The slot of a GPU by its UUID: its number may mean another GPU in another cgroup, or after a GPU was lost."""
    uuid, grows = answer["uuid"], answer.get("grows", True)
    if place.visible.startswith("MIG-"):  # for a slice torch may give the UUID of the whole GPU
        return Slot(place.name, place.visible, place.visible, grows)
    if uuid is None:
        return Slot(place.name, place.visible, grows=grows)
    is_slice = " MIG " in answer["name"]
    card = f"{'MIG' if is_slice else 'GPU'}-{uuid.removeprefix('GPU-').removeprefix('MIG-')}"
    return Slot(place.name, card if answer["by_uuid"] and not is_slice else place.visible, card, grows)


def _ask(question: str, seconds: float, environment: dict[str, str] | None = None) -> dict[str, Any]:
    """The answer of `workers.fleet.ask_gpus`. It holds an `error` if the program failed or took too long."""
    command = [sys.executable, "-P", "-m", "workers.fleet.ask_gpus", question]
    asked = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | (environment or {})
    )
    try:
        said, complained = asked.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        asked.kill()
        with suppress(subprocess.TimeoutExpired):
            asked.communicate(timeout=1)  # not longer, as a process that hangs in its driver cannot be killed
        return {"error": f"no answer within {seconds:g} s", "late": True}
    try:
        answer: dict[str, Any] = json.loads(said.splitlines()[-1])
    except (ValueError, IndexError):
        lines = complained.strip().splitlines()
        return {"error": lines[-1] if lines else f"python ended with {asked.returncode}"}
    return answer


def _has_driver() -> bool:
    """Whether there is the driver's library for NVIDIA GPUs, or the device file for AMD GPUs, which torch needs.

    This takes milliseconds; the import of torch takes seconds.
    """
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return os.path.exists("/dev/kfd")
    return True
