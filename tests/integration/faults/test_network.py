"""The network loses every packet, or some, and brings the others late: the work goes on, and nothing is done twice."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from db.session import Sessions
from tests import templates
from tests.db import scenario
from tests.integration.faults import farm
from tests.integration.network import Host, Wire, two_hosts
from tests.integration.valkey import Valkey
from tests.postgresql import serve
from tests.terminals import Terminal, wait_until

IMAGES, CHUNK = 48, 8
BROKER_PORT, DATABASE_PORT = 6379, 5432
broker_over_the_wire = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
both_over_the_wire = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)

Hosts = tuple[Host, Host, Wire]


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """A far host, the near one where servers run, and the wire between them."""
    with ExitStack() as stack:
        try:
            made = stack.enter_context(two_hosts())
        except OSError as error:
            if "SAM3_REQUIRE_NETNS" in os.environ:
                raise
            pytest.skip(f"no network namespaces here ({error}): they need root, iproute2 and /dev/net/tun")
        yield made


@pytest.fixture
def wire(hosts: Hosts) -> Wire:
    return hosts[2]


@pytest.fixture
def broker_url(hosts: Hosts, tmp_path: Path) -> Iterator[str]:
    """A server on the near host."""
    _, near, _ = hosts
    server = Valkey(tmp_path / "valkey", near.address, near.within)
    server.start()
    server.wait_until_ready()
    yield server.url
    server.close()


@pytest.fixture
def database_url(request: pytest.FixtureRequest, hosts: Hosts, tmp_path: Path) -> Iterator[str]:
    """SQLite, which hosts of this machine may share; or the way from here to a PostgreSQL server on the near host."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'sam3.db'}"
        templates.fill(url, audited=True)
        yield url
        return
    _, near, _ = hosts
    with serve(near.address, near.within) as server:
        templates.fill(server.url, audited=True)
        yield server.url


@pytest.fixture
def there(here: Terminal, hosts: Hosts, database_url: str) -> Terminal:
    """The terminal, with the address that the hosts have for the database."""
    _, near, _ = hosts
    if database_url.startswith("postgresql"):
        here.environment["SAM3_DATABASE_URL"] = f"postgresql://postgres@{near.address}:{DATABASE_PORT}/postgres"
    return here


@pytest.fixture
def run_id(sessions: Sessions, tmp_path: Path) -> int:
    return farm.load(sessions, tmp_path / "in", IMAGES, chunk_size=CHUNK)


@broker_over_the_wire
def test_a_broker_behind_a_dead_wire_is_left_alone_and_found_again(
    there: Terminal, sessions: Sessions, hosts: Hosts, run_id: int, tmp_path: Path
) -> None:
    """Neither side hears of it; our sockets give up after fifteen seconds."""
    far, near, wire = hosts
    cut_off = farm.start(there.on(far.within), "far", slow=0.1)
    done = farm.halt_in_hand(sessions, lambda: wire.cut(BROKER_PORT), wire.cut)
    before = wire.dropped
    farm.some_results(sessions, before=done)  # what it has in hand needs no broker
    other = farm.start(there.on(near.within), "near")
    farm.finish(sessions, run_id)
    wait_until(lambda: "lost doorbells are not looked for" in cut_off.output(), "the far worker to notice")
    assert wire.dropped > before
    wire.cut()
    farm.end(other)
    later = farm.load(sessions, tmp_path / "later", CHUNK, name="later", chunk_size=CHUNK)
    farm.finish(sessions, later)
    for one in (run_id, later):
        farm.check(sessions, one)
    assert farm.forwards(there) == IMAGES + CHUNK + 2
    cut_off.interrupt()
    cut_off.wait(code=130)


@both_over_the_wire
def test_a_worker_cut_off_from_its_database_is_replaced_and_commits_nothing_late(
    there: Terminal, sessions: Sessions, hosts: Hosts, run_id: int
) -> None:
    """Its host is another one: only the end of its lease says that it is gone."""
    far, near, wire = hosts
    cut_off = farm.start(there.on(far.within), "far", slow=0.4)
    farm.halt_in_hand(sessions, lambda: wire.cut(DATABASE_PORT), wire.cut, begun=True)
    other = farm.start(there.on(near.within), "near")
    farm.finish(sessions, run_id)
    farm.check(sessions, run_id)
    fences = [chunk.fence for chunk in scenario.chunks(sessions, run_id)]
    assert max(fences) == 2
    wire.cut()
    wait_until(lambda: "no longer ours" in cut_off.output(), "the far worker to notice")
    farm.check(sessions, run_id)
    assert [chunk.fence for chunk in scenario.chunks(sessions, run_id)] == fences
    for worker in (cut_off, other):
        worker.interrupt()
        worker.wait(code=130)


@both_over_the_wire
def test_a_slow_and_lossy_wire_makes_the_run_slower_and_nothing_else(
    there: Terminal, sessions: Sessions, hosts: Hosts, run_id: int, wire: Wire
) -> None:
    """Broker and database are behind it."""
    far, _, wire = hosts
    wire.spoil(delay=0.015, jitter=0.01, loss=0.02)
    there.environment |= {"SAM3_LEASE_SECONDS": "30", "SAM3_HEARTBEAT_SECONDS": "5", "SAM3_STALL_SECONDS": "60"}
    farm.start(there.on(far.within), "far", "--until-empty", "--batch-size", "8").wait()
    farm.check(sessions, run_id)
    assert wire.dropped > 0
    assert {chunk.fence for chunk in scenario.chunks(sessions, run_id)} == {1}
    assert farm.forwards(there) == IMAGES + 1
