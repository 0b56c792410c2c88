"""The same images through the same simulated device as a user's run: CSV, broker, SQL, worker. Judges nothing."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.device import Busy, read_log
from workers.fleet.valkey import BundledBroker

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[1]
MOST_SECONDS = 1800


def through_celery(paths: Sequence[str], fixed_ms: float, image_ms: float, chunk_size: int = 256) -> list[Busy]:
    """When the device was busy with a run of these paths, in batches of eight; the worker's self-test is left out.

    Valkey, SQLite, one node with its prefork child. Raises `AssertionError` if an image was not segmented.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "images.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["path"], *([path] for path in paths)])
        broker = BundledBroker(folder / "broker")
        broker.start()
        try:
            environment = _environment(folder, broker.url, fixed_ms, image_ms)
            size = f"--chunk-size={chunk_size}"
            _run("sam3-enqueue", "--csv=images.csv", "--prompt=person", size, folder=folder, environment=environment)
            _run("sam3-worker", "--gpus=cpu", "--until-empty", folder=folder, environment=environment)
            said = _run("sam3-status", "images", "--json", folder=folder, environment=environment)
        finally:
            broker.stop()
        counts = json.loads(said)["images"]
        assert counts["segmented"] == len(paths), counts
        _self_test, *busy = read_log(folder / "device.log")
    return busy


def _environment(folder: Path, broker_url: str, fixed_ms: float, image_ms: float) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SAM3_")}
    return clean | {
        "PYTHONPATH": str(ROOT),
        "SAM3_STATE_DIR": str(folder / "state"),
        "SAM3_DATABASE_URL": f"sqlite:///{folder}/sam3.db",
        "SAM3_BROKER_URL": broker_url,
        "SAM3_MODEL": "tiny",  # never loaded: the segmenter below stands for it
        "SAM3_SEGMENTER": "benchmarks.accelerator:factory",
        "BENCH_FIXED_MS": str(fixed_ms),
        "BENCH_IMAGE_MS": str(image_ms),
        "BENCH_DEVICE_LOG": str(folder / "device.log"),
        "OMP_NUM_THREADS": "1",  # as beside a GPU
    }


def _run(*command: str, folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [BIN / command[0], *command[1:]],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=MOST_SECONDS,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout
