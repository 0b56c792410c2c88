"""Faults at one exact point of our own code, put there from outside: each function wraps something of this process."""

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event, text

from db import outcomes
from db.session import Sessions
from db.values import NOTHING_SPENT, Spent
from workers.inference.stages import Report, unheard


def once(name: str) -> bool:
    """True for the first process that asks: each fault is to happen once, however often processes start."""
    try:
        (Path(os.environ["FAKE_MARKERS"]) / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def killed_after_a_commit() -> None:
    """SIGKILL once a batch is in the database and before Celery hears of it."""
    from workers.node.chunk import ChunkInHand

    commit = ChunkInHand.commit

    def then_die(self: ChunkInHand, outcomes: Sequence[Any], spent: Spent = NOTHING_SPENT) -> bool:
        finished = commit(self, outcomes, spent)
        if finished and once("killed_after_a_commit"):
            os.kill(os.getpid(), signal.SIGKILL)
        return finished

    ChunkInHand.commit = then_die  # type: ignore[method-assign]


def killed_before_a_commit() -> None:
    """SIGKILL with a batch computed and not in the database."""
    from workers.node.chunk import ChunkInHand

    commit = ChunkInHand.commit

    def or_die(self: ChunkInHand, outcomes: Sequence[Any], spent: Spent = NOTHING_SPENT) -> bool:
        if once("killed_before_a_commit"):
            os.kill(os.getpid(), signal.SIGKILL)
        return commit(self, outcomes, spent)

    ChunkInHand.commit = or_die  # type: ignore[method-assign]


def terminated_in_a_commit() -> None:
    """PostgreSQL ends our backend just before a batch's COMMIT arrives there."""
    _in_a_batch(_terminate_before_commit)


def answer_lost_in_a_commit() -> None:
    """A batch's COMMIT succeeds, and the connection breaks before we hear of it."""
    _in_a_batch(_lose_the_answer)


def two_hours_ahead() -> None:
    """This process's clocks of the day are wrong."""
    import time

    right = time.time
    time.time = lambda: right() + 7200


def little_patience() -> None:
    """A transaction alone waits for a second only, and a wait of half a second is told already."""
    from db import patience

    patience.RETRY_SECONDS, patience.TOLD_SECONDS = 1.0, 0.5


def mount_lost_between_two_batches() -> None:
    """The folder FAKE_MOUNT is gone, under another name, when the image FAKE_FIRST_LOST is to be read."""
    from workers.inference.reading import images
    from workers.inference.stream import pieces

    mount, first_lost = Path(os.environ["FAKE_MOUNT"]), os.environ["FAKE_FIRST_LOST"]

    def lose(path: str, rules: images.ReadRules, report: Report = unheard) -> images.ReadImage:
        if Path(path).name == first_lost and once("mount_lost"):
            mount.rename(mount.with_name("away"))
        return images.read_image(path, rules, report)

    assert pieces.read_image is images.read_image  # type: ignore[attr-defined]
    pieces.read_image = lose  # type: ignore[attr-defined]


def killed_between_commit_and_publish() -> None:
    """SIGKILL when chunks are queued in the database and none of their doorbells is on the broker."""
    from workers.fleet import dispatch

    def die(*_: object) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    dispatch.ring = die  # type: ignore[assignment]


def killed_after_so_many_slices() -> None:
    """SIGKILL of a producer in the middle of a load, after FAKE_SLICES transactions."""
    from db import intake, slices

    slices.IDLE_SLICE_ROWS = 1000  # so that a small table has several
    add_rows, left = intake.add_rows, [int(os.environ["FAKE_SLICES"])]

    def count(*args: Any, **kwargs: Any) -> int:
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        return add_rows(*args, **kwargs)

    intake.add_rows = count


def killed_in_a_pass() -> None:
    """SIGKILL of sam3-cancel or sam3-delete in the middle, after FAKE_SLICES transactions of at most 8 images."""
    from db import runs, slices

    slices.IDLE_SLICE_ROWS = slices.SLICE_ROWS = 8
    left = [int(os.environ["FAKE_SLICES"])]

    def counting(slice_of: Callable[..., Any]) -> Callable[..., Any]:
        def count(*args: Any) -> Any:
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return slice_of(*args)

        return count

    runs.cancel_slice, runs.delete_slice = counting(runs.cancel_slice), counting(runs.delete_slice)


def _in_a_batch(break_it: Callable[[Any], None]) -> None:
    """Call `break_it` with the connection that commits a batch's results, once."""
    insert_results = outcomes.insert_results
    inserting: list[bool] = []

    def note(*args: Any) -> None:
        inserting.append(True)
        insert_results(*args)

    outcomes.insert_results = note  # type: ignore[assignment]

    @event.listens_for(Engine, "commit")
    def committing(connection: Any) -> None:
        if inserting and once("in_a_batch"):
            break_it(connection)
        inserting.clear()


def _terminate_before_commit(connection: Any) -> None:
    from workers.node.node import Node

    pid = connection.connection.driver_connection.info.backend_pid
    sessions: Sessions = Node.this().worker.sessions
    with sessions.kw["bind"].connect() as other:
        other.execute(text(f"SELECT pg_terminate_backend({pid}, 5000)"))


def _lose_the_answer(connection: Any) -> None:
    driver = connection.connection.driver_connection
    driver.execute("COMMIT")
    driver.pgconn.finish()
