"""The heartbeat thread: it renews the worker's row and the lease of its chunk. Does no work on images."""

import logging
import threading
import time
from collections.abc import Callable
from typing import NoReturn

from sqlalchemy.exc import SQLAlchemyError

from db.session import read
from db.states import RunState
from db.views.run_views import run_view
from workers.errors import first_line
from workers.node.worker import Worker

log = logging.getLogger(__name__)


class Heartbeat:
    """A thread that beats every `settings.heartbeat_seconds`.

    While the work makes no progress, it does not renew the lease, so that another worker gets the chunk. If the model
    does not get ready, it calls `end_process` with the reason, and a new process tries again.
    """

    def __init__(self, worker: Worker, end_process: Callable[[str], NoReturn]) -> None:
        self._worker = worker
        self._end_process = end_process

    def start(self) -> None:
        threading.Thread(target=self._run, name="heartbeat", daemon=True).start()

    def _run(self) -> None:
        settings, activity = self._worker.settings, self._worker.activity
        while True:
            time.sleep(settings.heartbeat_seconds)
            if activity.is_loading and activity.stands_still(settings.stall_seconds):
                self._end_process(f"the model is not ready after {settings.stall_seconds:g} s")
            try:
                self._beat()
            except SQLAlchemyError as error:
                log.warning("heartbeat: the database cannot be used: %s", first_line(error))

    def _beat(self) -> None:
        worker = self._worker
        self._forget_old_refusal()
        worker.report()
        claim = worker.activity.claim
        if claim is not None and not worker.activity.stands_still(worker.settings.stall_seconds):
            worker.renew(claim)

    def _forget_old_refusal(self) -> None:
        """Stop reporting that a run is declined if the run was corrected, ended or deleted since."""
        declined = self._worker.activity.declined()
        if declined is None:
            return
        run_id, refusal = declined
        run = read(self._worker.sessions, run_view, run_id, row_prompts=False)
        if run is None or run.state != RunState.ACTIVE or not refusal.holds(run):
            self._worker.activity.forget(refusal)
