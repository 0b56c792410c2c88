"""A reconciler; and a machine with GPUs, of which there are none here, as driver and torch show it to who asks."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from db.session import Sessions
from tests.workers import runs
from tests.workers.fleet.reconciling import Other, start
from workers.broker.connection import Doorbells
from workers.fleet import gpu_memory, gpus
from workers.fleet.reconcile import Reconciler

STAND_INS = Path(__file__).parent / "machine"
GOOD: dict[str, Any] = {"name": "NVIDIA A100-SXM4-80GB", "error": None, "hangs": False, "hidden": False, "fast": False}
GOOD |= {"fixed": False}  # its memory cannot grow in place
WHOLE: dict[str, Any] = GOOD | {"nvml_error": 0, "mig": None, "slices": []}

Machine = Callable[..., None]


def gpu(digit: str = "0", **how: Any) -> dict[str, Any]:
    """A GPU whose UUID begins with eight times this digit."""
    return WHOLE | {"uuid": f"GPU-{digit * 8}-aaaa-bbbb-cccc-dddddddddddd"} | how


def mig_slice(digit: str, **how: Any) -> dict[str, Any]:
    """A part of a GPU."""
    name = "NVIDIA A100-SXM4-80GB MIG 1g.10gb"
    return GOOD | {"name": name, "uuid": f"MIG-{digit * 8}-aaaa-bbbb-cccc-dddddddddddd"} | how


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Describe the machine. `tried` tells in which order its GPUs were used."""
    for name in (*gpus.VISIBLE, *gpu_memory.NAMES, "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("workers.fleet.gpus._has_driver", lambda: True)
    monkeypatch.setenv("FAKE_MACHINE", str(tmp_path / "machine"))
    paths = [str(STAND_INS), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))

    def describe(*gpus: dict[str, Any], **how: Any) -> None:
        usual = {"gpus": gpus, "nvml": "there", "built": "12.8", "hip": None, "torch_error": None}
        (tmp_path / "machine").write_text(json.dumps(usual | how))

    return describe


@pytest.fixture
def tried(tmp_path: Path) -> Callable[[], list[str]]:
    """What CUDA_VISIBLE_DEVICES was wherever torch was asked to compute."""

    def read() -> list[str]:
        file = tmp_path / "machine.tried"
        return sorted(file.read_text().split()) if file.exists() else []

    return read


@pytest.fixture
def reconciler(sessions: Sessions, broker_url: str) -> Reconciler:
    return start(sessions, broker_url)


@pytest.fixture
def doorbells(sessions: Sessions, broker_url: str) -> Doorbells:
    return Doorbells(runs.app(sessions, broker_url))


@pytest.fixture
def other() -> Iterator[Other]:
    other = Other()
    yield other
    other.kill()
