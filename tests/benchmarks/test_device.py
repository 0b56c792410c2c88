"""The simulated accelerator keeps to what a real one does, and its records to what happened."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.device import Busy, Device, idle, read_log, span


def test_it_works_on_one_batch_at_a_time_and_as_long_as_said(tmp_path: Path) -> None:
    device = Device(fixed_ms=5, image_ms=1, log=tmp_path / "log")
    with ThreadPoolExecutor(4) as callers:
        list(callers.map(device.run, [8] * 12))
    assert [one.images for one in device.busy] == [8] * 12
    assert all(before.ended <= after.began for before, after in pairwise(device.busy))
    assert [one.ended - one.began for one in device.busy] == [pytest.approx(0.013)] * 12
    assert read_log(tmp_path / "log") == device.busy


def test_it_is_idle_between_two_batches() -> None:
    busy = [Busy(1.0, 2.0, 8), Busy(2.5, 4.5, 8), Busy(4.5, 5.0, 4)]
    assert span(busy) == 4.0
    assert idle(busy) == pytest.approx(0.125)
