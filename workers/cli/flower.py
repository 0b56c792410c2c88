"""What `sam3-flower` does: it checks what Flower would report with a traceback only, and then becomes Flower.

Knows no runs.
"""

import os
from pathlib import Path
from typing import NoReturn

from db import private
from sam3_start import become_other_program
from workers.broker.app import create_app
from workers.broker.connection import check_broker
from workers.cli import base, flower_config
from workers.cli.base import say
from workers.errors import UsageError
from workers.machine.hosts import LOOPBACK


def watch(address: str, port: int, allow_control: bool) -> NoReturn:
    """Replace this process by Flower. Raises `UsageError` or `Unreachable` if Flower could not work."""
    if address not in LOOPBACK and not os.environ.get("FLOWER_BASIC_AUTH"):
        raise UsageError(
            f"--address {address} is open to others: set FLOWER_BASIC_AUTH=user:password, or use 127.0.0.1"
        )
    settings = base.settings()
    try:
        import flower as _installed  # noqa: F401 - only to see whether it is installed
    except ImportError:
        raise UsageError("Flower is not installed: pip install 'sam3-queue[monitor]'") from None
    check_broker(create_app(settings))
    _check_free(address, port)
    say(f"Flower on http://{address}:{port}")
    os.environ["SAM3_BROKER_URL"] = settings.broker_url
    os.environ.pop("FLOWER_PORT", None)  # not used: a linked service called flower would set it to tcp://...
    # Celery imports modules from the working folder first, so it must not be one of the user's.
    os.chdir(private.make_folder(settings.state_dir / "flower"))
    options = [f"--conf={Path(flower_config.__file__)}", f"--address={address}", f"--port={port}"]
    arguments = ("-A", "workers.cli.flower_app", "flower", *options, f"--read_only={not allow_control}")
    become_other_program("celery", *arguments)


def _check_free(address: str, port: int) -> None:
    """Raise `UsageError` if it is not possible to listen at this address and port."""
    from tornado.netutil import bind_sockets  # comes with Flower

    try:
        for socket in bind_sockets(port, address):
            socket.close()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f"{address}:{port} cannot be used: {reason}; choose another --port or --address") from None
