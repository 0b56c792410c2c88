from pathlib import Path

import pytest

from workers.machine import cores
from workers.machine.memory import usable_memory


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of this process's control group, below another one."""
    own = tmp_path / "groups" / "pod" / "container"
    own.mkdir(parents=True)
    (tmp_path / "cgroup").write_text("0::/pod/container\n")
    monkeypatch.setattr(cores, "OWN_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(cores, "CGROUPS", tmp_path / "groups")
    return own


def test_without_a_limit_it_is_that_of_the_machine(group: Path) -> None:
    (group / "memory.max").write_text("max\n")
    assert usable_memory() > 2**28


def test_the_lowest_limit_of_all_groups_counts(group: Path) -> None:
    (group / "memory.max").write_text("300000000\n")
    (group.parent / "memory.max").write_text("200000000\n")
    assert usable_memory() == 200_000_000
