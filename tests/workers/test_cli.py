"""The commands of this package at their edge; what they do at work is told in tests/integration."""

import pytest

from db.session import connect
from tests.terminals import Terminal
from workers.cli import EmptyQueue, node_settings
from workers.edge import command


def test_a_worker_without_a_gpu_is_one_line_that_names_the_cpu(terminal: Terminal) -> None:
    refused = terminal.run("sam3-worker", code=2, CUDA_VISIBLE_DEVICES="")
    assert refused.stdout == ""
    assert refused.stderr.count("\n") == 1
    assert refused.stderr.endswith("use --gpus cpu\n")


def test_a_worker_without_a_broker_is_one_line_and_starts_nothing(terminal: Terminal) -> None:
    refused = terminal.run("sam3-worker", "--gpus", "cpu", code=3, SAM3_BROKER_URL="redis://:canary@127.0.0.1:1/0")
    assert refused.stderr.count("\n") == 1
    assert "cannot reach the broker redis://:***@127.0.0.1:1/0" in refused.stderr
    assert not (terminal.home.parent / "state" / "nodes").exists()


def test_a_worker_without_its_database_is_one_line(terminal: Terminal, broker_url: str) -> None:
    refused = terminal.run(
        "sam3-worker",
        *("--gpus", "cpu"),
        code=3,
        SAM3_BROKER_URL=broker_url,
        SAM3_DATABASE_URL="postgresql://sam3:canary@127.0.0.1:1/sam3",
    )
    assert refused.stderr.count("\n") == 1
    assert "canary" not in refused.stderr


def test_a_database_that_is_away_does_not_look_like_an_empty_queue() -> None:
    away = connect("postgresql://nobody@127.0.0.1:1/nothing")
    assert not EmptyQueue(away).over()
    away.kw["bind"].dispose()


def test_nodes_work_in_another_folder_so_their_paths_are_absolute(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path_factory.mktemp("here")
    monkeypatch.chdir(here)
    monkeypatch.setenv("SAM3_STATE_DIR", "state")
    monkeypatch.setenv("SAM3_DATABASE_URL", "sqlite:///faces.db")

    @command("sam3-probe")
    def probe() -> None:
        settings = node_settings()
        assert settings.state_dir == here / "state"
        assert settings.database_url == f"sqlite:///{here / 'faces.db'}"

    with pytest.raises(SystemExit) as end:
        probe.main([], "sam3-probe")
    assert end.value.code == 0
