"""Copies tensors to a device and back. A thread that waits for a copy sleeps. Knows no model."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy.typing as npt
import torch


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on the device. On a GPU it is copied from pinned memory, so that nobody waits for the copy.

    torch keeps pinned memory that was freed and gives it to the next batch.
    """
    if device.type == "cuda":
        tensor = tensor.pin_memory()  # itself, if it is already
    return tensor.to(device, non_blocking=True)


def to_host(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """The tensor as an array on the host. Waits until the device has computed it."""
    if tensor.device.type != "cuda":
        return tensor.cpu().numpy()
    here = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    here.copy_(tensor, non_blocking=True)
    behind(torch.cuda.current_stream(tensor.device)).synchronize()
    return here.numpy()


def behind(stream: torch.cuda.Stream) -> torch.cuda.Event:
    """An event that comes after all that was given to the stream so far. A thread that waits for it sleeps. torch's own
    ways to wait, such as `Tensor.cpu`, keep a core busy, which another thread could use."""
    event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    event.record(stream)
    return event


class Copies:
    """The stream on which the answers of a batch leave a GPU while the next batch is computed. Nothing on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def mark(self) -> torch.cuda.Event | None:
        """An event that comes after all that the forward thread gave to the device so far."""
        return None if self._stream is None else behind(torch.cuda.current_stream(self._device))

    @contextmanager
    def beside_the_next_batch(self, done: torch.cuda.Event | None) -> Iterator[None]:
        """On a GPU: once `done`, work on a stream of its own, which does not wait for what was launched since. When
        this ends, also by an error, nothing is read any more: the memory of what was goes back to the other stream."""
        if self._stream is None or done is None:
            yield
            return
        done.synchronize()
        with torch.cuda.stream(self._stream):
            try:
                yield
            finally:
                behind(self._stream).synchronize()
