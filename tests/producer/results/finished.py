"""Makes small finished runs in SQLite for export tests, through the functions that enqueue and workers use."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from db import claims, doorbells, duplicates, intake, outcomes
from db.claimed import ClaimedImage
from db.migrate import ensure_schema
from db.presence import Process, register
from db.session import Sessions, connect, reading
from db.values import FoundInstance, Frozen, PromptResult, Source
from db.views import run_views
from db.views.results import ExportedImage
from producer.results.common import ExportRequest, read_images

Mask = NDArray[np.uint8]
Found = Sequence[tuple[float, Mask]]  # score and mask, highest score first


@dataclass(frozen=True)
class Done:
    """What a worker commits for one image: instances by prompt text."""

    found: Mapping[str, Found]
    size: tuple[int, int]  # width, height
    capped: Collection[str] = ()  # prompts of which there may be more


@dataclass(frozen=True)
class Failed:
    error_class: str
    error: str


Ends = Mapping[str, Done | Failed]  # by path; images without one stay pending


@dataclass(frozen=True)
class Input:
    """One enqueue."""

    root: Path
    rows: Sequence[intake.NewRow]
    prompts: Sequence[str] = ("person",)
    columns: tuple[str, ...] = ("path",)
    orientation: str = "exif"
    classes: str | None = None
    box_column: str | None = None


@dataclass(frozen=True)
class Finished:
    """A run to export."""

    sessions: Sessions
    view: run_views.RunView

    def images(self, request: ExportRequest) -> list[ExportedImage]:
        return list(read_images(self.sessions, request))


def ellipse(size: tuple[int, int], centre: tuple[float, float], radii: tuple[float, float]) -> Mask:
    """A filled ellipse, height x width of 0 and 1, in a picture of `size` (width, height)."""
    y, x = np.mgrid[: size[1], : size[0]]
    inside = ((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 <= 1
    return np.asarray(inside, dtype=np.uint8)


def finish(folder: Path, given: Input, ends: Ends, sessions: Sessions | None = None) -> Finished:
    """Enqueue `given`, work through it and return the run; without `sessions` in an SQLite file in `folder`."""
    if sessions is None:
        sessions = connect(f"sqlite:///{folder / 'state.db'}")
        ensure_schema(sessions)
    run_id = _enqueue(sessions, given)
    work(sessions, run_id, ends)
    with reading(sessions) as session:
        view = run_views.run_view(session, run_id)
    assert view is not None
    return Finished(sessions, view)


def _enqueue(sessions: Sessions, given: Input) -> int:
    place, root = str(given.root / "list.csv"), str(given.root)
    source = Source(place, given.columns[0], given.columns, root, False, False, box_column=given.box_column)
    frozen = Frozen("tiny", 0.5, 0.5, 0.3, "library", given.orientation, classes=given.classes)
    with sessions.begin() as session:
        run_id = intake.create_run(session, "list", source, frozen, given.prompts, chunk_size=100)
        intake.add_rows(session, run_id, 0, given.rows)
        if repeated := list(duplicates.repeated_rows(session, run_id)):
            duplicates.mark_duplicates(session, run_id, repeated)
        intake.finish_load(session, run_id, None)
    return run_id


def work(sessions: Sessions, run_id: int, ends: Ends) -> None:
    """A worker claims what is pending, and commits the images that have an end."""
    with sessions.begin() as session:
        worker = register(session, "gpu0@here", Process("here", "boot", 1, 1))
        view = run_views.run_view(session, run_id)
        assert view is not None
        texts = view.prompts
        for rung in doorbells.ring_pending(session, run_id, 100):
            claim = claims.claim(session, run_id, rung.chunk_id, worker)
            assert claim is not None
            claims.commit(
                session, claim, [_outcome(image, ends, texts) for image in claim.images if image.path in ends]
            )


def _outcome(image: ClaimedImage, ends: Ends, texts: Mapping[int, str]) -> outcomes.Outcome:
    end = ends[image.path]
    if isinstance(end, Failed):
        return outcomes.ImageFailed(image.id, end.error_class, end.error)
    results = tuple(
        PromptResult(id, 0.25, texts[id] in end.capped, tuple(_instance(*one) for one in end.found.get(texts[id], ())))
        for id in image.prompt_ids
    )
    return outcomes.ImageDone(image.id, *end.size, results)


def _instance(score: float, mask: Mask) -> FoundInstance:
    rle = coco_mask.encode(np.asfortranarray(mask))
    x, y, width, height = (float(value) for value in coco_mask.toBbox(rle))
    return FoundInstance(score, (x, y, x + width, y + height), int(mask.sum()), rle["counts"])
