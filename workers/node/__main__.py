"""`python -m workers.node gpu0` is the Celery parent of a node, whose launcher gives it its `SAM3_*` environment.

The command `celery worker` would do the same, but first imports all of Celery's other commands.
"""

import signal
import socket
import sys

from sam3_start import QuickImports


def main(name: str) -> int:
    """Serve the queue until a signal ends it; return the exit code of the process."""
    with QuickImports():
        from workers.contract import queue_name
        from workers.node.celery_app import app, settings

        parent = app.Worker(
            hostname=f"{name}@{socket.gethostname()}",
            queues=[queue_name(settings.identity)],
            include=["workers.node.tasks"],
            without_gossip=True,
            without_mingle=True,
            loglevel="WARNING",
            quiet=True,
        )
    _start_tracker()
    parent.start()
    return parent.exitcode or 0


def _start_tracker() -> None:
    """Start billiard's process that removes semaphores in the end, deaf to the SIGTERM that asks the group to end.

    billiard itself would leave it a moment in which that signal ends it, and this process with a traceback.
    """
    from billiard import semaphore_tracker

    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    semaphore_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
