"""Guesses in words why a budget of --stop-after was exceeded, with what shows or mends it. Pauses nothing."""

import shlex
from collections.abc import Sequence

from sqlalchemy.orm import Session

from db.budgets import stopped_by
from db.views import status
from db.views.status import ErrorLine, Progress
from workers.cli.base import spelled_run
from workers.errors import ErrorClass

# What most images of an error class have in common; those that are not named here have only their message.
CAUSES = {
    ErrorClass.MISSING: "the workers do not see the files: is the folder mounted there, under the same path?",
    ErrorClass.PERMISSION: "the workers may not read the files: under which user do they run?",
    ErrorClass.TRUNCATED: "the files are not whole: is something still writing or copying them?",
    ErrorClass.NOT_AN_IMAGE: "the files are no images: is it the right column or folder?",
    ErrorClass.UNSUPPORTED: "the files have a format that is not opened: convert them first",
    ErrorClass.TIMEOUT: "the storage answers too slowly",
    ErrorClass.OUT_OF_MEMORY: "the GPU is too small for the images: give fewer prompts, or a larger GPU",
    ErrorClass.PROMPT: "the prompts do not suit the model: are they short noun phrases?",
}
MOST_OF_THEM = 0.5  # of the empty images that were looked at


def likeliest_cause(session: Session, run_id: int, progress: Progress, errors: Sequence[ErrorLine]) -> str | None:
    """Why the run was paused by a budget, in words; None if no budget paused it."""
    outcome = stopped_by(progress.paused) if progress.paused else None
    if outcome == "failed":
        return _why_failed(errors)
    return _why_empty(session, run_id, progress) if outcome == "empty" else None


def _why_failed(errors: Sequence[ErrorLine]) -> str | None:
    failed = [error for error in errors if error.error_class not in (ErrorClass.BAD_ROW, ErrorClass.BAD_PATH)]
    if not failed:  # they were retried since
        return None
    worst = failed[0]
    advice = CAUSES.get(ErrorClass(worst.error_class), "the message of each is in sam3-export --format csv --partial")
    return f"{worst.error_class}, {worst.count:,} times, such as {worst.example}: {advice}"


def _why_empty(session: Session, run_id: int, progress: Progress) -> str | None:
    below, looked_at = status.found_below(session, run_id)
    run = status.run_view(session, run_id, row_prompts=False)
    if not looked_at or run is None:
        return None
    if below >= MOST_OF_THEM * looked_at:
        export = f"sam3-export {shlex.quote(spelled_run(progress.run))} --partial --format csv"
        low = f"{export} --threshold {run.frozen.score_floor:g} -o {shlex.quote(f'{progress.run}-low.csv')}"
        return (
            f"the threshold {run.frozen.threshold:g} is too high: {below} of {looked_at} empty images have lower "
            f"scores; {low} shows them"
        )
    prompts = ", ".join(run.prompts[id] for id in run.every_image) or "of the rows"
    return (
        f"the images do not show the prompt ({prompts}): in {looked_at - below} of {looked_at} empty images nothing "
        f"has even the score {run.frozen.score_floor:g}; try other words with --limit 100 and another --run"
    )
