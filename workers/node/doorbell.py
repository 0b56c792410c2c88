"""Answers a doorbell, as the Celery task does, and carries out the verdict if that fails. Knows no images."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from celery import current_app
from sqlalchemy.exc import SQLAlchemyError

from db.doorbells import Call
from db.refusals import DatabaseUnusable
from db.runs import state_of
from db.session import read
from db.states import STOPPED, RunState
from db.views.run_views import RunView, run_view
from workers.broker.contract import BadMessage, Doorbell
from workers.errors import first_line
from workers.fleet.dispatch import dispatch, publisher
from workers.node import life
from workers.node.attempt import Attempt, work
from workers.node.chunk import ChunkInHand
from workers.node.faults import Ruling, Verdict, is_infrastructure, judge
from workers.node.node import Node
from workers.node.refusals import Declined

log = logging.getLogger(__name__)

# After a worker has declined a run it answers no doorbell for so long, so that other workers get those of the run.
PASSED_ON_SECONDS = 1.0
DECLINED_PAUSES = 6  # rest of a chunk whose model cannot be loaded here, in units of `fault_pause_seconds`

Summary = dict[str, Any]
"""The result of a task, which Flower shows."""


def introduce_worker() -> None:
    """Register the worker, so that sam3-status shows it before its first chunk, and ring chunks for it."""
    life.ignore_hangup()  # here, too, as the process pool resets the handler of the Celery parent
    logging.getLogger("workers").setLevel(logging.INFO)  # a line for each chunk; Celery itself logs warnings only
    logging.getLogger("celery.app.trace").addFilter(_is_news)
    with _database_may_be_away():  # then the first doorbell registers the worker
        dispatch(Node.this().worker.sessions, publisher(current_app))


@contextmanager
def _database_may_be_away() -> Iterator[None]:
    """Log and ignore that the database is away. Use it for work that is repeated later, or that others do as well."""
    try:
        yield
    except (SQLAlchemyError, DatabaseUnusable) as error:
        log.warning("the database cannot be used: %s", first_line(error))


def _is_news(record: logging.LogRecord) -> bool:
    """Whether Celery's line about a failed task is worth logging.

    If the database is away it is not: that was logged as a fault already, and a traceback through SQLAlchemy does not
    help.
    """
    error = record.exc_info[1] if record.exc_info else None
    return not (isinstance(error, SQLAlchemyError) and is_infrastructure(error))


def answer(message: Any) -> Summary:
    """Segment the pending images of one chunk. Returns a small summary for Flower; raises if the attempt failed."""
    try:
        doorbell = Doorbell.from_message(message)
    except BadMessage as error:
        log.warning("dropped a doorbell: %s", error)
        return {"dropped": str(error)}
    node = Node.this()
    if node.stops:
        return {"skipped": "this node stops"}  # the chunk stays queued until the reconciler misses its doorbell
    with life.draining_on_sigterm(node.draining):
        return _acknowledged(node, doorbell)


def _acknowledged(node: Node, doorbell: Doorbell) -> Summary:
    """Answer the doorbell. Errors of all parts of a node are judged here, and their verdicts carried out."""
    chunk: ChunkInHand | None = None
    try:
        if doorbell.database != node.worker.identity:
            return _foreign()
        run = read(node.worker.sessions, run_view, doorbell.run, row_prompts=False)
        if run is None:
            return {"skipped": "no such run"}
        chunk = ChunkInHand(node.worker, run, doorbell.chunk)
        summary = _answer(node, chunk)
        _leave(node, chunk)
        return summary
    except Exception as error:
        verdict = judge(error, node.gpu_works)
        _carry_out(node, chunk, verdict)
        if chunk is not None and verdict.ruling is Ruling.LOST:
            return {"lost": chunk.number}
        if isinstance(error, MemoryError):  # not raised itself, as Celery would end the whole node
            raise RuntimeError("out of memory") from error
        raise


@cache
def _foreign() -> Summary:
    """Log a doorbell of another database, once only, as there may be many."""
    log.warning("dropped a doorbell of another database; does somebody else write to our queue?")
    return {"dropped": "it is another database's"}


def _answer(node: Node, chunk: ChunkInHand) -> Summary:
    run, call = chunk.run, chunk.call(node.model.declined_runs)
    if (why := _not_its_turn(run, call)) is not None:  # checked first, so that its model is not loaded in vain
        if call is not Call.LATE:
            chunk.unqueue()
        return {"skipped": why}
    if call is Call.LATE:
        return {"skipped": "not to be claimed"}
    chunk.announce()
    try:
        segmenter = node.model.segmenter_for(run)  # before the claim: a slow or failing load costs no attempt
    except Declined as reason:
        _decline(node, chunk, reason)
        return {"declined": str(reason)}
    if node.draining.is_set() or not chunk.claim():
        chunk.unqueue()  # if the chunk is still queued, it becomes pending, so that it is rung again
        return {"skipped": "draining" if node.draining.is_set() else "not to be claimed"}
    summary = work(Attempt(node.worker, node.model, segmenter, chunk))
    node.renew_if_worn_out()
    return summary


def _not_its_turn(run: RunView, call: Call) -> str | None:
    """Why no chunk of the run is begun now; None if one may be."""
    if run.state != RunState.ACTIVE:
        return f"run is {run.state}"
    if run.paused is not None:
        return f"run is paused: {run.paused}"
    return "a run of higher priority waits" if call is Call.OUTRANKED else None


def _decline(node: Node, chunk: ChunkInHand, reason: Declined) -> None:
    """Make the chunk pending again, so that it does not stay at the front of the queue and block other chunks."""
    another = node.model.may_serve_another()
    if not reason.fault:  # another worker may serve the run: ring now, and pause so that another one answers
        chunk.unqueue()
        dispatch(node.worker.sessions, publisher(current_app))
        node.draining.wait(PASSED_ON_SECONDS if another else node.settings.fault_pause_seconds)
        return
    chunk.unqueue(DECLINED_PAUSES * node.settings.fault_pause_seconds)
    # If the model was not tried again and the node can serve other runs, this is no new fault: counting it would end a
    # node that is still useful.
    if reason.tried or not another:
        node.fault(str(reason))


def _carry_out(node: Node, chunk: ChunkInHand | None, verdict: Verdict) -> None:
    """Do what the verdict says with the chunk, this process and the node."""
    with _database_may_be_away():
        if chunk is not None and chunk.is_claimed:
            _end_attempt(node, chunk, verdict)
    if verdict.ends_process:
        node.end_process(verdict.line)
    with _database_may_be_away():
        _leave(node, chunk)
    if verdict.is_fault:
        node.fault(verdict.line)


def _end_attempt(node: Node, chunk: ChunkInHand, verdict: Verdict) -> None:
    match verdict.ruling:
        case Ruling.GIVE_BACK:
            chunk.release(verdict.line)
        case Ruling.CHARGE:
            chunk.fail(verdict.error_class, verdict.line)
        case Ruling.LOST:
            why = verdict.line or _stopped(node, chunk.run)
            log.warning("chunk %d of %s is no longer ours%s", chunk.number, chunk.run.name, f": {why}" if why else "")
        case Ruling.HOLD:
            pass


def _stopped(node: Node, run: RunView) -> str | None:
    """Why every worker loses its chunks of the run, in words; None if the run goes on."""
    state = read(node.worker.sessions, state_of, run.id)
    if state in (None, RunState.DELETING):
        return "its run is being deleted" if state else "its run was deleted"
    return "its run was cancelled" if state in STOPPED else None


def _leave(node: Node, chunk: ChunkInHand | None) -> None:
    """Report that no chunk is in hand any more, and ring the next chunks of the runs whose turn it is."""
    if chunk is None or not node.worker.let_go():
        return
    if chunk.is_claimed and not node.draining.is_set():
        dispatch(node.worker.sessions, publisher(current_app))
