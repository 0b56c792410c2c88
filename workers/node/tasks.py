"""The task: answer a doorbell, and acknowledge what came of it, once. The work itself is elsewhere."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from celery import current_app, shared_task
from celery.signals import worker_process_init
from sqlalchemy.exc import SQLAlchemyError

from db.models import STOPPED, RunState
from db.runs import state_of
from db.session import DatabaseUnusable, read
from db.views.status import RunView, run_view
from workers.contract import TASK, BadMessage, Doorbell
from workers.errors import first_line
from workers.fleet.dispatch import dispatch, publisher
from workers.node import life
from workers.node.attempt import Attempt, work
from workers.node.chunk import ChunkInHand
from workers.node.faults import Ruling, Verdict, is_infrastructure, judge
from workers.node.node import Node
from workers.node.refusals import Declined

log = logging.getLogger(__name__)

PASSED_ON_SECONDS = (
    1.0  # a worker that declines a run listens to nothing for so long, so that others hear its doorbells
)
DECLINED_PAUSES = 6  # a chunk whose model cannot be had here waits for so many pauses as follow a fault

Summary = dict[str, Any]
"""What Flower shows of a task that has ended."""


@worker_process_init.connect
def _introduce_worker(**_: Any) -> None:
    """Show the node in sam3-status before its first chunk, and ring what one worker more may take."""
    life.ignore_hangup()  # as in our Celery parent, which the pool does not hand on
    logging.getLogger("workers").setLevel(logging.INFO)  # a line for each chunk; Celery's own matter only as warnings
    logging.getLogger("celery.app.trace").addFilter(_is_news)
    with _database_may_be_away():  # the first doorbell tries again
        dispatch(Node.this().worker.sessions, publisher(current_app))


@contextmanager
def _database_may_be_away() -> Iterator[None]:
    """What is done here is done again by somebody else, or later."""
    try:
        yield
    except (SQLAlchemyError, DatabaseUnusable) as error:
        log.warning("the database cannot be reached: %s", first_line(error))


def _is_news(record: logging.LogRecord) -> bool:
    """Whether Celery's line about a failed task says more than ours: a database that is away was told as a fault, and
    where in SQLAlchemy that was noticed helps nobody."""
    error = record.exc_info[1] if record.exc_info else None
    return not (isinstance(error, SQLAlchemyError) and is_infrastructure(error))


@shared_task(name=TASK)
def segment_chunk(message: Any) -> Summary:
    """Segment what is pending of one chunk. Returns a small summary for Flower; raises if the attempt failed."""
    try:
        doorbell = Doorbell.from_message(message)
    except BadMessage as error:
        log.warning("dropped a doorbell: %s", error)
        return {"dropped": str(error)}
    node = Node.this()
    if node.stops:
        return {"skipped": "this node stops"}  # the chunk stays queued: it is rung again when its doorbell is missed
    with life.draining_on_sigterm(node.draining):
        return _acknowledged(node, doorbell)


def _acknowledged(node: Node, doorbell: Doorbell) -> Summary:
    """Answer the doorbell; an error is judged here, and its verdict carried out, whatever part of a node raised it."""
    chunk: ChunkInHand | None = None
    try:
        if doorbell.database != node.worker.identity:
            return _foreign()
        run = read(node.worker.sessions, run_view, doorbell.run, row_prompts=False)
        if run is None:
            return {"skipped": "no such run"}
        chunk = ChunkInHand(node.worker, run, doorbell.chunk)
        told = _answer(node, chunk)
        _leave(node, chunk)
        return told
    except Exception as error:
        verdict = judge(error, node.gpu_works)
        _carry_out(node, chunk, verdict)
        if chunk is not None and verdict.ruling is Ruling.LOST:
            return {"lost": chunk.number}
        if isinstance(error, MemoryError):  # Celery would end the whole node
            raise RuntimeError("out of memory") from error
        raise


@cache
def _foreign() -> Summary:
    """Told once: whoever rings at the wrong door may do so often."""
    log.warning("dropped a doorbell of another database; does somebody else write to our queue?")
    return {"dropped": "it is another database's"}


def _answer(node: Node, chunk: ChunkInHand) -> Summary:
    run, waits = chunk.run, chunk.waits()
    if run.state != RunState.ACTIVE:  # before its model is loaded for nothing
        if waits:
            chunk.unqueue()
        return {"skipped": f"run is {run.state}"}
    if not waits:
        return {"skipped": "not to be claimed"}
    chunk.announce()
    try:
        segmenter = node.model.segmenter_for(run)  # before the claim: a slow or failing load costs no attempt
    except Declined as reason:
        _decline(node, chunk, reason)
        return {"declined": str(reason)}
    if node.draining.is_set() or not chunk.claim():
        chunk.unqueue()  # if it is still queued, it is to be rung again when it can be claimed
        return {"skipped": "draining" if node.draining.is_set() else "not to be claimed"}
    told = work(Attempt(node.worker, node.model, segmenter, chunk))
    node.renew_if_worn_out()
    return told


def _decline(node: Node, chunk: ChunkInHand, reason: Declined) -> None:
    """Hand the chunk on: it leaves the front of the queue, where it keeps others from this worker."""
    another = node.model.may_serve_another()
    if not reason.fault:  # another worker may serve the run: the others are to hear the next doorbell first
        chunk.unqueue()
        dispatch(node.worker.sessions, publisher(current_app), [chunk.run.id])
        node.draining.wait(PASSED_ON_SECONDS if another else node.settings.fault_pause_seconds)
        return
    chunk.unqueue(DECLINED_PAUSES * node.settings.fault_pause_seconds)
    if reason.tried or not another:  # ending the node would not help the others
        node.fault(str(reason))


def _carry_out(node: Node, chunk: ChunkInHand | None, verdict: Verdict) -> None:
    """What becomes of the chunk, of this process and of the node."""
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
    """In words, who takes every chunk of the run from its worker, if anybody does."""
    state = read(node.worker.sessions, state_of, run.id)
    if state in (None, RunState.DELETING):
        return "its run is being deleted" if state else "its run was deleted"
    return "its run was cancelled" if state in STOPPED else None


def _leave(node: Node, chunk: ChunkInHand | None) -> None:
    """The chunk is no longer in hand, however that ended: say so, and ring what is due of its run."""
    if chunk is None or not node.worker.let_go():
        return
    if chunk.is_claimed and not node.draining.is_set():
        dispatch(node.worker.sessions, publisher(current_app), [chunk.run.id])
