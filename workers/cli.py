"""`sam3-worker`, `sam3-broker` and `sam3-flower`: thin edges of the fleet and of Flower, and quick to import."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from workers import edge, flowerconfig
from workers.edge import say
from workers.errors import UsageError

Function = TypeVar("Function", bound=Callable[..., Any])
DTYPES = ["auto", "mixed", "fp32", "bf16"]


def worker_flags(function: Function) -> Function:
    """Flags of whatever starts nodes."""
    flags = [
        click.option("--gpus", default="all", metavar="all|0,1|cpu", show_default=True, help="Which GPUs to use."),
        click.option("--num-gpus", type=click.IntRange(min=1), metavar="N", help="Only N of them; with cpu, N nodes."),
        click.option(
            "--batch-size", type=click.IntRange(1, 256), metavar="N", help="Images of one forward (default 8)."
        ),
        click.option("--dtype", type=click.Choice(DTYPES), help="auto: mixed on a GPU, fp32 on a CPU."),
        click.option(
            "--grace", type=click.FloatRange(min=0), metavar="S", help="Seconds to finish a batch (default 60)."
        ),
    ]
    for flag in reversed(flags):
        function = flag(function)
    return function


@edge.command("sam3-worker")
@worker_flags
@click.option("--until-empty", is_flag=True, help="End when no run has anything left to do.")
def worker(until_empty: bool, **flags: Any) -> int:
    """Serve runs: one supervised node per GPU. Ctrl-C finishes the batch in hand and gives the rest back."""
    from workers import serving

    return serving.serve(until_empty, flags)


@edge.command("sam3-broker")
@click.option("--port", type=click.IntRange(1, 65535), default=6379, show_default=True)
def broker(port: int) -> int:
    """Run the bundled Valkey server on this machine's loopback address until Ctrl-C."""
    from workers.fleet.broker import BundledBroker

    settings = edge.settings()
    server = BundledBroker(settings.state_dir.absolute() / "broker", port)
    server.start()
    say(f"broker on {server.url}, its queue in {server.folder}")
    say("Next: sam3-worker in a second terminal, sam3-enqueue --csv FILE --prompt TEXT in a third")
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # either way the server ends in order
        code = server.wait()
    except KeyboardInterrupt:
        say("stopped")
        return 0
    finally:
        server.stop()
    raise UsageError(f"the broker ended by itself with code {code}: see {server.folder / 'broker.log'}")


@edge.command("sam3-flower")
@click.option(
    "--address", default=flowerconfig.address, show_default=True, help="Beyond loopback: see FLOWER_BASIC_AUTH."
)
@click.option("--port", type=click.IntRange(1, 65535), default=flowerconfig.port, show_default=True)
def flower(address: str, port: int) -> int:
    """Show the traffic in Flower: nodes by GPU, a task for each chunk. Status itself is in sam3-status."""
    from workers.app import create_app
    from workers.fleet.broker import check_broker

    if address not in ("127.0.0.1", "::1", "localhost") and not os.environ.get("FLOWER_BASIC_AUTH"):
        raise UsageError(
            f"--address {address} is open to others: set FLOWER_BASIC_AUTH=user:password, or use 127.0.0.1"
        )
    settings = edge.settings()
    try:
        import flower as _installed  # noqa: F401 - only whether it is there
    except ImportError:
        raise UsageError("Flower is not installed: pip install 'sam3-queue[monitor]'") from None
    check_broker(create_app(settings))
    say(f"Flower on http://{address}:{port}")
    conf = f"--conf={Path(flowerconfig.__file__)}"
    celery = [sys.executable, "-P", "-m", "celery", "-A", "workers.node", "flower", conf]
    os.environ["SAM3_BROKER_URL"] = settings.broker_url
    os.environ.pop("FLOWER_PORT", None)  # ours is --port; a linked service called flower sets it to tcp://...
    home = settings.state_dir / "flower"  # Celery imports from the working folder first: not from the user's `db`
    home.mkdir(parents=True, exist_ok=True)
    os.chdir(home)
    os.execv(sys.executable, [*celery, f"--address={address}", f"--port={port}"])
