"""Copies to a device and back, in which no thread spins on a core. Knows no model."""

from typing import Any

import numpy.typing as npt
import torch


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor there, without waiting for it to arrive, which takes pinned memory on a GPU.

    That memory comes from a store that torch keeps, so that the next batch gets the same again.
    """
    if device.type == "cuda":
        tensor = tensor.pin_memory()  # itself, if it is already
    return tensor.to(device, non_blocking=True)


def to_host(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """The numbers here, once the device has computed them."""
    if tensor.device.type != "cuda":
        return tensor.cpu().numpy()
    here = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    here.copy_(tensor, non_blocking=True)
    behind(torch.cuda.current_stream(tensor.device)).synchronize()
    return here.numpy()


def behind(stream: torch.cuda.Stream) -> torch.cuda.Event:
    """An event behind all that the stream was given so far. Who waits for it sleeps; torch's own waits, as that of
    `Tensor.cpu`, keep a core busy, which another thread could use."""
    event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    event.record(stream)
    return event
