"""Shows how far a run is: as JSON, as a table, as one line, and in words what it waits for. Reads SQL only."""

import shlex
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from sqlalchemy.orm import Session

from db.session import Sessions, read
from db.states import OVER, RunState, WorkerState
from db.views import run_views, status
from db.views.cost import cost_of
from db.views.run_views import RunGone
from db.views.status import ErrorLine, ImageCounts, Progress, WarningLine, WorkerLine
from producer.results.causes import Cause, likeliest_cause
from producer.results.cost import Bill
from workers.cli.base import counted, spelled_run
from workers.errors import CURABLE

BY_FLEET = "start sam3-worker"  # how work begins on a run that is no sam3-run folder's


def _by_itself(doing: str, left: str, command: str) -> str:
    return f"{doing}: {left}; goes on by itself while workers run, or at once with the same {command} again"


# What to say about a run that a command works on. The command may have been killed.
IN_HAND: dict[str, Callable[[ImageCounts], str]] = {
    RunState.LOADING: lambda images: "still loading; if no sam3-enqueue runs, run the same one again",
    RunState.CANCELLING: lambda images: _by_itself(
        "cancelling", f"{counted(images.pending, 'image')} still to cancel", "sam3-cancel"
    ),
    RunState.DELETING: lambda images: _by_itself(
        "deleting", f"{counted(images.total, 'row')} still to delete", "sam3-delete"
    ),
}


class Standing:
    """All that status shows of one run, read in one transaction. Raises `RunGone`."""

    def __init__(
        self,
        sessions: Sessions,
        run_id: int,
        begin: str = BY_FLEET,
        *,
        starting: bool = False,
        price: float | None = None,
    ) -> None:
        """`begin` says how the user starts workers for the run, or, if `starting`, that workers are starting.

        `price` is that of an hour of one GPU.
        """
        self._begin, self._starting, self._price = begin, starting, price
        read(sessions, self._look, run_id)

    def _look(self, session: Session, run_id: int) -> None:
        self.progress: Progress = status.progress(session, run_id)
        images = self.progress.images
        bad = images.failed + images.rejected
        self.errors: list[ErrorLine] = status.errors(session, run_id) if bad else []
        self.warnings: list[WarningLine] = status.warnings(session, run_id) if self.progress.warned else []
        self.workers: list[WorkerLine] = status.workers(session)
        self.bill = Bill(cost_of(session, run_id, self.progress), self._price)
        self.cause: Cause | None = likeliest_cause(session, run_id, self.progress, self.errors)

    @property
    def over(self) -> bool:
        return self.progress.over

    @property
    def shown_state(self) -> str:
        """The state in one word. A run that is paused is active or loading; that it is paused says more."""
        return "paused" if self.progress.paused else self.progress.state

    @property
    def shortfall(self) -> int:
        """How many rows of a run that is over lack a result: failed, cancelled, rejected and incomplete ones."""
        images = self.progress.images
        return images.failed + images.cancelled + images.rejected + self.progress.incomplete

    @property
    def worth_a_retry(self) -> bool:
        """Whether a retry may help: some image was cancelled or is incomplete, or failed for a reason that may pass."""
        left = self.progress.images.cancelled + self.progress.incomplete
        return left > 0 or any(error.error_class in CURABLE for error in self.errors)

    def as_json(self) -> dict[str, Any]:
        progress = self.progress
        return {
            "run": progress.run,
            "state": progress.state,
            "images": asdict(progress.images),
            "chunks": {"total": sum(progress.chunks.values())} | progress.chunks,
            "instances": progress.instances,
            "images_per_second": progress.images_per_second,
            "eta_seconds": progress.eta_seconds,
            "errors": [asdict(error) for error in self.errors],
            "workers": [asdict(worker) for worker in self.workers],
            "waiting_for": self.waiting_for(),
            "warnings": [asdict(warning) for warning in self.warnings],
            "capped": progress.capped,
            "incomplete": progress.incomplete,
            "unsettled": progress.unsettled,
            "paused": progress.paused,
            "priority": progress.priority,
            "share": progress.share,
            "stop_after": list(progress.stop_after),
            "likeliest_cause": self.cause.told if self.cause else None,
            "cost": self.bill.as_json(),
        }

    def one_line(self, *, waiting: bool = True) -> str:
        """One line for logs and pipes: `faces: 128/300 images (43 %), 12.3 images/s, failed 1, 0:20 left`."""
        images = self.progress.images
        counted_in = images.total - images.duplicate - images.rejected
        ended = counted_in - images.pending
        share = f" ({100 * ended // counted_in} %)" if counted_in else ""
        parts = [f"{self.progress.run}: {ended:,}/{counted_in:,} images{share}"]
        if self.progress.images_per_second:
            parts.append(f"{self.progress.images_per_second:.1f} images/s")
        if images.failed:
            parts.append(f"failed {images.failed:,}")
        if self.progress.capped:
            parts.append(f"capped {self.progress.capped:,}")
        if self.progress.eta_seconds and not self.over:
            parts.append(f"{duration(self.progress.eta_seconds)} left")
        parts += self.told_turn() if not self.over else []
        if waiting and (reason := self.waiting_for()):
            parts.append(reason)
        return ", ".join(parts)

    def told_turn(self) -> list[str]:
        """Priority and share in words, if they are not the usual ones."""
        priority, share = self.progress.priority, self.progress.share
        parts = [f"priority {priority}"] if priority else []
        return parts + ([f"share {share:g}"] if share < 1 else [])

    def told_facts(self) -> str:
        """Text to show after a progress bar: `12.3 images/s, 3 empty, 1 failed`, without parts that are zero."""
        images, rate = self.progress.images, self.progress.images_per_second
        parts = [f"{rate:.1f} images/s"] if rate else []
        parts += [f"{count:,} {name}" for name, count in (("empty", images.empty), ("failed", images.failed)) if count]
        return ", ".join(parts)

    def lines(self) -> list[str]:
        return [self.one_line()]

    def pauses(self) -> list[str]:
        """A line if the run is paused."""
        return [f"run {self.progress.run}: {self._paused()}"] if self.progress.paused else []

    def told_capped(self) -> str:
        """Text to show after the number of instances if that may be too low; else empty."""
        capped = self.progress.capped
        return f"; there may be more in {counted(capped, 'image')} (capped)" if capped else ""

    def told_prompts(self) -> str:
        """What is left of a change of the run's prompts, in words; else empty."""
        incomplete, parts = self.progress.incomplete, []
        if self.progress.unsettled:
            parts.append(self._unsettled())
        if incomplete:
            parts.append(f"{counted(incomplete, 'image')} without results of prompts that were added later")
        return "; ".join(parts)

    def waiting_for(self) -> str | None:
        """Why no chunk is being worked on, in words; None while one is, or when the run is over."""
        progress = self.progress
        if (told := self._held()) is not None:
            return told
        here = [worker for worker in self.workers if worker.run == progress.run]
        held = progress.chunks["running"] > 0 and not progress.silent  # also by a worker that has not told yet
        if self.over or held or any(worker.state == "running" for worker in here):
            return None
        if declined := [worker for worker in here if worker.state == WorkerState.DECLINED]:
            return f"{declined[0].node} does not serve it: {declined[0].message}"
        if loading := [worker.node for worker in here if worker.state == "loading"]:
            return f"{', '.join(loading)} {'loads' if len(loading) == 1 else 'load'} the model"
        if progress.silent:
            return "a worker that no longer answers holds a chunk; it is taken back when its lease ends"
        if progress.next_retry_seconds:
            why = f": {progress.resting_error}" if progress.resting_error else ""
            return f"a chunk rests for {duration(progress.next_retry_seconds)} after failed attempts{why}"
        if busy := sorted({worker.run for worker in self.workers if worker.run}):
            return f"workers are busy with {', '.join(busy)}"
        why = f" (last fault: {progress.last_fault})" if progress.last_fault else ""
        return f"waiting for a worker{why}" if self.workers else f"{self._nobody}{why}"

    def _held(self) -> str | None:
        """What a command is doing with the run, or did when it was paused; None if workers may go on."""
        told = IN_HAND.get(self.progress.state)
        if told is not None:
            return told(self.progress.images)
        if self.progress.paused:
            return self._paused()
        return self._unsettled() if self.progress.state in OVER and not self.over else None

    def _unsettled(self) -> str:
        """What is left of a change of the run's prompts, and who goes on with it."""
        if self.progress.state == RunState.CANCELLED:
            return "not all images have followed a change of prompts: the same command again goes on"
        command = "sam3-enqueue" if self._begin == BY_FLEET else "sam3-run"
        return _by_itself("changing prompts", "not all images have followed", command)

    def _paused(self) -> str:
        """Why the run is paused, and the command that lets it go on."""
        return f"paused {self.progress.paused}; {self.resume} lets it go on"

    @property
    def resume(self) -> str:
        if self._begin != BY_FLEET:
            return "the same sam3-run command"
        return f"sam3-resume {shlex.quote(spelled_run(self.progress.run))}"

    @property
    def _nobody(self) -> str:
        return self._begin if self._starting else f"no worker is running: {self._begin}"

    def table(self, *, errors: bool = False) -> RenderableType:
        """What `sam3-status RUN` shows on a terminal."""
        progress, images = self.progress, self.progress.images
        counted_in = images.total - images.duplicate - images.rejected
        grid = Table.grid(padding=(0, 2))
        grid.add_row("run", f"{progress.run}  ({', '.join((self.shown_state, *self.told_turn()))})")
        ended = counted_in - images.pending
        bar = ProgressBar(total=max(counted_in, 1), completed=ended, width=40)
        grid.add_row("progress", Columns([bar, f"{100 * ended // counted_in} %" if counted_in else ""]))
        grid.add_row("images", _listed(asdict(images)))
        grid.add_row("chunks", _listed({"total": sum(progress.chunks.values())} | progress.chunks))
        grid.add_row("instances", f"{progress.instances:,}{self.told_capped()}")
        self._add_facts(grid)
        parts: list[RenderableType] = [grid]
        if self.workers and not self.over:
            parts.append(self._workers())
        if self.errors:
            parts.append(self._errors(None if errors else 5))
        if self.warnings:
            parts.append(self._warnings())
        return Group(*parts)

    def _add_facts(self, grid: Table) -> None:
        """Add the rows of what is not said of every run."""
        progress = self.progress
        if progress.images_per_second:
            left = f", {duration(progress.eta_seconds)} left" if progress.eta_seconds else ""
            grid.add_row("speed", f"{progress.images_per_second:.1f} images/s{left}")
        if told := self.told_prompts():
            grid.add_row("prompts", told)
        if bill := self.bill.told():
            grid.add_row("cost", bill)
        if reason := self.waiting_for():
            grid.add_row("waiting", Text(reason))  # as Text, since Rich would take brackets in it for markup
        if self.cause:
            grid.add_row("likely", Text(self.cause.told))

    def _workers(self) -> Table:
        table = Table("node", "state", "run", "chunk", "images/s", "heartbeat", box=None, padding=(0, 2))
        for worker in self.workers:
            rate = f"{worker.images_per_second:.1f}" if worker.images_per_second else ""
            chunk = "" if worker.chunk is None else str(worker.chunk)
            table.add_row(worker.node, worker.state, worker.run or "", chunk, rate, f"{worker.heartbeat:.0f} s ago")
        return table

    def _errors(self, most: int | None) -> Table:
        table = Table("error", "images", "for example", box=None, padding=(0, 2))
        for error in self.errors[:most]:
            table.add_row(error.error_class, f"{error.count:,}", Text(error.example, overflow="fold"))
        if others := self.errors[len(self.errors) if most is None else most :]:
            table.add_row("(others)", f"{sum(error.count for error in others):,}", "--errors lists them")
        return table

    def _warnings(self) -> Table:
        table = Table("warning", "images", "for example", box=None, padding=(0, 2))
        for line in self.warnings:
            table.add_row(Text(line.warning), f"{line.count:,}", Text(line.example, overflow="fold"))
        return table


def told_warnings(warnings: list[WarningLine]) -> str:
    """For people, such as `3 images: samples of more than 8 bits ..., such as a.tif`."""
    return "; ".join(f"{counted(line.count, 'image')}: {line.warning}, such as {line.example}" for line in warnings)


class AllRuns:
    """The standings of all runs, the newest last, which can be watched and waited for together."""

    def __init__(self, sessions: Sessions, price: float | None = None) -> None:
        self.standings: list[Standing] = []
        for run_id in read(sessions, run_views.run_ids):
            with suppress(RunGone):  # the run was deleted since its id was read
                self.standings.append(Standing(sessions, run_id, price=price))

    @property
    def over(self) -> bool:
        return all(standing.over for standing in self.standings)

    def as_json(self) -> dict[str, Any]:
        return {"runs": [standing.as_json() for standing in self.standings]}

    def pauses(self) -> list[str]:
        """A line for each paused run."""
        return [line for standing in self.standings for line in standing.pauses()]

    def lines(self) -> list[str]:
        """A line for each run that is not over."""
        return [standing.one_line() for standing in self.standings if not standing.over]

    def table(self, *, errors: bool = False) -> RenderableType:
        grid = Table.grid(padding=(0, 2))
        for standing in self.standings:
            grid.add_row(standing.shown_state, Text(standing.one_line()))
        return grid


def _listed(counts: dict[str, int]) -> str:
    """For people, such as `300 total, 172 pending`, without counts that are zero."""
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count or name == "total")


def duration(seconds: float) -> str:
    """Write seconds as hours, minutes and seconds: `0:20`, `12:05`, `3:10:00`."""
    minutes, left = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


def told_errors(errors: list[ErrorLine]) -> str:
    """For people, such as `2 truncated, 1 missing`."""
    return ", ".join(f"{error.count:,} {error.error_class}" for error in errors)
