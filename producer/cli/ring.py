"""Rings the doorbells of one run, for commands that give its workers something to do. Declares no flags."""

from producer.cli.found import Found
from workers.broker.app import create_app
from workers.broker.connection import check_broker
from workers.cli import opening
from workers.cli.base import say
from workers.errors import Unreachable
from workers.fleet.dispatch import dispatch, publisher


def ring(found: Found) -> int:
    """Ring the doorbells of the run's chunks, as far as it is their turn; return how many.

    If the broker is away, the reconciler does it later. The run of a sam3-run folder has no broker to ring on.
    """
    if found.folder is not None:
        return 0
    app = create_app(opening.identified(found.settings, found.sessions))
    try:
        check_broker(app)
    except Unreachable as error:
        say(f"warning: {error}; the images are pending, and workers take them when it is back")
        return 0
    return dispatch(found.sessions, publisher(app), [found.run_id])
