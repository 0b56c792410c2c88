"""The device that is measured: what it is called, what it says of itself while it works. Knows no model."""

import gc
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import torch

from benchmarks.machine import commit

NOT_HERE = "n/a"  # what only a GPU has
LOOK_SECONDS = 0.2  # between two questions to the driver
PACKAGES = ("torch", "torchvision", "transformers")


@dataclass(frozen=True)
class Watched:
    """What some work took. The two of the GPU are of the whole card, and `NOT_HERE` on a CPU."""

    seconds: float
    memory_gb: float | str  # the most that was in use, with what torch holds in reserve and the driver's own
    utilisation: float | str  # percent, the mean of what the driver says


@dataclass
class Card:
    """A device as torch names it, such as cuda:0 or cpu."""

    device: str
    _shares: list[int] = field(default_factory=list)
    _used: list[int] = field(default_factory=list)

    @property
    def is_gpu(self) -> bool:
        """Whether there is a driver to ask."""
        return self.device.startswith("cuda")

    @property
    def name(self) -> str:
        """As the driver calls the GPU; of a CPU, what it is."""
        return torch.cuda.get_device_name(self.device) if self.is_gpu else f"CPU ({platform.machine()})"

    def facts(self) -> dict[str, str]:
        """The device, the machine and the versions that figures belong to."""
        facts = {"card": self.name, "cores": str(os.cpu_count()), "Python": platform.python_version()}
        facts |= {name: version(name) for name in PACKAGES}
        if self.is_gpu:
            _, total = torch.cuda.mem_get_info(self.device)
            facts |= {"GPU memory": f"{total / 1e9:.0f} GB", "CUDA": str(torch.version.cuda)}
        return facts | {"commit": commit()}

    def watched(self, work: Callable[[], Any]) -> Watched:
        """Do the work and look at the card meanwhile."""
        if not self.is_gpu:
            return Watched(seconds(work), NOT_HERE, NOT_HERE)
        self._shares.clear()
        self._used.clear()
        over = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(over,))
        watcher.start()
        try:
            taken = seconds(work)
        finally:
            over.set()
            watcher.join()
        shares = statistics.mean(self._shares) if self._shares else NOT_HERE
        used = max(self._used) / 1e9 if self._used else NOT_HERE
        return Watched(taken, used, shares)

    def _watch(self, over: threading.Event) -> None:
        while True:
            with suppress(Exception):  # if the card breaks, the work itself says so
                free, total = torch.cuda.mem_get_info(self.device)
                self._used.append(total - free)
            with suppress(Exception):  # the same, or `why_no_utilisation`
                self._shares.append(torch.cuda.utilization(self.device))
            if over.wait(LOOK_SECONDS):
                return

    def why_no_utilisation(self) -> str | None:
        """Why nobody tells how busy the card is: there is no NVML, or no package nvidia-ml-py, or it is a MIG slice."""
        try:
            torch.cuda.utilization(self.device)
        except Exception as error:  # NVML has classes of its own
            return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        return None

    def milliseconds(self, work: Callable[[], Any], repeats: int) -> float:
        """The median time of the work on the device, also where the host does not wait for it."""
        taken = []
        for _ in range(repeats):
            if self.is_gpu:
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
                stream = torch.cuda.current_stream(self.device)  # this thread's device may be another one
                start.record(stream)
                work()
                end.record(stream)
                end.synchronize()
                taken.append(float(start.elapsed_time(end)))
            else:
                taken.append(seconds(work) * 1e3)
        return statistics.median(taken)

    def seconds(self, work: Callable[[], Any]) -> float:
        """Until the device has done the work, and is idle before it."""
        self.wait()
        began = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - began

    def used_gb(self) -> float | str:
        """Of the whole card, now."""
        if not self.is_gpu:
            return NOT_HERE
        free, total = torch.cuda.mem_get_info(self.device)
        return (total - free) / 1e9

    def forget(self) -> None:
        """Give back what torch keeps for later, so that what is used next is all that is used."""
        gc.collect()
        if self.is_gpu:
            torch.cuda.empty_cache()

    def wait(self) -> None:
        """Until the device has done everything that it was given."""
        if self.is_gpu:
            torch.cuda.synchronize(self.device)


def seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
