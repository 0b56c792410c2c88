"""The model of this process: loads it for the run in hand, tests it, and compares it with that of other workers.

Knows no chunk.
"""

import importlib.metadata
import logging
import time
from collections.abc import Collection
from contextlib import suppress
from typing import NamedTuple, cast

from db import claims
from db.presence import live_workers
from db.session import read, write
from db.views.run_views import RunView, active_runs
from workers.errors import Sam3Error, first_line
from workers.fleet.weights import check_models, folder_state, model_folders, revision_of
from workers.inference import segmenters, selftest
from workers.inference.no_memory import is_short
from workers.inference.protocol import ModelFacts, OutOfMemory, Segmenter
from workers.inference.selftest import SelfTestFailed
from workers.inference.stream.caps import Caps
from workers.inference.stream.on_threads import OnItsThreads
from workers.inference.stream.pipeline import refused_prompts
from workers.inference.stream.stage_threads import StageThreads
from workers.node.breaker import Breaker
from workers.node.compiling import disagreement, is_wanted
from workers.node.refusals import Declined, Refusal, Unusable, what_decides
from workers.node.worker import Worker
from workers.settings import Settings

log = logging.getLogger(__name__)

THOROUGH_PASSES = 8  # of the self-test after a fault, as a broken GPU may pass it once


class Wanted(NamedTuple):
    """What a run needs of a model."""

    model: str  # its name
    everything: bool  # without prompts, which is another part of a model


class Model:
    """Holds at most one model at a time. Only the task's thread uses it."""

    def __init__(self, worker: Worker, breaker: Breaker) -> None:
        self.caps = Caps()  # what fits into memory with the model that is loaded
        self.stage_threads = StageThreads()  # that model's
        self.compiled = False  # whether the run in hand is computed with compiled kernels
        self.gpu_works = False  # this process has seen that its GPU works; it ends at the first sign of the contrary
        self._worker = worker
        self._breaker = breaker
        self._segmenter: tuple[Wanted, Segmenter] | None = None
        self._declined: dict[int, Refusal] = {}  # by run id
        self._unusable: dict[Wanted, Unusable] = {}
        self._compiles: bool | None = None  # whether the loaded model can be compiled here; None: not tried

    def segmenter_for(self, run: RunView) -> Segmenter:
        """The segmenter of the run's model, which is loaded if needed. Raises `Declined` if this worker cannot serve
        the run."""
        refusal, tried = self._declined.get(run.id), False
        wanted = Wanted(run.frozen.model, run.frozen.looks_for_everything)
        if refusal is None or not refusal.holds(run):
            tried = self._why_unusable(wanted) is None
            try:
                segmenter = self._load(wanted)
                self._agree(run, segmenter)
                return segmenter
            except Declined as declined:
                unusable = self._unusable[wanted] if declined.fault else None
                refusal = self._declined[run.id] = Refusal(what_decides(run), str(declined), unusable)
                log.error("run %s is not served by this worker: %s", run.name, refusal.reason)
        self._worker.activity.decline(refusal)
        self._worker.report()
        raise Declined(refusal.reason, fault=refusal.unusable is not None, tried=tried)

    @property
    def declined_runs(self) -> Collection[int]:
        """The ids of runs that this worker has declined."""
        return self._declined.keys()

    def may_serve_another(self) -> bool:
        """Whether there is a run that goes on and that this worker has not declined."""
        return any(run_id not in self._declined for run_id in read(self._worker.sessions, active_runs))

    def worked(self) -> None:
        """Note that images were segmented and committed, so that the model and its surroundings work."""
        self.gpu_works = True
        self._breaker.success()

    def _why_unusable(self, wanted: Wanted) -> str | None:
        """Why the model could not be loaded here; None if it should be tried, or tried again."""
        found = self._unusable.get(wanted)
        return found.reason if found is not None and found.holds() else None

    def _load(self, wanted: Wanted) -> Segmenter:
        if (reason := self._why_unusable(wanted)) is not None:
            raise Declined(reason, fault=True)
        if self._segmenter is None or self._segmenter[0] != wanted:
            model = wanted.model
            before = folder_state(model)
            settings = self._worker.settings
            try:
                check_models([model], settings)  # before `loading`, since a download may take long
                self._drop()  # before the next model is loaded, as memory may hold only one
                with self._worker.activity.loading(), self._breaker.loading():
                    segmenter = make_segmenter(model, settings, everything=wanted.everything)
                    self._test(segmenter)
            except Exception as error:
                reason = _told(model, error)
                self._unusable[wanted] = Unusable(model, reason, before, time.monotonic())
                raise Declined(reason, fault=True) from None
            self._segmenter = (wanted, segmenter)
        return self._segmenter[1]

    def _drop(self) -> None:
        """Let go of the model and of its threads, with what CUDA's libraries keep for them."""
        self._segmenter, self._compiles, self.compiled, self.caps = None, None, False, Caps()
        self.stage_threads.end()
        self.stage_threads = StageThreads()

    def _test(self, segmenter: Segmenter) -> None:
        """Test the model, so that a broken GPU is found before it computes images; more thoroughly after a fault."""
        thorough = self._breaker.suspicious
        self.check(segmenter, THOROUGH_PASSES if thorough else 1)
        self.gpu_works |= thorough

    def check(self, segmenter: Segmenter, passes: int = 1) -> None:
        """Run the self-test `passes` times on the threads that serve the images, and as they are computed now. Raises
        what the self-test raises."""
        selftest.check(OnItsThreads(segmenter, self.stage_threads), passes, compiled=self.compiled)

    def _can_compile(self, segmenter: Segmenter) -> bool:
        """Whether the loaded model can be compiled here and then gives the same answers. This compiles it."""
        if self._compiles is None:
            self._compiles = segmenter.facts.compiles
            if self._compiles:
                self._try_compiled(segmenter)
        return self._compiles and segmenter.facts.compiles

    def _try_compiled(self, segmenter: Segmenter) -> None:
        tested = OnItsThreads(segmenter, self.stage_threads)
        most = self._worker.settings.batch_size
        try:
            while not self._fits_compiled(tested, most) and most > 1:
                self.caps.forward.fell(most)
                most = self.caps.forward.most or 1
        except SelfTestFailed as error:
            self._compiles = False
            log.warning("%s, so it runs uncompiled", error)

    def _fits_compiled(self, tested: Segmenter, images: int) -> bool:
        with self._worker.activity.loading(), self._breaker.loading():  # anew for each size, as each takes minutes
            return selftest.fits_compiled(tested, images)

    def _agree(self, run: RunView, segmenter: Segmenter) -> None:
        """Freeze the model's facts into the run, or compare them with those of the first worker. Raises `Declined`."""
        facts = segmenter.facts
        if run.source.box_column is not None and not facts.takes_boxes:
            raise Declined(f"its rows have boxes, which {facts.model} does not take; a SAM3 does")
        workers = read(self._worker.sessions, live_workers)
        mine = claims.ModelUsed(
            facts.revision,
            facts.weights_sha256,
            facts.dtype,
            is_wanted(run, self._worker.settings, workers) and self._can_compile(segmenter),
        )
        frozen = write(self._worker.sessions, claims.agree_on_model, run.id, mine, run.uid, _versions(facts))
        if frozen is not None and (frozen.weights_sha256, frozen.dtype) != (mine.weights_sha256, mine.dtype):
            raise Declined(
                f"it began with weights {frozen.weights_sha256[:12]} in {frozen.dtype}, "
                f"here are {mine.weights_sha256[:12]} in {mine.dtype}"
            )
        runs = frozen.compiled if frozen is not None else mine.compiled
        if why := disagreement(self._worker.settings, mine.compiled, runs):
            raise Declined(why)
        self.compiled = runs
        every_image = [run.prompts[prompt_id] for prompt_id in run.every_image]
        for prompt, reason in refused_prompts(segmenter, every_image).items():
            raise Declined(
                f"prompt {prompt!r}: {reason}; the same command with another prompt corrects it "
                "(once it has results: --drop-prompt)"
            )


def _versions(facts: ModelFacts) -> dict[str, str]:
    """What else a result may depend on in its last bits: versions of packages by name, and the kernel of attention."""
    versions = {} if facts.attention is None else {"attention": facts.attention}
    for package in ("sam3-queue", "torch", "transformers"):
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def _told(model: str, error: Exception) -> str:
    """Say in one line why a model could not be loaded. An unexpected error is logged with its traceback."""
    if isinstance(error, Sam3Error | SelfTestFailed):
        return str(error)
    if isinstance(error, OutOfMemory | MemoryError) or is_short(error):
        return f"{model} does not fit into memory; is another process on this GPU?"
    log.error("loading %s failed", model, exc_info=error)
    return f"{model} cannot be loaded: {type(error).__name__}: {first_line(error)}"


def make_segmenter(model: str, settings: Settings, *, everything: bool = False) -> Segmenter:
    """Load a model with the segmenter that the settings name, or else with the one of the model's family, or the one
    that finds `everything` without prompts.

    Raises `Sam3Error` if the model cannot be loaded.
    """
    if settings.segmenter:
        return cast(Segmenter, segmenters.named(settings.segmenter)(model, settings))
    folders = model_folders(model)
    make = segmenters.family_of(*folders, everything=everything)  # this imports torch
    revision = revision_of(*folders)
    return make(*folders, model_name=model, revision=revision, device=settings.device, dtype=settings.dtype)
