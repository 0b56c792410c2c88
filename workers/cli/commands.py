"""`sam3-worker`, `sam3-broker` and `sam3-flower`: declares their flags only, so that it is quick to import."""

from typing import Any

import click

from workers.cli import base, flower_config

DTYPES = ["auto", "mixed", "fp32", "bf16"]


image_hosts_flag = click.option(
    "--image-hosts",
    metavar="HOSTS",
    help="Hosts that https images are fetched from, such as images.example.com,*.example.org.",
)


worker_flags = base.flag_group(  # of commands that start nodes
    click.option("--gpus", default="all", metavar="all|0,1|cpu", show_default=True, help="Which GPUs to use."),
    click.option("--num-gpus", type=click.IntRange(min=1), metavar="N", help="Only N of them; with cpu, N nodes."),
    click.option("--batch-size", type=click.IntRange(1, 256), metavar="N", help="Images of one forward (default 8)."),
    click.option("--dtype", type=click.Choice(DTYPES), help="auto: mixed on a GPU, fp32 on a CPU."),
    click.option(
        "--compile",
        type=click.Choice(["auto", "on", "off"]),
        help="Compile the model; auto: on a GPU, for a run that is long enough to gain by it.",
    ),
    click.option("--grace", type=click.FloatRange(min=0), metavar="S", help="Seconds to finish a batch (default 60)."),
)


@base.command("sam3-worker")
@worker_flags
@image_hosts_flag
@click.option("--until-empty", is_flag=True, help="End when no run has anything left to do here.")
@click.option(
    "--allow-control",
    is_flag=True,
    default=None,
    help="Let whoever reaches the broker command the nodes by Celery or Flower (shutdown, pool_restart, ...).",
)
def worker(until_empty: bool, **flags: Any) -> int:
    """Serve runs with one node for each GPU. Ctrl-C finishes the batch in hand and gives the rest back."""
    from workers.cli import worker

    return worker.serve(until_empty, flags)


@base.command("sam3-broker")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    metavar="N",
    help="Port to listen on; if not given that of SAM3_BROKER_URL where it names this machine, else 6379.",
)
def broker(port: int | None) -> int:
    """Run the bundled Valkey server on this machine's loopback address until Ctrl-C.

    It asks for a password, which the other commands find in the state folder as long as SAM3_BROKER_URL is not set.
    """
    from workers.cli import broker

    broker.run(port)


@base.command("sam3-flower")
@click.option(
    "--address", default=flower_config.address, show_default=True, help="Beyond loopback: see FLOWER_BASIC_AUTH."
)
@click.option("--port", type=click.IntRange(1, 65535), default=flower_config.port, help="Port to listen on.")
@click.option("--allow-control", is_flag=True, help="Show Flower's buttons; nodes obey if they have it, too.")
def flower(address: str, port: int, allow_control: bool) -> int:
    """Show the traffic in Flower: nodes by GPU, a task for each chunk. Status itself is in sam3-status."""
    from workers.cli import flower

    flower.watch(address, port, allow_control)
