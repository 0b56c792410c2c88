"""What `sam3-flower` does: becomes Flower with our settings, after all was tried that Flower would only trace back."""

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


def watch(address: str, port: int, allow_control: bool) -> NoReturn:
    """Raises `UsageError` or `Unreachable` if Flower could not work."""
    if address not in ("127.0.0.1", "::1", "localhost") and not os.environ.get("FLOWER_BASIC_AUTH"):
        raise UsageError(
            f"--address {address} is open to others: set FLOWER_BASIC_AUTH=user:password, or use 127.0.0.1"
        )
    settings = base.settings()
    try:
        import flower as _installed  # noqa: F401 - only whether it is there
    except ImportError:
        raise UsageError("Flower is not installed: pip install 'sam3-queue[monitor]'") from None
    check_broker(create_app(settings))
    _check_free(address, port)
    say(f"Flower on http://{address}:{port}")
    os.environ["SAM3_BROKER_URL"] = settings.broker_url
    os.environ.pop("FLOWER_PORT", None)  # ours is --port; a linked service called flower sets it to tcp://...
    os.chdir(private.make_folder(settings.state_dir / "flower"))  # Celery imports from there first, not from here
    options = [f"--conf={Path(flower_config.__file__)}", f"--address={address}", f"--port={port}"]
    arguments = ("-A", "workers.cli.flower_app", "flower", *options, f"--read_only={not allow_control}")
    become_other_program("celery", *arguments)


def _check_free(address: str, port: int) -> None:
    """Raise `UsageError` if nobody can listen there."""
    from tornado.netutil import bind_sockets  # comes with Flower

    try:
        for one in bind_sockets(port, address):
            one.close()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f"{address}:{port} cannot be used: {reason}; choose another --port or --address") from None
