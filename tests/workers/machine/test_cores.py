"""How many cores a node may count on: not those of the machine, where somebody else has most of them."""

import os
from pathlib import Path

import pytest

from workers.inference.stream.pipeline import Pace
from workers.machine import cores
from workers.machine.cores import usable_cores
from workers.settings import Settings


@pytest.fixture(autouse=True)
def large_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One with 128 cores and nothing limited."""
    monkeypatch.setattr(os, "cpu_count", lambda: 128)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(128)), raising=False)
    monkeypatch.setattr(cores, "CGROUPS", tmp_path)
    monkeypatch.setattr(cores, "OWN_CGROUP", tmp_path / "own")
    (tmp_path / "own").write_text("0::/job/step\n")


def limit(folder: Path, name: str, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


def test_without_a_limit_all_cores_are_ours(tmp_path: Path) -> None:
    limit(tmp_path / "job", "cpu.max", "max 100000\n")
    assert usable_cores() == 128


def test_a_scheduler_that_gives_some_cores_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 4, 5, 6}, raising=False)
    assert usable_cores() == 4
    assert Settings().cores == 4
    assert Pace().threads == 4


@pytest.mark.parametrize("group", ["", "job", "job/step"])
def test_a_quota_of_a_control_group_or_of_one_above_it_is_heard(tmp_path: Path, group: str) -> None:
    limit(tmp_path / group, "cpu.max", "250000 100000\n")
    assert usable_cores() == 3


def test_a_quota_of_the_first_version_is_heard(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("4:cpu,cpuacct:/docker/1f2e\n")
    limit(tmp_path / "cpu", "cpu.cfs_quota_us", "-1\n")
    limit(tmp_path / "cpu", "cpu.cfs_period_us", "100000\n")
    assert usable_cores() == 128
    limit(tmp_path / "cpu", "cpu.cfs_quota_us", "600000\n")
    assert usable_cores() == 6


def test_a_machine_without_control_groups_has_its_cores(tmp_path: Path) -> None:
    (tmp_path / "own").unlink()
    assert usable_cores() == 128
