"""Why a worker does not serve a run, and how long that reason holds. Loads no model."""

import time
from dataclasses import dataclass

from db.views.status import RunView
from workers.fleet.weights import looks_of

UNUSABLE_SECONDS = 300.0  # before a model that could not be had is tried again


class Declined(Exception):
    """This worker does not serve the run as it is, and why; another one may.

    `fault`: not because of the run, but because its model cannot be had here. `tried`: found out just now.
    """

    def __init__(self, reason: str, *, fault: bool = False, tried: bool = True) -> None:
        super().__init__(reason)
        self.fault = fault
        self.tried = tried


@dataclass(frozen=True)
class Unusable:
    """Why a model could not be had here at the time `since`, when its folder looked as it `looks`."""

    model: str
    reason: str
    looks: object
    since: float

    def holds(self) -> bool:
        """False when it is time to try again: the model's folder has changed, or it is a while ago that the network,
        the licence or another process on the GPU was in the way."""
        return self.looks == looks_of(self.model) and time.monotonic() - self.since <= UNUSABLE_SECONDS


@dataclass(frozen=True)
class Refusal:
    """Why a run is declined, in words: an exception would hold its frames, and those a model that is to leave the GPU.

    `unusable` if it is not the run's own fault, but that of its model.
    """

    declined: tuple[object, ...]  # which run, and what it was like
    reason: str
    unusable: Unusable | None

    def holds(self, run: RunView) -> bool:
        """False when the run is not what it was, or its model may be had by now."""
        return self.declined == what_decides(run) and (self.unusable is None or self.unusable.holds())


def what_decides(run: RunView) -> tuple[object, ...]:
    """Which run it is, and what it depends on whether a worker can serve it."""
    prompts = tuple(run.prompts[prompt_id] for prompt_id in run.every_image)
    return run.uid, run.frozen.model, run.revision, run.weights_sha256, run.dtype, prompts
