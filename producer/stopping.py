"""Refuses commands on a run that is being cancelled or deleted, with what to do instead. Knows no SQL."""

from db.states import RunState
from workers.errors import NoSuchRun, Sam3Error, UsageError

ADVICE = {
    RunState.CANCELLING: "is being cancelled; sam3-cancel {run} finishes that, and sam3-retry {run} takes it up again",
    RunState.DELETING: "is being deleted; sam3-delete {run} finishes that",
}
STOPPING = tuple(ADVICE)


def refusal(run: str, state: str) -> Sam3Error:
    """The error for a run that is being cancelled or deleted. `run` is how the next command names it."""
    kind = NoSuchRun if state == RunState.DELETING else UsageError
    return kind(f"run {run} {ADVICE[RunState(state)].format(run=run)}")


def refuse(run: str, state: str | None, *refused: str) -> None:
    """Raise `refusal` if the run is in one of the `refused` states."""
    if state in refused:
        raise refusal(run, state)
