"""The same images through the same simulated device, driven by Ray Data. Measures, judges nothing.

Ray comes with the group `bench`, and starts processes of its own: what they need is imported where they need it.
"""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from benchmarks.device import Device, idle, read_log

if TYPE_CHECKING:
    from benchmarks import peers

BATCH = 8
CPUS = 2


class _OnDevice:
    """Ray's actor: the device and nothing else."""

    def __init__(self, fixed_ms: float, image_ms: float, log: Path) -> None:
        self._device = Device(fixed_ms, image_ms, log)

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        self._device.run(len(rows["height"]))
        return {"height": rows["height"], "width": rows["width"]}


def _read(rows: dict[str, Any]) -> dict[str, Any]:
    from benchmarks.peers import read_batch

    return read_batch(list(rows["item"]))


def _make_masks(rows: dict[str, Any]) -> dict[str, Any]:
    from benchmarks.peers import masks_of_sizes

    sizes = zip(rows["height"].tolist(), rows["width"].tolist(), strict=True)
    return {"masks": [masks_of_sizes(list(sizes))], "ended": [time.monotonic()]}


def ray_data(paths: Sequence[str], speed: "peers.Speed") -> "peers.Timing":
    """Ray Data's `map_batches`, three times: read, an actor with the device, masks. `start` first.

    What the model returns is made in the third, so that it need not travel.
    """
    import ray.data

    from benchmarks.peers import Timing, check

    with TemporaryDirectory() as folder:
        log = Path(folder) / "device.log"
        began = time.monotonic()
        rows = (
            ray.data.from_items(list(paths), override_num_blocks=max(1, len(paths) // BATCH))
            .map_batches(_read, batch_size=BATCH)
            .map_batches(
                _OnDevice,
                fn_constructor_args=(speed.fixed_ms, speed.image_ms, log),
                batch_size=BATCH,
                num_gpus=1,
                compute=ray.data.ActorPoolStrategy(size=1),
            )
            .map_batches(_make_masks, batch_size=BATCH)
            .take_all()
        )
        busy = read_log(log)
    check(sum(row["masks"] for row in rows), len(paths))
    ended = max(row["ended"] for row in rows)
    return Timing(ended - busy[0].began, idle(busy), startup=busy[0].began - began)


def start() -> None:
    """Ray's own processes on this machine, with a GPU that is the simulated device."""
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.init(
        num_cpus=CPUS,
        num_gpus=1,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        # Its processes stay, so that none has to import torch in a later measurement.
        _system_config={"idle_worker_killing_time_threshold_ms": 3_600_000},
    )
    ray.data.DataContext.get_current().enable_progress_bars = False


def stop() -> None:
    import ray

    ray.shutdown()
