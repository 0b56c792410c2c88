"""Finds out whether images are missing because their folder or its mount is gone. Reads no image."""

import threading
from collections.abc import Sequence

from db.claimed import ClaimedImage
from db.outcomes import ImageDone, ImageFailed, Outcome
from db.session import Sessions, read
from db.views.run_views import RunView, root_of, some_done_path
from workers.errors import ErrorClass
from workers.node.faults import Infrastructure
from workers.places import location

LOST = (ErrorClass.MISSING, ErrorClass.PERMISSION)
GONE = (*LOST, ErrorClass.TIMEOUT)


def check_mount(
    sessions: Sessions, run: RunView, images: Sequence[ClaimedImage], batch: Sequence[Outcome], seconds: float
) -> None:
    """Raise `Infrastructure` if images are missing because their folder was moved or its mount is lost.

    A mount counts as lost in these cases:

    - All images of the batch are missing, and so are an image that this run has read before and all other files in that
      image's folder. If only a part of the batch is missing, the image read before is one of the same batch.
    - The mount does not answer within `seconds`.
    - An image that was missing is there now, so the mount was away and has come back.

    If the user deletes images that were never read, or single images that are done, the images simply fail as missing.
    """
    failed = [outcome for outcome in batch if isinstance(outcome, ImageFailed) and outcome.error_class in GONE]
    missing = {outcome.image_id for outcome in failed if outcome.error_class in LOST}
    if missing and (root := read(sessions, root_of, run.id)) not in (run.source.root, None):
        raise Infrastructure(f"the images were moved to {root} after the chunk was begun")
    if not missing and len(failed) < len(batch):
        return
    read_before = _read_for(batch, images) or (
        read(sessions, some_done_path, run.id) if len(failed) == len(batch) else None
    )
    if read_before is None:
        return
    own = [location.place(run.source.root, image.path) for image in images if image.id in missing]
    path = location.place(run.source.root, read_before)
    answers: list[str | None] = []
    # In a thread, because waiting for a mount that hangs can be ended in no other way.
    asking = threading.Thread(target=lambda: answers.append(_lost(path, own)), name="mount", daemon=True)
    asking.start()
    asking.join(seconds)
    if not answers:
        raise Infrastructure(f"{path} was read before and no longer answers: does a mount hang?")
    if (reason := answers[0]) is not None:
        raise Infrastructure(reason)


def _read_for(batch: Sequence[Outcome], images: Sequence[ClaimedImage]) -> str | None:
    """The path of an image of this batch that was read; None if there is none."""
    done = {outcome.image_id for outcome in batch if isinstance(outcome, ImageDone)}
    return next((image.path for image in images if image.id in done), None)


def _lost(read_before: str, missing: Sequence[str]) -> str | None:
    """Why the mount is lost, or was, in words; None if these files are simply missing."""
    gone = location.why_not_opened(read_before)
    if gone is not None and not location.has_neighbours(read_before):
        cause = "were its rights taken away?" if location.is_url(read_before) else "is a mount lost?"
        return f"{read_before} was read before and is gone ({gone.strerror}): {cause}"
    if missing and location.why_not_opened(missing[0]) is None:
        return f"{missing[0]} was missing and is there again: was a mount lost?"
    return None
