"""Transactions take their locks in one order, so that no two wait for each other, wherever the one overtakes the other.

Each work stops after each of its statements that took a lock, in turn; then the other one runs until it ends or waits
for a lock; then the first goes on. Both roll back, so that the next ones find the same rows. Where the first has only
read since its last stop it holds the same locks, so that the other one would meet the same. Only PostgreSQL locks rows.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from sqlalchemy import event, func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from db import claims, corrections, doorbells, duplicates, intake, presence, redo, runs, steering
from db.claims import LeaseLost
from db.corrections import HasResults
from db.intake import LoadTaken
from db.session import Sessions, read, reading, write
from db.slices import Place
from tests.db import scenario

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)

Work = Callable[[Session], object]
Works = dict[str, Work]
REFUSED = (LeaseLost, LoadTaken, HasResults)  # by one transaction, for what the other may have done
PATIENCE = 60.0  # seconds, of a busy machine
LOOK_SECONDS = 0.01  # between two looks whether one waits


def at_work(sessions: Sessions) -> Works:
    """Works on an active run: one chunk is over, two run, one is queued, one pending."""
    run_id = scenario.load(sessions, scenario.numbered(20))
    worker = scenario.worker(sessions)
    over = scenario.claim(sessions, run_id)
    scenario.commit(sessions, over, [scenario.failed(over.images[0]), *map(scenario.done, over.images[1:])])
    scenario.take_back(sessions, scenario.claim(sessions, run_id))
    crashing = scenario.claim(sessions, run_id, worker_id=worker)
    write(sessions, claims.begin_range, crashing, crashing.images[0].row, crashing.images[1].row)
    running = scenario.claim(sessions, run_id, worker_id=worker)
    write(sessions, doorbells.ring_pending, run_id, 1)
    uid = scenario.run(sessions, run_id).uid
    rows = [*scenario.numbered(20)[::-1], *scenario.rows("new.jpg")]
    write(sessions, intake.begin_matching, run_id, len(rows), len(rows), ["path"])
    done = [image.id for image in scenario.images(sessions, run_id) if image.state == "done"]
    [found] = [one for one in scenario.running(sessions) if one.chunk_id == crashing.chunk_id]
    return {
        "commit": lambda session: claims.commit(session, running, [scenario.done(image) for image in running.images]),
        "heartbeat": lambda session: claims.heartbeat(session, running),
        "fail": lambda session: claims.fail_attempt(session, running, "a bug"),
        "split": lambda session: claims.take_back(session, found, crashed=True),
        "retry": lambda session: runs.retry_slice(session, run_id, Place(), 100, scenario.EVERYTHING),
        "redo": lambda session: redo.redo_slice(session, run_id, done, over.chunk_id),
        "correct": lambda session: corrections.correct(session, run_id, uid, scenario.FROZEN, ["dog"]),
        "match": lambda session: intake.add_rows(session, run_id, 0, rows, matching=True),
        "ring": lambda session: doorbells.ring_pending(session, run_id, 100),
        "ring for a share": lambda session: doorbells.ring_pending(session, run_id, 100, 100),
        "pause": lambda session: steering.pause(session, run_id, steering.BY_HAND),
        "forget doorbells": doorbells.forget_doorbells,
        "mark dead": lambda session: presence.mark_dead(session, worker),
    }


def growing(sessions: Sessions) -> Works:
    """Works on a run that grows while its older chunks run: what it got has duplicates."""
    run_id = scenario.load(sessions, scenario.numbered(8))
    running, waiting = scenario.claim(sessions, run_id), scenario.claim(sessions, run_id)
    write(sessions, claims.release, waiting)
    rows = [*scenario.numbered(12), *scenario.rows("twice.jpg", "twice.jpg", "twice.jpg")]
    write(sessions, intake.begin_matching, run_id, len(rows) + 1, 1, ["path"])
    write(sessions, intake.add_rows, run_id, 0, rows, matching=True)
    with reading(sessions) as session:
        repeated = list(duplicates.repeated_rows(session, run_id))
    uid = scenario.run(sessions, run_id).uid
    more = [*scenario.numbered(12)[::-1], *scenario.rows("later.jpg")]
    return {
        "commit": lambda session: claims.commit(session, running, [scenario.done(image) for image in running.images]),
        "fail": lambda session: claims.fail_attempt(session, running, "a bug"),
        "match": lambda session: intake.add_rows(session, run_id, len(rows), more, matching=True),
        "mark duplicates": lambda session: duplicates.mark_duplicates(session, run_id, repeated),
        "finish load": lambda session: intake.finish_load(session, run_id, None),
        "correct": lambda session: corrections.correct(session, run_id, uid, scenario.FROZEN, ["dog"]),
        "cancel": lambda session: runs.cancel_run(session, run_id),
    }


def stopping(sessions: Sessions, work: Callable[..., Any], begin: Callable[..., Any]) -> Works:
    """A cancel or a delete, twice, beside a worker that does not know yet."""
    run_id = scenario.load(sessions, [*scenario.numbered(8), scenario.REJECTED])
    running = scenario.claim(sessions, run_id)
    write(sessions, begin, run_id)
    [found] = scenario.running(sessions)
    rows = scenario.numbered(8)
    return {
        "commit": lambda session: claims.commit(session, running, [scenario.done(image) for image in running.images]),
        "take back": lambda session: claims.take_back(session, found, crashed=True),
        "first slice": lambda session: work(session, run_id, Place(), 100),
        "second slice": lambda session: work(session, run_id, Place(1), 100),
        "match": lambda session: intake.add_rows(session, run_id, len(rows), rows, matching=True),
    }


SITUATIONS: dict[str, Callable[[Sessions], Works]] = {
    "at work": at_work,
    "growing": growing,
    "cancelling": partial(stopping, work=runs.cancel_slice, begin=runs.cancel_run),
    "deleting": partial(stopping, work=runs.delete_slice, begin=runs.begin_delete),
}


def attempt(session: Session, work: Work, name: str) -> str | None:
    """Do it and roll it back; say so if it waited for somebody who waited for it."""
    try:
        work(session)
    except REFUSED:
        return None
    except DBAPIError as error:
        return f"{name}: {str(error.orig).splitlines()[0]}"
    finally:
        session.rollback()
    return None


def begun(session: Session) -> int:
    """Begin a transaction in which waiting for each other is found out soon; return its process on the server."""
    session.execute(text("SET LOCAL deadlock_timeout = '20ms'"))
    return int(session.execute(select(func.pg_backend_pid())).scalar_one())


def waits(sessions: Sessions, process: int) -> bool:
    """Whether this process of the server waits for a lock of another one."""
    blockers = select(func.cardinality(func.pg_blocking_pids(process)))
    return bool(read(sessions, lambda session: session.execute(blockers).scalar_one()))


class Interleaving:
    """One work that is overtaken by another in one of the places where it has taken a lock more."""

    def __init__(self, sessions: Sessions, first: tuple[str, Work], second: tuple[str, Work], at: int) -> None:
        self.sessions, self.first, self.second, self.at = sessions, first, second, at
        self.seen, self.locked = 0, False
        self.overtaken: Future[str | None] | None = None

    def run(self) -> list[str]:
        """What went wrong; `overtaken` is None if the first has no such place."""
        with ThreadPoolExecutor(1) as thread, self.sessions() as session:
            begun(session)
            with before_each_statement(session, partial(self._count, thread)):
                found = [attempt(session, self.first[1], self.first[0])]
            if self.overtaken is not None:
                found.append(self.overtaken.result(PATIENCE))
        return [f"{line}, when {self.second[0]} came after its lock {self.at}" for line in found if line]

    def _count(self, thread: ThreadPoolExecutor, statement: str) -> None:
        self.seen += self.locked
        if self.locked and self.seen == self.at:
            self._overtake(thread)
        self.locked = takes_locks(statement)

    def _overtake(self, thread: ThreadPoolExecutor) -> None:
        process: Future[int] = Future()

        def overtake() -> str | None:
            with self.sessions() as session:
                process.set_result(begun(session))
                return attempt(session, self.second[1], self.second[0])

        self.overtaken = thread.submit(overtake)
        number, until = process.result(PATIENCE), time.monotonic() + PATIENCE
        while not futures.wait([self.overtaken], LOOK_SECONDS).done and not waits(self.sessions, number):
            assert time.monotonic() < until, f"{self.second[0]} neither ends nor waits"


def takes_locks(statement: str) -> bool:
    """Whether PostgreSQL locks rows for it, or anything that another work could wait for."""
    words = statement.upper()
    return not words.lstrip().startswith("SELECT") or " FOR " in words or "LOCK" in words


@contextmanager
def before_each_statement(session: Session, do: Callable[[str], object]) -> Iterator[None]:
    """Call `do` with the text of each statement of the transaction before it is executed."""
    connection = session.connection()

    def call(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        do(statement)

    event.listen(connection, "before_cursor_execute", call)
    try:
        yield
    finally:
        event.remove(connection, "before_cursor_execute", call)


def interleaved(sessions: Sessions, first: tuple[str, Work], second: tuple[str, Work]) -> list[str]:
    """What goes wrong when the second work overtakes the first, after whichever of its locks."""
    found: list[str] = []
    for at in itertools.count(1):
        one = Interleaving(sessions, first, second, at)
        found += one.run()
        if one.overtaken is None:
            return found
    raise AssertionError("unreachable")


@pytest.mark.parametrize(
    "situation", [pytest.param("at work", marks=pytest.mark.long), "growing", "cancelling", "deleting"]
)
def test_no_two_works_wait_for_each_other_wherever_one_overtakes_the_other(sessions: Sessions, situation: str) -> None:
    works = SITUATIONS[situation](sessions)
    pairs = itertools.product(works.items(), repeat=2)
    assert [line for first, second in pairs for line in interleaved(sessions, first, second)] == []


@pytest.mark.parametrize(
    ("situation", "first", "second"), [("growing", "mark duplicates", "correct"), ("at work", "match", "commit")]
)
def test_a_load_that_locks_its_run_before_the_chunks_is_found_out(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch, situation: str, first: str, second: str
) -> None:
    works = SITUATIONS[situation](sessions)
    assert interleaved(sessions, (first, works[first]), (second, works[second])) == []
    for module in (intake, duplicates):
        monkeypatch.setattr(module, "lock_chunks_of", lambda *_: None)
    found = interleaved(sessions, (first, works[first]), (second, works[second]))
    assert any("deadlock detected" in line for line in found)


@pytest.mark.parametrize("situation", ["at work", "growing"])
def test_each_of_these_works_has_something_to_do(sessions: Sessions, situation: str) -> None:
    """One that finds nothing takes no lock, and shows nothing."""
    refused, idle = [], []
    for name, work in SITUATIONS[situation](sessions).items():
        with sessions() as session:
            try:
                if work(session) in (False, 0, []):
                    idle.append(name)
            except REFUSED:
                refused.append(name)
            session.rollback()
    assert (refused, idle) == (["correct"] if situation == "at work" else [], [])
