"""The claims of workers on chunks: claim, heartbeat, commit, release, fail, take back.

Each change names the fence of its claim; a worker whose change finds no row has lost the chunk and does nothing.
Knows no Celery, no processes and no pixels. Functions take the caller's session and never commit.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from sqlalchemy import ColumnElement, case, func, select, update
from sqlalchemy.orm import Session

from db.bulk import named_at_once
from db.chunks import (
    ATTEMPT_BACK,
    PENDING_IMAGES,
    HeldChunk,
    add_counts,
    change_chunk,
    change_chunks,
    finish_run,
    hold_running,
)
from db.claimed import ClaimedImage, claimed_images
from db.models import Chunk, Image, Result, Run, Worker
from db.outcomes import ImageDone, Outcome, count_outcomes, fail_unread, not_added, record, record_added
from db.splits import split_off
from db.states import STOPPED, ChunkState, ImageState
from db.steering import GOES_ON
from db.times import is_over, now
from db.transitions import NO_RANGE, Transition
from db.values import LEASE_SECONDS, NOTHING_SPENT, Spent

NO_VERSIONS: Mapping[str, str] = {}
MAX_ATTEMPTS = 5  # attempts in a row without one commit
CRASHES_BEFORE_SPLIT = 2  # the cause of the first crash may lie outside the chunk
# After so many releases in a row another worker will hardly do better, so the chunk rests.
MAX_RELEASES = 10
RELEASE_REST_SECONDS = 300.0
LONGEST_REST_SECONDS = 300


class Next(Enum):
    """What a worker does with its chunk after a commit."""

    GO_ON = "go on"  # with the next batch
    GIVE_BACK = "give back"  # the run is paused: release the chunk after the batch in hand
    NOTHING = "nothing"  # the chunk is done


class LeaseLost(Exception):
    """The claim is lost: its lease is over, another worker has the chunk, or its run was cancelled or deleted."""


@dataclass(frozen=True)
class Claim:
    """A worker's right to one chunk, for as long as no worker has a higher fence. `images` are its pending ones."""

    chunk_id: int
    run_id: int
    number: int
    fence: int
    threshold: float
    images: tuple[ClaimedImage, ...]
    serial: bool = False  # an attempt crashed: batches run one at a time, and `begin_range` notes each before it starts


@dataclass(frozen=True)
class ModelUsed:
    """The model that a worker has loaded. All results of one run must come from the same one."""

    revision: str | None
    weights_sha256: str
    dtype: str
    compiled: bool = False  # it computes with kernels that torch compiled for it


@dataclass(frozen=True)
class RunningChunk:
    """A running chunk, with what is needed to decide whether its owner is gone."""

    chunk_id: int
    fence: int
    owner_id: int | None
    lease_over: bool


def agree_on_model(
    session: Session, run_id: int, mine: ModelUsed, uid: str | None = None, versions: Mapping[str, str] = NO_VERSIONS
) -> ModelUsed | None:
    """Freeze `mine` into a run that has no model yet, and return the model that the run has.

    Returns None if the run is deleted, or no longer has the `uid` that is given: then its settings were corrected.
    The `versions` of this process's packages are written with the model, for information only: a worker with other
    versions may serve the run.
    """
    same = (Run.id == run_id, *_has_uid(uid))
    session.execute(
        update(Run).where(*same, Run.weights_sha256.is_(None)).values(**asdict(mine), versions=dict(versions))
    )
    columns = (Run.revision, Run.weights_sha256, Run.dtype, Run.compiled)
    row = session.execute(select(*columns).where(*same)).one_or_none()
    if row is None:
        return None
    return ModelUsed(row.revision, row.weights_sha256 or "", row.dtype or "", bool(row.compiled))


def claim(
    session: Session,
    run_id: int,
    chunk_id: int,
    worker_id: int,
    lease_seconds: float = LEASE_SECONDS,
    uid: str | None = None,
) -> Claim | None:
    """queued -> running, with a lease of `lease_seconds`. May be repeated.

    None: another worker has the chunk, it is finished, or its run is paused or not active. With the `uid` that the
    worker read, also None if the run was given other settings since then, and with them another uid.
    """
    row = _take(session, run_id, chunk_id, worker_id, lease_seconds, uid)
    if row is None:
        return None
    # Written before the run is read with a shared lock: two claims that had it would each wait for the other to write.
    unbegun = (Run.id == run_id, Run.started_at.is_(None), *_has_uid(uid))
    session.execute(update(Run).where(*unbegun).values(started_at=now()))
    # The run exists: a delete removes chunks before their run, and this transaction has locked the chunk. The lock on
    # the run makes a change of its prompts wait for this claim, or this claim for the change: see `db.prompts`.
    this_run = select(Run.threshold, Run.uid).where(Run.id == run_id).with_for_update(read=True)
    run = session.execute(this_run).one()
    images = claimed_images(session, run_id, chunk_id)
    claimed = Claim(chunk_id, run_id, row.number, row.fence, run.threshold, images, serial=row.crashes > 0)
    # If `_take` waited for a correction, PostgreSQL looked at the chunk again then, but not at the run. The chunk may
    # have been rung meanwhile under the new settings.
    if uid not in (None, run.uid):
        release(session, claimed)
        return None
    return claimed


def _take(session: Session, run_id: int, chunk_id: int, worker_id: int, lease_seconds: float, uid: str | None) -> Any:
    """queued -> running; the number, fence and crashes of the chunk, or None if the worker does not get it."""
    active = select(Run.id).where(Run.id == run_id, GOES_ON, *_has_uid(uid)).exists()
    columns = (Chunk.number, Chunk.fence, Chunk.crashes)
    this_chunk = (Chunk.id == chunk_id, Chunk.run_id == run_id)
    values = {
        "fence": Chunk.fence + 1,
        "owner_id": worker_id,
        "node": select(Worker.node).where(Worker.id == worker_id).scalar_subquery(),
        "started_at": func.coalesce(Chunk.started_at, now()),
        "lease_until": now() + lease_seconds,
        **NO_RANGE,
    }
    row = change_chunk(session, Transition.CLAIM, columns, *this_chunk, active, attempts=Chunk.attempts + 1, **values)
    if row is None:
        # A worker holds one chunk at a time. If it holds this one already, its claim was committed before, but the
        # database's answer was lost.
        row = change_chunk(session, Transition.CLAIM_AGAIN, columns, *this_chunk, Chunk.owner_id == worker_id, **values)
    return row


def _has_uid(uid: str | None) -> tuple[ColumnElement[bool], ...]:
    return () if uid is None else (Run.uid == uid,)


def heartbeat(session: Session, claim: Claim, lease_seconds: float = LEASE_SECONDS) -> bool:
    """Renew the lease; false if the claim is lost. A lease that is over can be renewed until it is taken back."""
    held = (*_fenced(claim), _run_goes_on(claim.run_id))
    return bool(change_chunks(session, Transition.RENEW, *held, lease_until=now() + lease_seconds))


def begin_range(
    session: Session, claim: Claim, first_row: int, last_row: int, lease_seconds: float = LEASE_SECONDS
) -> None:
    """Note which rows are opened next, so that they are known if the process crashes. Raises `LeaseLost`."""
    range_: dict[str, Any] = {"inflight_first": first_row, "inflight_last": last_row}
    if not change_chunks(session, Transition.BEGIN_RANGE, *_held(claim), lease_until=now() + lease_seconds, **range_):
        raise LeaseLost


def commit(
    session: Session,
    claim: Claim,
    outcomes: Sequence[Outcome],
    lease_seconds: float = LEASE_SECONDS,
    spent: Spent = NOTHING_SPENT,
) -> Next:
    """Record the outcomes of one batch and the seconds `spent` for it; return what the worker does next.

    Raises `LeaseLost`; the caller must then roll back.
    """
    images = {image.id: image for image in claim.images}
    added = [one for one in outcomes if _is_added(images, one)]
    whole = [one for one in outcomes if not _is_added(images, one)] if added else outcomes
    counts = count_outcomes(whole, claim.threshold) | {f"{stage}_seconds": s for stage, s in asdict(spent).items()}
    no_failures = {"attempts": 0, "crashes": 0, "releases": 0, "lease_until": now() + lease_seconds, **NO_RANGE}
    # If the same batch is committed a second time, fewer images than it has may be pending. The chunk's CHECK allows no
    # counter above its images, so the batch is refused here.
    held = (*_held(claim), len(outcomes) <= PENDING_IMAGES)
    paused = select(Run.paused.is_not(None)).where(Run.id == claim.run_id).scalar_subquery()  # costs no statement
    changed = change_chunk(
        session, Transition.COMMIT, [PENDING_IMAGES, paused], *held, counts=counts, finished_at=now(), **no_failures
    )
    if changed is None:
        raise LeaseLost
    pending, is_paused = changed
    _record(session, claim, whole, added, images)
    if pending == len(added):
        change_chunks(session, Transition.FINISH, Chunk.id == claim.chunk_id, error=None)
        finish_run(session, claim.run_id)
        return Next.NOTHING
    return Next.GIVE_BACK if is_paused else Next.GO_ON


def _is_added(images: Mapping[int, ClaimedImage], outcome: Outcome) -> bool:
    """Whether the outcome is only added to what its image has."""
    image = images.get(outcome.image_id)
    return image is not None and image.kept is not None and not image.is_replaced_by(outcome)


def _record(
    session: Session,
    claim: Claim,
    whole: Sequence[Outcome],
    added: Sequence[Outcome],
    images: Mapping[int, ClaimedImage],
) -> None:
    """Write the outcomes: those of images as a `whole`, and those that are `added` to what images have."""
    again = [one.image_id for one in whole if one.image_id in images and images[one.image_id].is_replaced_by(one)]
    arguments = (claim.chunk_id, claim.fence, claim.threshold)
    counts = record_added(session, *arguments, added) if added else Counter()
    if counts is None or not record(session, *arguments, whole, again):
        raise LeaseLost(f"chunk {claim.chunk_id}: not all of {len(whole) + len(added)} images were pending in it")
    if added:  # counted now, as their old results count too
        add_counts(session, {claim.chunk_id: counts})


def was_committed(session: Session, claim: Claim, outcomes: Sequence[Outcome]) -> Next | None:
    """Look for a commit whose answer was lost; return what that answer said, or None if the commit was not made.

    Whether the run is paused is left to the next commit to say.
    """
    chunk = session.execute(select(Chunk.state, Chunk.fence).where(Chunk.id == claim.chunk_id)).one_or_none()
    if chunk is None or chunk.fence != claim.fence:
        return None
    if not all(_is_recorded(session, claim, part) for part in named_at_once(outcomes)):
        return None
    return Next.NOTHING if chunk.state == ChunkState.DONE else Next.GO_ON


def _is_recorded(session: Session, claim: Claim, outcomes: Sequence[Outcome]) -> bool:
    """Whether the images of these outcomes ended so, with results of this claim for all prompts that they bring."""
    ids = [outcome.image_id for outcome in outcomes]
    rows = select(Image.id, Image.state, Image.error_class, Image.warning).where(Image.id.in_(ids))
    images = {image.id: image for image in session.execute(rows)}
    ours = select(Result.image_id, Result.prompt_id).where(Result.image_id.in_(ids), Result.fence == claim.fence)
    results = {tuple(result) for result in session.execute(ours)}
    kept = {image.id for image in claim.images if image.kept}
    for outcome in outcomes:
        image = images.get(outcome.image_id)
        if image is None:
            return False
        if isinstance(outcome, ImageDone):
            # The state is checked too: old results may come from another chunk whose fence was the same number.
            brings = {(image.id, result.prompt_id) for result in outcome.results}
            if image.state != ImageState.DONE or not brings <= results:
                return False
        elif image.id in kept:
            if (image.state, image.warning) != (ImageState.DONE, not_added(outcome.error_class)):
                return False
        elif (image.state, image.error_class) != (ImageState.FAILED, outcome.error_class):
            return False
    return True


def release(session: Session, claim: Claim, reason: str | None = None) -> bool:
    """running -> pending with the attempt given back: the worker drains, the run is paused, or the surroundings failed.

    False: the claim is lost.
    """
    return bool(
        change_chunks(
            session,
            Transition.RELEASE,
            *_fenced(claim),
            attempts=ATTEMPT_BACK,
            releases=Chunk.releases + 1,
            not_before=case((Chunk.releases + 1 >= MAX_RELEASES, now() + RELEASE_REST_SECONDS)),
            error=reason,
        )
    )


def fail_attempt(session: Session, claim: Claim, error: str, error_class: str = "internal") -> bool:
    """running -> pending with a rest, or running -> failed at the fifth attempt without a commit: an unexpected error.

    When the chunk fails, its pending images fail with `error_class`. False: the claim is lost.
    """
    chunk = hold_running(session, *_fenced(claim))
    if chunk is None:
        return False
    if chunk.attempts >= MAX_ATTEMPTS:
        _give_up(session, Transition.FAIL, chunk, error_class, error)
    else:
        not_before = now() + rest_after(chunk.attempts)
        change_chunks(session, Transition.FAIL_ATTEMPT, Chunk.id == chunk.id, error=error, not_before=not_before)
    return True


def running_chunks(session: Session) -> list[RunningChunk]:
    """All running chunks of all runs."""
    rows = select(Chunk.id, Chunk.fence, Chunk.owner_id, is_over(Chunk.lease_until)).where(
        Chunk.state == ChunkState.RUNNING
    )
    return [RunningChunk(id, fence, owner, bool(over)) for id, fence, owner, over in session.execute(rows)]


def take_back(session: Session, held: RunningChunk, *, crashed: bool) -> bool:
    """running -> pending or failed, because the owner is dead (`crashed`) or its lease is over.

    At the second crash without a commit the rows that were in hand, if they are known, move to chunks of their own.
    False: the owner has renewed its lease, or the chunk is no longer held by it.
    """
    unchanged = is_over(Chunk.lease_until) if held.lease_over else Chunk.owner_id == held.owner_id
    chunk = hold_running(session, Chunk.id == held.chunk_id, Chunk.fence == held.fence, unchanged)
    if chunk is None:
        return False
    crashes = chunk.crashes + 1
    if crashes >= CRASHES_BEFORE_SPLIT and split_off(session, chunk, crashed=crashed):
        return True
    if chunk.attempts >= MAX_ATTEMPTS:
        why = "crashed" if crashed else "gave_up"
        _give_up(session, Transition.GIVE_UP, chunk, why, f"{chunk.attempts} attempts without progress")
    else:
        not_before = None if crashes == 1 else now() + rest_after(crashes)
        change_chunks(session, Transition.TAKE_BACK, Chunk.id == chunk.id, crashes=crashes, not_before=not_before)
    return True


def rest_after(failures: int) -> int:
    """Seconds that a chunk rests after `failures` failures in a row: 5, 10, 20, ... up to five minutes."""
    return int(min(LONGEST_REST_SECONDS, 5 * 2 ** (max(failures, 1) - 1)))


def _give_up(session: Session, transition: Transition, chunk: HeldChunk, error_class: str, error: str) -> None:
    counts = fail_unread(session, error_class, error, Image.chunk_id == chunk.id)
    change_chunks(session, transition, Chunk.id == chunk.id, counts=counts, error=error)
    finish_run(session, chunk.run_id)


def _fenced(claim: Claim) -> tuple[ColumnElement[bool], ...]:
    return (Chunk.id == claim.chunk_id, Chunk.fence == claim.fence)


def _held(claim: Claim) -> tuple[ColumnElement[bool], ...]:
    return (*_fenced(claim), Chunk.lease_until > now(), _run_goes_on(claim.run_id))


def _run_goes_on(run_id: int) -> ColumnElement[bool]:
    return select(Run.id).where(Run.id == run_id, Run.state.not_in(STOPPED)).exists()
