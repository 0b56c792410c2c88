"""What `sam3-broker` does: it runs the bundled server and publishes its password. Knows no messages."""

import shlex
import signal
import sys
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from workers.broker.published import publishing
from workers.cli import base
from workers.cli.base import say
from workers.errors import UsageError
from workers.fleet.valkey import BundledBroker
from workers.machine.hosts import LOOPBACK
from workers.settings import masked

PORT = 6379  # the usual port of Redis


def run(port: int | None) -> NoReturn:
    """Serve until a signal. Raises `UsageError` or `Unreachable` if the server does not start, or ends by itself."""
    settings = base.settings()
    state_dir = settings.state_dir.absolute()
    if port is None:
        named = _port_here(settings.broker_url) if base.setting_origin("broker_url") else None
        port = named or PORT
    with publishing(state_dir, port) as password:
        _serve(BundledBroker(state_dir / "broker", port, password), state_dir)


def _port_here(url: str) -> int | None:
    """The port of a URL, if it means a server on this machine without TLS; else None."""
    parts = urlsplit(url)
    return parts.port if parts.scheme == "redis" and parts.hostname in LOOPBACK else None


def _serve(server: BundledBroker, state_dir: Path) -> NoReturn:
    server.start()
    say(f"broker on {masked(server.url)}, its queue in {server.folder}")
    say("Next: sam3-worker in a second terminal, sam3-enqueue --csv FILE --prompt TEXT in a third")
    if base.setting_origin("state_dir"):
        say(f"they find its password with SAM3_STATE_DIR={shlex.quote(str(state_dir))}, as here")
    if base.setting_origin("broker_url"):
        say("they find it only where SAM3_BROKER_URL is not set, as it is here")
    try:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so a service is stopped, which is no failure
        code = server.wait()
    except (KeyboardInterrupt, SystemExit):
        say("stopped")
        raise
    finally:
        server.stop()
    raise UsageError(f"the broker ended by itself with code {code}: see {server.folder / 'broker.log'}")
