"""A simulated accelerator: a wait, and a record of it. Knows no model, no images and no torch."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FIXED_MS, IMAGE_MS = 25.0, 30.0


@dataclass(frozen=True)
class Busy:
    """One batch on the device, in seconds of the machine's monotonic clock, which all processes share."""

    began: float
    ended: float
    images: int


class Device:
    """Works on one batch after the other, `fixed_ms` and `image_ms` an image long. Like a GPU it takes a batch at once
    and is waited for later, without any lock of Python's. Remembers when it was busy, also in `log` if given."""

    def __init__(self, fixed_ms: float = FIXED_MS, image_ms: float = IMAGE_MS, log: Path | None = None) -> None:
        self._fixed, self._image = fixed_ms / 1000, image_ms / 1000
        self._free_at = 0.0
        self._lock = threading.Lock()
        self._log = log
        self.busy: list[Busy] = []

    def submit(self, images: int) -> Busy:
        """Begin as soon as all batches before are done; `wait` until it has ended."""
        with self._lock:
            began = max(time.monotonic(), self._free_at)
            self._free_at = began + self._fixed + self._image * images
            self.busy.append(Busy(began, self._free_at, images))
            if self._log is not None:
                with self._log.open("a") as file:
                    file.write(f"{began} {self._free_at} {images}\n")
            return self.busy[-1]

    def run(self, images: int) -> None:
        wait(self.submit(images))


def wait(busy: Busy) -> None:
    while (left := busy.ended - time.monotonic()) > 0:
        time.sleep(left)


def read_log(path: Path) -> list[Busy]:
    """What a device in another process has written so far."""
    rows = [line.split() for line in path.read_text().splitlines()]
    return [Busy(float(began), float(ended), int(images)) for began, ended, images in rows]


def span(busy: Sequence[Busy]) -> float:
    """Seconds from the first submit to the last result."""
    return busy[-1].ended - busy[0].began


def idle(busy: Sequence[Busy]) -> float:
    """The share of that time in which the device had nothing to do."""
    return 1 - sum(one.ended - one.began for one in busy) / span(busy)
