"""Copies tensors to a device and back. A thread that waits for a copy sleeps. Knows no model."""

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
