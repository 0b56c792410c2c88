"""Finds out whether images were not read because their server fails, or because of themselves. Decodes no image."""

import threading
from collections.abc import Sequence

from db.claimed import ClaimedImage
from db.outcomes import ImageFailed, Outcome
from db.session import Sessions, read
from db.views.run_views import RunView, some_done_path
from workers.errors import ErrorClass
from workers.node.faults import Infrastructure
from workers.places import location, urls
from workers.places.location import Unanswered


def check_servers(
    sessions: Sessions, run: RunView, images: Sequence[ClaimedImage], batch: Sequence[Outcome], seconds: float
) -> None:
    """Raise `Infrastructure` if a server did not answer for an image of the batch, unless the image is the reason.

    It is the reason if the server still does not answer for this image within `seconds`, but does for another image of
    the run: then it fails alone, so that a run does not wait for one broken object for ever.
    """
    silent = {
        outcome.image_id
        for outcome in batch
        if isinstance(outcome, ImageFailed) and outcome.error_class == ErrorClass.NO_ANSWER
    }
    places = {image.id: location.place(run.source.root, image.path) for image in images} if silent else {}
    first = next((places[id] for id in places if id in silent and location.is_url(places[id])), None)
    if first is None:
        return
    server = urls.split(first)[0]
    answered = [places[outcome.image_id] for outcome in batch if outcome.image_id not in silent]
    if before := read(sessions, some_done_path, run.id):
        answered.append(location.place(run.source.root, before))
    witness = next((place for place in answered if urls.split(place)[0] == server), None)
    answers = _looked_at([first, *filter(None, [witness])], seconds)
    if first in answers and not isinstance(answers[first], Unanswered):
        raise Infrastructure(f"{first} was not to be had and is now: did {server} fail for a while?")
    if witness is None or isinstance(answers.get(witness, Unanswered("")), Unanswered):
        error = answers.get(first)
        raise Infrastructure(f"{server}: {error.strerror if error else 'no answer'}")


def _looked_at(places: Sequence[str], seconds: float) -> dict[str, OSError | None]:
    """For each place the error of reading it now, or None; places without an answer in time are left out."""
    answers: dict[str, OSError | None] = {}

    def look(place: str) -> None:
        answers[place] = location.why_not_opened(place)

    # In threads, because waiting for a server can be ended in no other way.
    looking = [threading.Thread(target=look, args=(place,), name="server", daemon=True) for place in places]
    for thread in looking:
        thread.start()
    for thread in looking:
        thread.join(seconds)
    return dict(answers)
