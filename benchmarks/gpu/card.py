"""The device that is measured: what it is called, what it says of itself while it works. Knows no model."""

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
# Dense bf16 in TFLOP/s, as the vendor gives it; half of it is what the best known code reaches.
PEAK_TFLOPS = {
    "A100": 312, "H100": 989, "H100 PCIe": 756, "H100 NVL": 835, "H200": 989, "RTX 4090": 165, "L4": 121, "L40S": 362,
}  # fmt: skip
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
        return Watched(taken, max(self._used) / 1e9, shares)

    def _watch(self, over: threading.Event) -> None:
        while True:
            free, total = torch.cuda.mem_get_info(self.device)
            self._used.append(total - free)
            with suppress(ImportError, RuntimeError):  # without the package nvidia-ml-py nobody tells the utilisation
                self._shares.append(torch.cuda.utilization(self.device))
            if over.wait(LOOK_SECONDS):
                return

    def milliseconds(self, work: Callable[[], Any], repeats: int) -> float:
        """The median time of the work on the device, also where the host does not wait for it."""
        taken = []
        for _ in range(repeats):
            if self.is_gpu:
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
                start.record()
                work()
                end.record()
                end.synchronize()
                taken.append(float(start.elapsed_time(end)))
            else:
                taken.append(seconds(work) * 1e3)
        return statistics.median(taken)

    def wait(self) -> None:
        """Until the device has done everything that it was given."""
        if self.is_gpu:
            torch.cuda.synchronize(self.device)

    def floor(self, flops: int) -> float | None:
        """Seconds for so many operations at half of the GPU's peak, if its name is known."""
        peak = peak_tflops(self.name) if self.is_gpu else None
        return None if peak is None else flops / (peak * 1e12 * 0.5)


def peak_tflops(name: str) -> float | None:
    """Of the GPU that the driver calls so, by the longest name that we know, as whole words."""
    words = f" {name.replace('-', ' ')} "
    known = [one for one in PEAK_TFLOPS if f" {one} " in words]
    if not known or " Laptop " in words:  # a laptop's GPU is another one of the same name
        return None
    return PEAK_TFLOPS[max(known, key=len)]


def seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
