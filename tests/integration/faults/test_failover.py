"""Two brokers that stand in for each other, with and without sentinels: the first one is demoted in the middle."""

import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import redis

from db.session import Sessions
from tests.db import scenario
from tests.integration.faults import farm
from tests.integration.valkey import Valkey
from tests.terminals import Terminal, wait_until
from workers.fleet.processes import with_parent
from workers.fleet.valkey import free_port, listens, server_binary

pytestmark = [
    pytest.mark.parametrize("database_url", ["sqlite"], indirect=True),
    pytest.mark.usefixtures("nobody_dies"),
]

IMAGES = 64


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Valkey, Valkey]]:
    """A primary and its replica."""
    with closing(Valkey(tmp_path / "first")) as first, closing(Valkey(tmp_path / "second")) as second:
        for server in (first, second):
            server.start()
            server.wait_until_ready()
        second.client.replicaof(first.address, first.port)
        wait_until(lambda: second.client.info("replication")["master_link_status"] == "up", "the replica")
        yield first, second


def promote(new: Valkey, old: Valkey) -> None:
    """As an operator, or a managed service, does it: the old primary comes back as a replica of the new one."""
    new.client.replicaof("NO", "ONE")
    old.client.replicaof(new.address, new.port)


def work_in_two_halves(here: Terminal, sessions: Sessions, tmp_path: Path, failover: object) -> str:
    """A run in the middle of which `failover` is called; what the worker said."""
    assert callable(failover)
    run_id = farm.load(sessions, tmp_path / "in", IMAGES, chunk_size=4)
    worker = farm.start(here, "one", slow=0.05)
    farm.some_results(sessions, more=8)
    failover()
    farm.finish(sessions, run_id)
    farm.check(sessions, run_id)
    assert {chunk.attempts for chunk in scenario.chunks(sessions, run_id)} == {0}
    return farm.end(worker)


def test_workers_leave_a_broker_that_was_demoted_and_go_on_with_the_other(
    here: Terminal, sessions: Sessions, pair: tuple[Valkey, Valkey], tmp_path: Path
) -> None:
    first, second = pair
    here.environment["SAM3_BROKER_URL"] = f"{first.url};{second.url}"

    said = work_in_two_halves(here, sessions, tmp_path, lambda: promote(second, first))

    assert "Traceback" not in said


def test_a_new_run_is_enqueued_although_the_first_broker_is_a_replica(
    here: Terminal, sessions: Sessions, pair: tuple[Valkey, Valkey], tmp_path: Path
) -> None:
    first, second = pair
    promote(second, first)
    here.environment["SAM3_BROKER_URL"] = f"{first.url};{second.url}"
    (here.home / "images.csv").write_text("path\na.jpg\n")

    said = here.run("sam3-enqueue", "--csv", "images.csv", "--prompt", "person", "--no-check")

    assert "1 queued now" in said.stdout
    assert len(second.client.keys("sam3-*")) == 1


def test_a_lone_broker_that_only_reads_is_told_in_one_line(
    here: Terminal, sessions: Sessions, pair: tuple[Valkey, Valkey]
) -> None:
    _, second = pair
    here.environment["SAM3_BROKER_URL"] = second.url
    (here.home / "images.csv").write_text("path\na.jpg\n")

    said = here.run("sam3-enqueue", "--csv", "images.csv", "--prompt", "person", "--no-check", code=3)

    [line] = said.stderr.splitlines()
    assert "it is a replica, which takes no writes" in line


@contextmanager
def sentinel(folder: Path, master: Valkey) -> Iterator[int]:
    """The port of a real sentinel that watches this server and its replicas under the name faces."""
    folder.mkdir()
    port = free_port()
    (folder / "sentinel.conf").write_text(
        f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
        f"sentinel monitor faces {master.address} {master.port} 1\n"
        "sentinel down-after-milliseconds faces 1000\nsentinel failover-timeout faces 5000\n"
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            with_parent([server_binary(), str(folder / "sentinel.conf"), "--sentinel"]), stdout=log, stderr=log
        )
    try:
        wait_until(lambda: listens(port), "the sentinel")
        yield port
    finally:
        process.kill()
        process.wait()


def test_sentinels_lead_workers_to_the_new_primary(
    here: Terminal, sessions: Sessions, pair: tuple[Valkey, Valkey], tmp_path: Path
) -> None:
    first, second = pair
    with sentinel(tmp_path / "sentinel", first) as port, redis.Redis(port=port) as watcher:
        wait_until(lambda: len(watcher.sentinel_slaves("faces")) == 1, "the sentinel to know the replica")
        here.environment["SAM3_BROKER_URL"] = f"sentinel://127.0.0.1:{port}/0?master_name=faces"

        def failover() -> None:
            first.kill()
            wait_until(lambda: second.client.info("replication")["role"] == "master", "the sentinel's failover")

        said = work_in_two_halves(here, sessions, tmp_path, failover)

    assert "Traceback" not in said
