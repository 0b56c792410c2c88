"""Guesses in words why a budget of --stop-after was exceeded, with what shows or mends it. Pauses nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from db.budgets import stopped_by
from db.views import run_views, status
from db.views.status import ErrorLine, Progress
from workers.errors import ErrorClass

# What most images of an error class have in common; those that are not named here have only their message.
CAUSES: dict[str, str] = {
    ErrorClass.MISSING: "the workers do not see the files: is the folder mounted there, under the same path?",
    ErrorClass.PERMISSION: "the workers may not read the files: under which user do they run?",
    ErrorClass.TRUNCATED: "the files are not whole: is something still writing or copying them?",
    ErrorClass.NOT_AN_IMAGE: "the files are no images: is it the right column or folder?",
    ErrorClass.UNSUPPORTED: "the files have a format that is not opened: convert them first",
    ErrorClass.TIMEOUT: "the storage answers too slowly",
    ErrorClass.NO_ANSWER: "the server of the images does not answer for them",
    ErrorClass.OUT_OF_MEMORY: "the GPU is too small for the images: give fewer prompts, or a larger GPU",
    ErrorClass.BAD_BOX: "the boxes do not fit their images: are they x1, y1, x2, y2 in pixels of the upright image?",
    ErrorClass.PROMPT: "the prompts do not suit the model: are they short noun phrases?",
}
MOST_OF_THEM = 0.5  # of the empty images that were looked at


@dataclass(frozen=True)
class Cause:
    """Why a budget was exceeded, most likely."""

    told: str
    threshold: float | None = None  # at which an export shows what was not found


def likeliest_cause(session: Session, run_id: int, progress: Progress, errors: Sequence[ErrorLine]) -> Cause | None:
    """Why the run was paused by a budget; None if no budget paused it."""
    outcome = stopped_by(progress.paused) if progress.paused else None
    if outcome == "failed":
        return _why_failed(errors)
    return _why_empty(session, run_id) if outcome == "empty" else None


def _why_failed(errors: Sequence[ErrorLine]) -> Cause | None:
    failed = [error for error in errors if error.error_class not in (ErrorClass.BAD_ROW, ErrorClass.BAD_PATH)]
    if not failed:  # they were retried since
        return None
    worst = failed[0]
    advice = CAUSES.get(worst.error_class, "the CSV export has the message of each")
    return Cause(f"{worst.error_class}, {worst.count:,} times, such as {worst.example}: {advice}")


def _why_empty(session: Session, run_id: int) -> Cause | None:
    below, looked_at = status.found_below(session, run_id)
    run = run_views.run_view(session, run_id, row_prompts=False)
    if not looked_at or run is None:
        return None
    floor, threshold = run.frozen.score_floor, run.frozen.threshold
    if below >= MOST_OF_THEM * looked_at:
        told = f"the threshold {threshold:g} is too high: {below} of {looked_at} empty images have lower scores"
        return Cause(told, floor)
    if run.frozen.looks_for_everything:
        return Cause(
            f"in {looked_at - below} of {looked_at} empty images no stable mask has even the score {floor:g}; "
            "try a lower --threshold with --limit 100 and another --run"
        )
    prompts = ", ".join(run.prompts[id] for id in run.every_image) or "of the rows"
    return Cause(
        f"the images do not show the prompt ({prompts}): in {looked_at - below} of {looked_at} empty images nothing "
        f"has even the score {floor:g}; try other words with --limit 100 and another --run"
    )
