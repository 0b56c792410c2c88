"""The commands of this package at their edge; what they do at work is told in tests/integration."""

from pathlib import Path

import pytest

from db import presence
from db.session import Sessions, connect, write
from db.states import WorkerState
from tests.db import scenario
from tests.terminals import Terminal
from tests.workers import runs
from workers.broker.app import create_app
from workers.broker.connection import Doorbells
from workers.cli.base import command
from workers.cli.opening import open_database
from workers.cli.worker import EmptyQueue, absolute_sqlite, check_runs, node_settings
from workers.errors import UsageError
from workers.fleet.dispatch import publisher
from workers.fleet.processes import this_process
from workers.fleet.reconcile import Reconciler
from workers.settings import Settings

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


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


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_launcher_does_with_one_connection(sessions: Sessions, database_url: str, broker_url: str) -> None:
    runs.ring(sessions, scenario.load(sessions, scenario.numbered(8)))
    others = scenario.load(sessions, scenario.numbered(8), name="others")
    scenario.lease_runs_out(sessions, scenario.claim(sessions, others, worker_id=scenario.worker(sessions)))
    one = open_database(database_url, connections=1)
    app = create_app(settings := Settings(broker_url=broker_url))
    reconciler = Reconciler(one, publisher(app), Doorbells(runs.app(sessions, broker_url)), settings)

    try:
        assert one.kw["bind"].pool.size() == 1
        for _ in range(5):
            assert reconciler.step()
            assert not EmptyQueue(one).over()
    finally:
        one.kw["bind"].dispose()


@on_sqlite
def test_a_run_whose_model_is_not_here_is_a_warning_beside_one_whose_model_is(
    sessions: Sessions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs.load(sessions, tmp_path, scenario.numbered(1), name="away", model="/no/such/folder")
    with pytest.raises(UsageError) as refused:
        check_runs(sessions, Settings())
    assert str(refused.value) == (
        "run away cannot be served here: model /no/such/folder: no such folder, nor a name like facebook/sam3; "
        "try --model tiny; sam3-cancel away if it is not wanted"
    )

    runs.load(sessions, tmp_path, scenario.numbered(1), name="here", model="tiny")
    check_runs(sessions, Settings())
    assert capsys.readouterr().err == f"warning: {refused.value}\n"


@on_sqlite
def test_until_empty_ends_when_only_runs_are_left_that_this_machine_declines(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.cli.worker.LOOK_SECONDS", 0.0)
    host = this_process().host
    declined = scenario.load(sessions, scenario.numbered(1), name="b c")
    other = scenario.load(sessions, scenario.numbered(1), name="other")
    here = write(sessions, presence.register, f"cpu0@{host}", this_process())
    far = write(sessions, presence.register, "cpu0@elsewhere", this_process())
    write(sessions, presence.report, far, state=WorkerState.DECLINED, run_id=other, message="no such model")
    write(sessions, presence.report, here, state=WorkerState.DECLINED, run_id=declined, message="no licence")
    queue = EmptyQueue(sessions)
    assert not queue.over()
    assert queue.declined == {}, "this machine may serve the other run"

    scenario.work_off(sessions, other)
    write(sessions, presence.report, here, state=WorkerState.IDLE, run_id=None)  # its next offer comes in a minute
    scenario.cancel(sessions, other)
    assert not queue.over(), "the model is tried again before that"
    monkeypatch.setattr("workers.cli.worker.DECLINED_SECONDS", 0.0)
    assert queue.over()
    told = "run b c cannot be served here: no licence; sam3-cancel 'b c' if it is not wanted"
    assert queue.told_declined() == told

    write(sessions, presence.report, here, state=WorkerState.RUNNING, run_id=declined)
    assert not queue.over(), "it is served by now"


@on_sqlite
def test_without_a_run_there_is_no_model_to_check(sessions: Sessions) -> None:
    check_runs(sessions, Settings())


@pytest.mark.parametrize(
    ("url", "absolute"),
    [
        ("sqlite:///faces.db", "sqlite:///{here}/faces.db"),
        ("sqlite+pysqlite:///faces.db", "sqlite+pysqlite:///{here}/faces.db"),
        ("sqlite:////data/faces.db", "sqlite:////data/faces.db"),
        ("sqlite:////data/what%3F.db", "sqlite:////data/what%3F.db"),
        ("postgresql://me:canary@db/sam3", "postgresql://me:canary@db/sam3"),
    ],
)
def test_the_path_of_an_sqlite_url_becomes_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, absolute: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_sqlite(url) == absolute.format(here=tmp_path)


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
