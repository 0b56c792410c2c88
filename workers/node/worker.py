"""This process as a worker: its database row, its heartbeat, its model and its claim. Segments nothing itself."""

import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Self, cast

from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from db import claims, doorbells, presence
from db.claims import Claim, ImageDone, LeaseLost, Outcome
from db.migrate import ensure_schema
from db.models import RunState
from db.session import Sessions, connect, read, write
from db.views.status import RunView, active_runs, identity, run_view
from workers.errors import Sam3Error, first_line, one_line
from workers.fleet.processes import this_process
from workers.fleet.weights import check_models, looks_of, model_folder, revision_of
from workers.inference import readahead, segmenters, selftest
from workers.inference.caps import Caps
from workers.inference.pipeline import OutOfMemory, Segmenter, refused_prompts
from workers.inference.selftest import SelfTestFailed
from workers.node.breaker import Breaker
from workers.settings import Settings, load_settings

log = logging.getLogger(__name__)

RATE_SECONDS = 60.0  # images per second are those of the last minute
UNUSABLE_SECONDS = 300.0  # before a model that could not be had is tried again
MOST_LEFT_BEHIND = 3  # decoders that hang, each a thread with its memory, before a fresh process takes over
THOROUGH_PASSES = 8  # of the self-test after a fault: a GPU may well manage one


class Declined(Exception):
    """This worker does not serve the run as it is, and why; another one may.

    `fault`: not because of the run, but because its model cannot be had here. `tried`: found out just now.
    """

    def __init__(self, reason: str, *, fault: bool = False, tried: bool = True) -> None:
        super().__init__(reason)
        self.fault = fault
        self.tried = tried


@dataclass(frozen=True)
class Refusal:
    """Why a run is declined, in words: an exception would hold its frames, and those a model that is to leave the GPU.

    It is true of a run that `is_as` it was, and no longer than its model cannot be had if that is the `fault`.
    """

    is_as: tuple[object, ...]
    reason: str
    fault: bool


@dataclass(frozen=True)
class Unusable:
    """Why a model cannot be had here, for as long as its folder `looks` so, and then for a while."""

    reason: str
    looks: object
    since: float


class Worker:
    """One a process. Uses two database connections: the task's, and the heartbeat thread's."""

    breaker: ClassVar[Breaker] = Breaker()  # of the process: it counts also while no worker can be made of it
    _this: "Worker | None" = None

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.sessions: Sessions = connect(settings.database_url, connections=2)
        ensure_schema(self.sessions)
        self.identity = read(self.sessions, identity)
        self._me = this_process()
        self._node = f"{settings.node}@{self._me.host}"
        self.id = write(self.sessions, presence.register, self._node, self._me)
        self._lock = threading.Lock()
        self.draining = threading.Event()
        self.caps = Caps()  # what fits into memory with the model that is loaded
        self.gpu_works = False  # as seen by this process, which ends at the first sign that it does not
        self._claim: Claim | None = None
        self._lost: Claim | None = None  # the last one that the heartbeat found gone
        self._progress = time.monotonic()
        self._does: dict[str, Any] = {"state": "idle"}
        self._loading = False
        self._segmenter: tuple[str, Segmenter] | None = None  # (model, what serves it)
        self._declined: dict[int, Refusal] = {}  # by run
        self._unusable: dict[str, Unusable] = {}  # by model
        self._images = 0
        self._recent: deque[tuple[float, int]] = deque()
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    @classmethod
    def this(cls) -> Self:
        """The worker that this process is; the first call connects it."""
        if Worker._this is None:
            Worker._this = cls(load_settings())
        return cast(Self, Worker._this)

    @classmethod
    def asked_to_end(cls) -> bool:
        """Whether this process drains; false too if it has not got as far as being a worker."""
        return Worker._this is not None and Worker._this.draining.is_set()

    @contextmanager
    def answering(self, run: RunView, chunk_id: int) -> Iterator[None]:
        """While a doorbell is answered, say so, and let SIGTERM ask for a drain instead of ending the process.

        The signal reaches us beside our Celery parent, which waits for the task. The handler stands only while a task
        runs: an idle process is ended by the signal, as Celery expects.
        """
        self.draining.clear()
        before = signal.signal(signal.SIGTERM, lambda number, frame: self.draining.set())
        try:
            self._report(state="loading", run_id=run.id, chunk_id=chunk_id, message=None)
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
            if self._does["state"] not in ("declined", "idle"):
                self.let_go()

    def let_go(self) -> None:
        """The chunk in hand is no longer ours to work on, however that ended."""
        self._claim = None
        self._report(state="idle", run_id=None, chunk_id=None, images_per_second=None)

    def segmenter_for(self, run: RunView) -> Segmenter:
        """The run's model, loaded now if another one is. Raises `Declined` if this worker cannot serve the run."""
        refusal, tried = self._refusal(run), False
        if refusal is None:
            tried = self._why_unusable(run.frozen.model) is None
            try:
                segmenter = self._load(run.frozen.model)
                self._agree(run, segmenter)
                return segmenter
            except Declined as declined:
                refusal = self._declined[run.id] = Refusal(_settings_of(run), str(declined), declined.fault)
                log.error("run %s is not served by this worker: %s", run.name, refusal.reason)
        self._report(state="declined", chunk_id=None, message=refusal.reason)
        raise Declined(refusal.reason, fault=refusal.fault, tried=tried)

    def _refusal(self, run: RunView) -> Refusal | None:
        """Why this worker declined the run before, if that still holds."""
        refusal = self._declined.get(run.id)
        if refusal is None or refusal.is_as != _settings_of(run):
            return None
        return None if refusal.fault and self._why_unusable(run.frozen.model) is None else refusal

    def _why_unusable(self, model: str) -> str | None:
        """Why the model could not be had here, unless it is time to try again: its folder changed, or it is a while
        ago that the network, the licence or another process on the GPU was in the way."""
        found = self._unusable.get(model)
        if found is None or found.looks != looks_of(model) or time.monotonic() - found.since > UNUSABLE_SECONDS:
            return None
        return found.reason

    def may_serve_another(self) -> bool:
        """Whether some active run has not been declined, yet."""
        return any(run_id not in self._declined for run_id in read(self.sessions, active_runs))

    def _load(self, model: str) -> Segmenter:
        if (reason := self._why_unusable(model)) is not None:
            raise Declined(reason, fault=True)
        if self._segmenter is None or self._segmenter[0] != model:
            looks = looks_of(model)
            try:
                check_models([model], self.settings)  # a download may take its time
                self._segmenter = None  # two models need not fit at once
                with self._watched():
                    segmenter = make_segmenter(model, self.settings)
                    self._test(segmenter)
            except Exception as error:
                reason = _told(model, error)
                self._unusable[model] = Unusable(reason, looks, time.monotonic())
                raise Declined(reason, fault=True) from None
            self._segmenter, self.caps = (model, segmenter), Caps()
        return self._segmenter[1]

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """A model that hangs while it is loaded or tested ends the process: no lease that would run out is held."""
        self.progressed()
        self._loading = True
        try:
            yield
        finally:
            self._loading = False

    def _test(self, segmenter: Segmenter) -> None:
        """A broken GPU must not find out with somebody's images."""
        thorough = self.breaker.suspicious
        selftest.check(segmenter, THOROUGH_PASSES if thorough else 1)
        self.gpu_works |= thorough

    def _agree(self, run: RunView, segmenter: Segmenter) -> None:
        """The first worker freezes what it loaded into the run; others must have loaded the same."""
        facts = segmenter.facts
        mine = claims.ModelUsed(facts.revision, facts.weights_sha256, facts.dtype)
        frozen = write(self.sessions, claims.agree_on_model, run.id, mine, run.uid)
        if frozen is not None and (frozen.weights_sha256, frozen.dtype) != (mine.weights_sha256, mine.dtype):
            raise Declined(
                f"it began with weights {frozen.weights_sha256[:12]} in {frozen.dtype}, "
                f"here are {mine.weights_sha256[:12]} in {mine.dtype}"
            )
        every_image = [run.prompts[prompt_id] for prompt_id in run.every_image]
        for prompt, reason in refused_prompts(segmenter, every_image).items():
            raise Declined(f"prompt {prompt!r}: {reason}; the same command with a shorter prompt corrects it")

    def claim(self, run_id: int, chunk_id: int, uid: str | None = None) -> Claim | None:
        """None: it is somebody else's, or finished, or the run is not the one of `uid` any more."""
        claim = write(self.sessions, claims.claim, run_id, chunk_id, self.id, self.settings.lease_seconds, uid)
        if claim is not None:
            self.progressed()
            self._claim = claim
            self._report(state="running")
        return claim

    def begin_range(self, claim: Claim, first_row: int, last_row: int) -> None:
        """Record which rows are opened next: should this process die of one, they are the suspects."""
        write(self.sessions, claims.begin_range, claim, first_row, last_row, self.settings.lease_seconds)

    def progressed(self) -> None:
        """Some stage finished something. The lease is renewed only while that happens now and then."""
        self._progress = time.monotonic()

    def stopped(self, claim: Claim) -> bool:
        """Whether no further batch of the claim is to be begun: we end, or it is no longer ours."""
        return self.ends() or self.has_lost(claim)

    def ends(self) -> bool:
        """Whether what is in hand is the last that this process does."""
        return self.draining.is_set() or self.worn_out()

    @staticmethod
    def worn_out() -> bool:
        """Whether so many decoders hang in this process that a fresh one is due: threads cannot be ended."""
        return readahead.left_behind() >= MOST_LEFT_BEHIND

    def has_lost(self, claim: Claim) -> bool:
        return self._lost is claim

    def holds(self, claim: Claim) -> bool:
        """Ask the database whether the claim is still ours, and renew its lease if it is."""
        self._renew(claim)
        return not self.has_lost(claim)

    def commit(self, claim: Claim, outcomes: Sequence[Outcome]) -> bool:
        """Record one batch; true if it finished the chunk. Raises `LeaseLost`."""
        self._images += len(outcomes)
        self._recent.append((time.monotonic(), len(outcomes)))
        self._does |= {"images": self._images, "images_per_second": self._rate()}

        def work(session: Session) -> bool:
            finished = claims.commit(session, claim, outcomes, self.settings.lease_seconds)
            presence.report(session, self.id, **self._does)
            return finished

        try:
            finished = write(self.sessions, work)
        except (IntegrityError, DataError):  # nothing is in; parts of it may come again
            self._images -= len(outcomes)
            self._recent.pop()
            raise
        except LeaseLost:  # or the answer to our own commit was, with the connection
            landed = read(self.sessions, claims.landed, claim, outcomes)
            if landed is None:
                raise
            finished = landed
        if any(isinstance(outcome, ImageDone) for outcome in outcomes):
            self.gpu_works = True
            self.breaker.success()
        self.progressed()
        return finished

    def release(self, claim: Claim, reason: str | None = None) -> None:
        """Give the chunk back with its attempt; if the database is away, the end of the lease does it."""
        try:
            write(self.sessions, claims.release, claim, None if reason is None else one_line(reason))
        except SQLAlchemyError as error:
            log.warning("chunk %d comes back when its lease is over: %s", claim.number, first_line(error))

    def fail(self, claim: Claim, error: Exception) -> None:
        write(self.sessions, claims.fail_attempt, claim, one_line(f"{type(error).__name__}: {error}"))

    def end_process(self, reason: str) -> None:
        """End at once, without a word to Celery, which starts a fresh process in our place. It is a fault."""
        log.error("this process cannot go on: %s", reason)
        self.breaker.fault(reason)
        logging.shutdown()
        os._exit(1)

    def unqueue(self, chunk_id: int, rest: float = 0) -> None:
        """Hand a rung chunk back unclaimed, so that it is rung again in `rest` seconds and not when the doorbell is
        missed."""
        write(self.sessions, doorbells.unqueue, chunk_id, rest)

    def _rate(self) -> float:
        """Images per second over the last minute, or since the first commit of this stretch of work."""
        edge = time.monotonic() - RATE_SECONDS
        while self._recent and self._recent[0][0] < edge:
            self._recent.popleft()
        spent = self._recent[-1][0] - self._recent[0][0]
        after_first = sum(count for _, count in self._recent) - self._recent[0][1]
        return after_first / spent if spent > 0 else 0.0

    def _report(self, **does: Any) -> None:
        with self._lock:
            self._does |= does
        if not write(self.sessions, presence.report, self.id, **self._does):
            self._register_anew()

    def _register_anew(self) -> None:
        """Our row was cleared away while this process stood still for a day: nobody would see us again."""
        with self._lock:  # the task and the heartbeat may notice at the same time
            if not write(self.sessions, presence.report, self.id, **self._does):
                self.id = write(self.sessions, presence.register_anew, self.id, self._node, self._me)
                write(self.sessions, presence.report, self.id, **self._does)
                log.warning("this worker was forgotten while it stood still; it goes on as a new one")

    def _beat(self) -> None:
        """Renew the worker's row and its lease, unless the work stands still: then somebody else gets the chunk.

        If it is the model that does not load, a fresh process tries again.
        """
        while True:
            time.sleep(self.settings.heartbeat_seconds)
            if self._loading and self._stalled():
                self.end_process(f"the model is not ready after {self.settings.stall_seconds:g} s")
            try:
                self._drop_old_refusal()
                self._report()
                if (claim := self._claim) is not None and not self._stalled():
                    self._renew(claim)
            except SQLAlchemyError as error:
                log.warning("heartbeat: the database cannot be reached: %s", first_line(error))

    def _drop_old_refusal(self) -> None:
        """Say no longer that a run is declined which was corrected, ended or deleted since."""
        run_id = self._does.get("run_id")
        if self._does["state"] != "declined" or run_id is None:
            return
        run = read(self.sessions, run_view, run_id, row_prompts=False)
        if run is not None and run.state == RunState.ACTIVE and self._refusal(run) is not None:
            return
        with self._lock:
            if (self._does["state"], self._does["run_id"]) == ("declined", run_id):  # no doorbell came meanwhile
                self._does |= {"state": "idle", "run_id": None, "message": None}

    def _stalled(self) -> bool:
        return time.monotonic() - self._progress > self.settings.stall_seconds

    def _renew(self, claim: Claim) -> None:
        if not write(self.sessions, claims.heartbeat, claim, self.settings.lease_seconds):
            self._lost = claim  # or it just ended: nobody asks for it any more then


def _settings_of(run: RunView) -> tuple[object, ...]:
    """Which run it is, and what it depends on whether a worker can serve it."""
    prompts = tuple(run.prompts[prompt_id] for prompt_id in run.every_image)
    return run.uid, run.frozen.model, run.revision, run.weights_sha256, run.dtype, prompts


def _told(model: str, error: Exception) -> str:
    """One line; what nobody foresaw is logged with its traceback."""
    if isinstance(error, Sam3Error | SelfTestFailed):
        return str(error)
    if isinstance(error, OutOfMemory | MemoryError) or "out of memory" in str(error):
        return f"{model} does not fit into memory; is another process on this GPU?"
    log.error("loading %s failed", model, exc_info=error)
    return f"{model} cannot be loaded: {type(error).__name__}: {first_line(error)}"


def make_segmenter(model: str, settings: Settings) -> Segmenter:
    """The implementation that the settings name, with `model` loaded. Raises `Sam3Error` if it cannot be."""
    if settings.segmenter:
        return cast(Segmenter, segmenters.named(settings.segmenter)(model, settings))
    folder = model_folder(model)
    make = segmenters.family_of(folder)  # torch is imported here, in a worker's own process
    return make(folder, model_name=model, revision=revision_of(folder), device=settings.device, dtype=settings.dtype)
