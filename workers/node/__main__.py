"""`python -m workers.node gpu0` is the Celery parent of a node, whose launcher gives it its `SAM3_*` environment.

The command `celery worker` would do the same, but first imports all of Celery's other commands.
"""

import multiprocessing
import os
import socket
import sys
import tempfile

from sam3_start import QuickImports


def main(name: str) -> int:
    """Serve the queue until a signal ends it; return the exit code of the process."""
    with QuickImports():
        from workers.broker.contract import queue_name
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
    _make_no_folder()
    _start_tracker()
    parent.start()
    return parent.exitcode or 0


def _make_no_folder() -> None:
    """Let billiard make its files, which it removes at once, directly in the folder for temporary files.

    It would make a folder for them, which a node that is killed leaves behind; and nodes are killed at each run's end.
    """
    multiprocessing.current_process()._config["tempdir"] = tempfile.gettempdir()  # type: ignore[attr-defined]


def _start_tracker() -> None:
    """Start billiard's process that removes semaphores in the end, in a process group of its own.

    billiard itself would start it among the processes of this node, where the signal that kills them all would kill it,
    too: then the names of semaphores stay until the machine starts anew.
    """
    from billiard import semaphore_tracker

    reads, writes = os.pipe()  # the tracker ends when nobody is left who has the second end
    program = f"from billiard.semaphore_tracker import main; main({reads})"
    arguments = [sys.executable, "-P", "-W", "ignore", "-c", program]
    os.set_inheritable(reads, True)
    os.posix_spawn(sys.executable, arguments, os.environ, setpgroup=0)
    os.close(reads)
    semaphore_tracker._semaphore_tracker._fd = writes  # type: ignore[attr-defined]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
