"""What a chunk may become: from which states to which, by whom, and when. Knows no SQL and makes no change.

`db.chunks` writes the changes, and a test compares the table in docs/architecture.md with this one.
"""

from enum import Enum, StrEnum
from typing import Any

from db.states import LIVE, ChunkState

# Columns of a chunk of which no rows are known to be in hand.
NO_RANGE: dict[str, Any] = {"inflight_first": None, "inflight_last": None}


class Who(StrEnum):
    """Who makes a transition: a command, a part of the launcher, or a worker process."""

    ENQUEUE = "enqueue"
    RETRY = "retry"
    REDO = "redo"
    CANCEL = "cancel"
    RUN = "sam3-run"
    DISPATCH = "dispatch"
    RECONCILER = "reconciler"
    WORKER = "worker"


class Transition(Enum):
    """Each value is: states before, state after, who makes the change, and when.

    `sets` are the columns that every such change writes.
    """

    ADD = (
        (),
        ChunkState.PENDING,
        (Who.ENQUEUE, Who.RETRY, Who.REDO, Who.RECONCILER),
        "inserted with the run's next number; the reconciler splits a chunk",
    )
    RING = (
        (ChunkState.PENDING,),
        ChunkState.QUEUED,
        (Who.DISPATCH,),
        "its run is active and not paused, `not_before` is over, it is the run's turn, and the run's window and share "
        "have room; ring + 1",
    )
    RING_AGAIN = (
        (ChunkState.QUEUED,),
        ChunkState.QUEUED,
        (Who.RECONCILER,),
        "its doorbell was absent twice, 30 s apart; ring + 1",
    )
    HAND_BACK = (
        (ChunkState.QUEUED,),
        ChunkState.PENDING,
        (Who.WORKER,),
        "it answers the doorbell but does not claim: the run is over or paused, a run of higher priority waits, it "
        "drains, or its model cannot be had (then the chunk rests a minute)",
    )
    FORGET_DOORBELL = (
        (ChunkState.QUEUED,),
        ChunkState.PENDING,
        (Who.RUN,),
        "its broker was started anew and holds nothing",
    )
    LOSE_ANSWERER = (
        (ChunkState.QUEUED,),
        ChunkState.PENDING,
        (Who.RECONCILER,),
        "the worker that answered its doorbell died before the claim",
    )
    CLAIM = (
        (ChunkState.QUEUED,),
        ChunkState.RUNNING,
        (Who.WORKER,),
        "claim, only if the run is active and not paused: fence + 1, attempts + 1, lease of 60 s",
    )
    CLAIM_AGAIN = (
        (ChunkState.RUNNING,),
        ChunkState.RUNNING,
        (Who.WORKER,),
        "the answer to its own claim was lost: fence + 1",
    )
    ADOPT = (
        (ChunkState.RUNNING,),
        ChunkState.RUNNING,
        (Who.WORKER,),
        "its own row was cleared away while it slept: the chunk names the new one as its owner",
    )
    RENEW = (
        (ChunkState.RUNNING,),
        ChunkState.RUNNING,
        (Who.WORKER,),
        "heartbeat every 10 s while work goes on: the lease is renewed",
    )
    BEGIN_RANGE = (
        (ChunkState.RUNNING,),
        ChunkState.RUNNING,
        (Who.WORKER,),
        "after a crash: the rows of the next batch are noted before their files are opened",
    )
    COMMIT = (
        (ChunkState.RUNNING,),
        ChunkState.RUNNING,
        (Who.WORKER,),
        "commit of a batch: results, image states and counters; attempts, crashes and releases back to 0",
    )
    FINISH = (
        (ChunkState.RUNNING,),
        ChunkState.DONE,
        (Who.WORKER,),
        "the commit after which nothing is pending",
    )
    RELEASE = (
        (ChunkState.RUNNING,),
        ChunkState.PENDING,
        (Who.WORKER,),
        "release, because it drains, the run is paused or its surroundings failed: attempt given back; from the 10th "
        "release in a row on, 5 minutes of rest",
    )
    FAIL_ATTEMPT = (
        (ChunkState.RUNNING,),
        ChunkState.PENDING,
        (Who.WORKER,),
        "unexpected error: attempt kept, rest of 5, 10, 20, 40 s",
    )
    FAIL = (
        (ChunkState.RUNNING,),
        ChunkState.FAILED,
        (Who.WORKER,),
        "5th attempt without a commit ended with an error: its pending images fail with the error's class",
    )
    TAKE_BACK = (
        (ChunkState.RUNNING,),
        ChunkState.PENDING,
        (Who.RECONCILER,),
        "owner dead, or lease over: crashes + 1; the first time without a rest, then 10, 20, 40 s",
    )
    SPLIT = (
        (ChunkState.RUNNING,),
        ChunkState.PENDING,
        (Who.RECONCILER,),
        "second crash and the rows in hand are known: they leave for chunks of their own, halved",
    )
    SPLIT_WHOLLY = (
        (ChunkState.RUNNING,),
        ChunkState.DONE,
        (Who.RECONCILER,),
        "second crash and the rows in hand are all that was pending: they leave, or fail if it is one image alone",
    )
    GIVE_UP = (
        (ChunkState.RUNNING,),
        ChunkState.FAILED,
        (Who.RECONCILER,),
        "5th attempt without a commit ended in a crash: pending images `failed(crashed)`, or `failed(gave_up)` if the "
        "owner lived",
    )
    CANCEL = (LIVE, ChunkState.CANCELLED, (Who.CANCEL, Who.RECONCILER), "the run is `cancelling`")
    CORRECT = (
        LIVE,
        ChunkState.PENDING,
        (Who.ENQUEUE,),
        "a run without results gets other settings; or, while it is `running`, prompts are added or dropped, or the "
        "source no longer has some of its pending rows",
    )
    EMPTY = (
        (ChunkState.PENDING, ChunkState.QUEUED),
        ChunkState.DONE,
        (Who.ENQUEUE,),
        "its pending rows turned out to be duplicates, or the source no longer has them",
    )
    LEAVE = (
        (ChunkState.FAILED, ChunkState.CANCELLED),
        ChunkState.DONE,
        (Who.RETRY, Who.REDO, Who.ENQUEUE),
        "its failed, cancelled and incomplete images have left it",
    )

    def __init__(self, before: tuple[ChunkState, ...], after: ChunkState, who: tuple[Who, ...], rule: str) -> None:
        self.before, self.after, self.who, self.rule = before, after, who, rule
        # A chunk that leaves `running` loses its lease and its rows in hand in the same statement.
        leaves_running = ChunkState.RUNNING in before and after != ChunkState.RUNNING
        self.sets: dict[str, Any] = ({} if before == (after,) else {"state": after}) | (
            {"lease_until": None, **NO_RANGE} if leaves_running else {}
        )
