"""Repairs what crashes and lost messages leave behind: dead owners, expired leases, lost doorbells, half a cancel.

Several processes may have a reconciler, but only one acts at a time. Knows no model and no pixels.
"""

import contextlib
import logging
import os
import signal
import threading
import time
from functools import partial

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from db import claims, doorbells, migrate, named_leases, presence, prompts, runs
from db.presence import Process, Registered
from db.prompts import Settling
from db.refusals import DatabaseUnusable
from db.session import Sessions, patience_of, read, write
from db.slices import Place, in_slices, slices
from db.states import RunState
from workers.broker.connection import Doorbells
from workers.errors import Unreachable, first_line
from workers.fleet.dispatch import Publish, dispatch, ring
from workers.fleet.processes import Fate, fate, is_dead, is_held, take_lease, this_process
from workers.settings import Settings

log = logging.getLogger(__name__)

LEASE = "reconciler"
LOOK_SECONDS = 1.0  # between two checks whether the workers of this machine live
ROUNDS_BETWEEN_LOOKS = 4  # of looking at each doorbell on the broker, even if their number is right
LEASE_ROUNDS = 3  # the lease lasts for so many rounds, so that one slow round does not lose it
FINISHING_SHARE = 0.5  # of a round that may be spent on what killed commands left half done


class Reconciler:
    """Calls `step` every `settings.reconcile_seconds`, in `run`."""

    def __init__(self, sessions: Sessions, publish: Publish, doorbells: Doorbells, settings: Settings) -> None:
        self._sessions = sessions
        self._publish = publish
        self._doorbells = doorbells
        self._settings = settings
        self._me = this_process()
        self._here: list[Process] = []  # workers of this machine that lived at the last round
        self._stuck: dict[int, float] = {}  # worker id -> when it was first seen to work without a lease
        self._rounds = 0
        self._absent: dict[tuple[int, int], float] = {}  # (chunk, ring) -> when its doorbell was first missed
        self.fault: DatabaseUnusable | None = None  # for which `run` has ended, and no node can work either
        self._passes: dict[int, tuple[Settling, Place | None]] = {}  # run id -> how far its images follow its prompts

    def run(self, stop: threading.Event) -> None:
        """Reconcile until `stop` is set. Errors are logged, and the next round tries again.

        Only a database that a later release has upgraded ends it: `fault` says so.
        """
        while True:
            try:
                self.step()
            except DatabaseUnusable as error:
                self.fault = error
                return
            except SQLAlchemyError as error:
                log.warning("reconciling waits for the database: %s", first_line(error))
            except Unreachable as error:
                log.warning("lost doorbells are not looked for: %s", error)
            except Exception:  # after any error, as the next round looks at everything again
                log.exception("reconciling failed")
            if self._wait(stop):
                self._leave()
                return

    def _wait(self, stop: threading.Event) -> bool:
        """Wait for the next round, or until a worker on this machine has died; true if `stop` is set."""
        due = time.monotonic() + self._settings.reconcile_seconds
        while time.monotonic() < due:
            if stop.wait(min(LOOK_SECONDS, self._settings.reconcile_seconds)):
                return True
            if any(is_dead(process) for process in self._here):
                return False
        return False

    def step(self) -> bool:
        """Do one round; false if another reconciler acts. Raises `DatabaseUnusable` for a newer database."""
        read(self._sessions, migrate.refuse_newer)
        self._end_stuck()  # also without the lease, since only this machine can end its processes
        if not take_lease(self._sessions, LEASE, self._me, LEASE_ROUNDS * self._settings.reconcile_seconds):
            self._here = []  # the other reconciler looks after them
            return False
        self._take_back_lost()
        write(self._sessions, runs.repair)
        dispatch(self._sessions, self._publish)
        self._ring_lost()
        write(self._sessions, presence.forget_old_workers)
        self._finish_commands()
        return True

    def _finish_commands(self) -> None:
        """Continue unfinished cancels, deletes and changes of prompts, for a part of a round.

        The command that began one may still be working: the second to come finds a slice done, and does the next one.
        """
        until = time.monotonic() + FINISHING_SHARE * self._settings.reconcile_seconds
        for run_id, state in read(self._sessions, runs.stopping_runs):
            work = runs.cancel_slice if state == RunState.CANCELLING else runs.delete_slice
            in_slices(self._sessions, work, run_id, enough=lambda: time.monotonic() > until)
        for run_id in read(self._sessions, prompts.unsettled_runs):
            if not is_held(self._sessions, named_leases.load_lease(run_id)):
                self._settle(run_id, until)

    def _settle(self, run_id: int, until: float) -> None:
        """Let images follow a change of their run's prompts; what is left goes on from there in the next round."""
        begun = read(self._sessions, prompts.begin_settling, run_id)
        if begun is None:
            return
        settling, place = self._passes.pop(run_id, (begun, None))
        if settling.change != begun.change:
            settling, place = begun, None
        for done in slices(self._sessions, partial(prompts.settle_slice, settling=settling), run_id, place):
            if done.place is not None and time.monotonic() > until:
                self._passes[run_id] = settling, done.place
                return

    def _leave(self) -> None:
        """Take back what the nodes of this process left behind, then give the lease back."""
        try:
            self._take_back_lost()
            write(self._sessions, named_leases.release_lease, LEASE, self._me)
        except SQLAlchemyError as error:
            log.warning("leaving without a last look, the database cannot be used: %s", first_line(error))

    def _end_stuck(self) -> None:
        """Kill workers of this machine that have lost their lease and still work: they hang."""
        here, patience = (self._me.host, self._me.boot), self._settings.lease_seconds
        stalled = read(self._sessions, presence.without_lease, *here, stopped=False)
        stopped = read(self._sessions, presence.without_lease, *here, stopped=True)
        # A stalled worker has had its time already. A worker whose run was stopped may have a long batch in hand.
        longer = patience + self._settings.stall_seconds
        found = dict.fromkeys(stalled, patience) | dict.fromkeys(stopped, longer)
        seen = time.monotonic()
        self._stuck = {worker.worker_id: self._stuck.get(worker.worker_id, seen) for worker in found}
        for worker, patience in found.items():
            if seen - self._stuck[worker.worker_id] >= patience and fate(worker.process) is Fate.ALIVE:
                log.error("%s hangs: its process %d is ended and started anew", worker.node, worker.process.pid)
                with contextlib.suppress(OSError):  # it ended meanwhile, or belongs to another user
                    os.kill(worker.process.pid, signal.SIGKILL)

    def _take_back_lost(self) -> None:
        """Take back chunks whose lease is over, and chunks whose owner died on this machine even before that."""
        here, held = read(self._sessions, _owners_and_chunks, self._me)
        # After the database was away, living workers first get the time to renew their leases.
        lapses = patience_of(self._sessions).seconds_since_a_wait() > self._settings.lease_seconds
        fates = {worker.worker_id: fate(worker.process) for worker in here}
        dead = {worker_id for worker_id, found in fates.items() if found is Fate.DEAD}
        alive = {worker_id for worker_id, found in fates.items() if found is Fate.ALIVE}
        self._here = [worker.process for worker in here if worker.worker_id not in dead]
        for chunk in held:
            if (chunk.lease_over and lapses) or chunk.owner_id in dead:
                crashed = chunk.owner_id not in alive  # an owner that lives, but has not renewed its lease, hangs
                write(self._sessions, claims.take_back, chunk, crashed=crashed)
        for worker_id in dead:  # last, since the chunk of a worker marked as dead is not looked for any more
            write(self._sessions, presence.mark_dead, worker_id)

    def _ring_lost(self) -> None:
        """Ring chunks again whose doorbell was missing at two looks: one look can miss a message in motion."""
        queued = read(self._sessions, doorbells.queued_doorbells)
        self._rounds += 1
        # The count includes doorbells of chunks that have just begun to run, so some rounds look at each doorbell even
        # if the count is high enough.
        if len(queued) <= self._doorbells.count() and self._rounds % ROUNDS_BETWEEN_LOOKS:
            return
        present = self._doorbells.chunks()
        missing = {(chunk, ring) for chunk, ring in queued if chunk not in present}
        seen = time.monotonic()
        self._absent = {key: self._absent.get(key, seen) for key in missing}
        for (chunk, number), since in self._absent.items():
            if seen - since >= self._settings.absent_seconds:
                ring(self._publish, write(self._sessions, doorbells.ring_again, chunk, number))


def _owners_and_chunks(session: Session, me: Process) -> tuple[list[Registered], list[claims.RunningChunk]]:
    """The workers registered on this machine, and all running chunks of all machines, read in one transaction."""
    return presence.registered_on(session, me.host, me.boot), claims.running_chunks(session)
