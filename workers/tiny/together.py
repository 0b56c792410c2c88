"""Lets several processes of one thread each train the same weights. Knows no model.

Two threads of one process mostly wait for each other where other programs run: a step took 10 s with two and 2 s with
one. Two processes meet only once a step.
"""

from collections.abc import Callable, Iterable
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import distributed
from torch.multiprocessing.spawn import spawn
from torch.nn import Parameter


def run(processes: int, work: Callable[..., None], *arguments: Any) -> None:
    """Run `work(*arguments)` in so many processes, and wait for them all."""
    with TemporaryDirectory() as folder:
        meeting = f"file://{folder}/meeting"
        spawn(_join, (processes, meeting, work, arguments), processes)  # type: ignore[no-untyped-call]


def _join(share: int, processes: int, meeting: str, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=meeting, rank=share, world_size=processes)
    work(*arguments)
    distributed.destroy_process_group()


def share() -> int:
    """Return the number of this process, from 0 on; 0 outside `run`."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def average_gradients(parameters: Iterable[Parameter]) -> None:
    """Give all processes the mean of their gradients, so that all take the same step."""
    if not distributed.is_initialized():
        return
    moved = [parameter for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([parameter.grad.flatten() for parameter in moved if parameter.grad is not None])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    for parameter, part in zip(moved, torch.split(flat, [parameter.numel() for parameter in moved]), strict=True):
        parameter.grad = part.view(parameter.shape)


def agreed(number: float) -> float:
    """Return the first process's number, for decisions that all have to take alike."""
    if not distributed.is_initialized():
        return number
    told = torch.tensor([number], dtype=torch.float64)
    distributed.broadcast(told, 0)
    return told.item()
