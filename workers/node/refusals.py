"""Why a worker does not serve a run, and how long that reason is valid. Loads no model."""

import time
from dataclasses import dataclass

from db.views.run_views import RunView
from workers.fleet.weights import folder_state

UNUSABLE_SECONDS = 300.0  # before a model that could not be loaded is tried again


class Declined(Exception):
    """This worker does not serve the run; another worker may. The message says why.

    `fault`: the reason is that the model cannot be loaded here, and not the run itself. `tried`: the worker has just
    tried to load it.
    """

    def __init__(self, reason: str, *, fault: bool = False, tried: bool = True) -> None:
        super().__init__(reason)
        self.fault = fault
        self.tried = tried


@dataclass(frozen=True)
class Unusable:
    """Why a model could not be loaded here."""

    model: str
    reason: str
    folder_state: object  # `workers.fleet.weights.folder_state` at the failed try
    since: float  # `time.monotonic()` of the failed try

    def holds(self) -> bool:
        """False when the model should be tried again.

        That is when the files in its folder have changed, or after `UNUSABLE_SECONDS`, since the cause may have been
        the network, the licence or another process on the GPU.
        """
        unchanged = self.folder_state == folder_state(self.model)
        return unchanged and time.monotonic() - self.since <= UNUSABLE_SECONDS


@dataclass(frozen=True)
class Refusal:
    """Why a run is declined.

    It holds text and no exception, since an exception keeps its stack frames alive, and with them a model in the GPU's
    memory.
    """

    declined: tuple[object, ...]  # `what_decides` of the run when it was declined
    reason: str
    unusable: Unusable | None  # set if the model is the reason, and not the run

    def holds(self, run: RunView) -> bool:
        """False when the run was changed, or its model should be tried again."""
        return self.declined == what_decides(run) and (self.unusable is None or self.unusable.holds())


def what_decides(run: RunView) -> tuple[object, ...]:
    """The values of a run that decide whether a worker can serve it."""
    prompts = tuple(run.prompts[prompt_id] for prompt_id in run.every_image)
    model = run.frozen.model, run.frozen.points_per_side, run.revision, run.weights_sha256, run.dtype, run.compiled
    return run.uid, *model, prompts
