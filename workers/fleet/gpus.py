"""Which slots (a GPU each, or CPU ones) a machine offers. Others are asked, in short processes; imports no torch."""

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

from workers.cores import usable_cores
from workers.errors import UsageError

LIST_SECONDS = 60.0  # for the driver, which may have to wake up eight GPUs
TRY_SECONDS = 120.0  # for torch on one GPU; its import from a slow disk takes the most

Say = Callable[[str], None]


@dataclass(frozen=True)
class Slot:
    """One place for a node: its name, and the value of CUDA_VISIBLE_DEVICES it gets (None on a CPU).

    `card`: the GPU's, or its slice's, UUID, if there is one: the same by whatever number a process knows it.
    """

    name: str
    visible: str | None
    card: str | None = None

    @property
    def device(self) -> str:
        return "cpu" if self.visible is None else "cuda"


@dataclass(frozen=True)
class _Place:
    """A GPU before it is tried: what CUDA_VISIBLE_DEVICES calls it, or why it cannot be used."""

    name: str
    visible: str
    error: str | None = None


def choose_slots(gpus: str, count: int | None, say: Say) -> list[Slot]:
    """The slots that `--gpus all|0,1|cpu` and `--num-gpus N` ask for, and no GPU tried that is not needed for that.

    With `all`, a GPU that cannot be used is named and left out. Raises `UsageError` if one that was named cannot be
    used, or none can.
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
    """Of all GPUs those that can be used, or the first `count` of them."""
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
    """The GPUs that `--gpus 0,2` names. If the driver cannot say which there are, they are tried all the same."""
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
    """Nobody says which GPUs there are; one may work all the same."""


def _places() -> list[_Place]:
    """At least one: those that a scheduler has given us, else all in the order of nvidia-smi; each MIG slice is one.

    Named by their numbers, else by their places. Raises `UsageError`.
    """
    if (given := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        names = _given(given)
        if not names:
            raise UsageError("no GPU found (CUDA_VISIBLE_DEVICES names none); use --gpus cpu")
        return [_Place(f"gpu{name if name.isdigit() else at}", name) for at, name in enumerate(names)]
    answer = _ask("list", LIST_SECONDS)
    if "gpus" not in answer:
        raise _NoAnswer(f"no GPU that torch can use: {answer['error']}; use --gpus cpu")
    gpus = answer["gpus"]
    if not gpus:
        raise UsageError(f"no GPU found ({answer.get('why', 'the driver knows none')}); use --gpus cpu")
    return [_Place(f"gpu{at}", gpu["id"] or "", gpu["error"]) for at, gpu in enumerate(gpus)]


def _given(text: str) -> list[str]:
    """What CUDA reads in its variable: each once, and nothing after a number below 0 or an empty name."""
    names: list[str] = []
    for name in map(str.strip, text.split(",")):
        if not name or name.startswith("-"):
            break
        if name not in names:
            names.append(name)
    return names


def _try(places: Sequence[_Place], before: Sequence[Slot]) -> tuple[list[Slot], list[tuple[str, str]]]:
    """Slots of those that torch can use, and the names of the others with the reasons. Side by side, each in a process
    of its own, to which the driver shows no other GPU: a bad one can make CUDA fail for all that see it."""
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
    environment = {"CUDA_VISIBLE_DEVICES": place.visible}
    if "CUDA_VISIBLE_DEVICES" not in os.environ:
        environment |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}  # a number, where nobody told us better, is nvidia-smi's
    return _ask("try", TRY_SECONDS, environment)


def _slot(place: _Place, answer: dict[str, Any]) -> Slot:
    """By its UUID from now on: a number means another GPU in another cgroup, or once one has fallen off its bus."""
    uuid = answer["uuid"]
    if place.visible.startswith("MIG-"):  # of a slice torch may tell the UUID of the whole GPU
        return Slot(place.name, place.visible, place.visible)
    if uuid is None:
        return Slot(place.name, place.visible)
    is_slice = " MIG " in answer["name"]
    card = f"{'MIG' if is_slice else 'GPU'}-{uuid.removeprefix('GPU-').removeprefix('MIG-')}"
    return Slot(place.name, card if answer["by_uuid"] and not is_slice else place.visible, card)


def _ask(question: str, seconds: float, environment: dict[str, str] | None = None) -> dict[str, Any]:
    """The answer of `workers.fleet.ask_gpus`, with an `error` if it does not come."""
    command = [sys.executable, "-P", "-m", "workers.fleet.ask_gpus", question]
    asked = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | (environment or {})
    )
    try:
        said, complained = asked.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        asked.kill()
        with suppress(subprocess.TimeoutExpired):
            asked.communicate(timeout=1)  # no longer: what hangs in its driver does not even die
        return {"error": f"no answer within {seconds:g} s"}
    try:
        answer: dict[str, Any] = json.loads(said.splitlines()[-1])
    except (ValueError, IndexError):
        lines = complained.strip().splitlines()
        return {"error": lines[-1] if lines else f"python ended with {asked.returncode}"}
    return answer


def _has_driver() -> bool:
    """Whether the library is there without which torch finds no NVIDIA GPU, or the device without which no AMD one.

    That is quickly told, while torch takes seconds to be imported.
    """
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return os.path.exists("/dev/kfd")
    return True
