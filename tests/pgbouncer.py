"""A real PgBouncer of this process before a PostgreSQL server, which gives each transaction another connection."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from sqlalchemy.engine import make_url

from tests.postgresql import START_SECONDS, as_user

CONFIGURATION = """[databases]
* = host={server} user=postgres
[pgbouncer]
unix_socket_dir = {folder}
listen_port = 6432
auth_type = any
pool_mode = transaction
default_pool_size = 4
server_round_robin = 1
"""


def program() -> str | None:
    """Where PgBouncer is; None if it is not installed."""
    return shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")


@contextmanager
def before(server_url: str) -> Iterator[str]:
    """The URL of the pooler. Its few connections are handed out in turn, so that no two transactions share one."""
    folder = Path(tempfile.mkdtemp(prefix="sam3-pgbouncer-"))
    user = "nobody" if os.geteuid() == 0 else None  # it refuses to run as root
    (folder / "pgbouncer.ini").write_text(
        CONFIGURATION.format(server=make_url(server_url).query["host"], folder=folder)
    )
    if user is not None:
        for path in (folder, folder / "pgbouncer.ini"):
            shutil.chown(path, user)
    installed = program()
    assert installed is not None, "install the package pgbouncer"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*as_user(user), installed, str(folder / "pgbouncer.ini")],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    url = f"postgresql://postgres@/postgres?host={folder}&port=6432"
    try:
        _wait(url, folder / "log")
        yield url
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _wait(url: str, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            psycopg.connect(url).close()
            return
        except psycopg.OperationalError:
            assert time.monotonic() < end, f"PgBouncer did not start:\n{log.read_text()}"
            time.sleep(0.05)
