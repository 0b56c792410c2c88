"""A finished run is looked at where nothing can be written; a place that SQLite cannot use is told as the reason."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from db.session import describe_failure
from producer.cli.status import main as status
from tests.db.scenario import load, numbered, work_off
from tests.producer.cli.conftest import Shell
from tests.producer.conftest import NOBODY

BIN = Path(sys.executable).parent
MOUNT = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'


def run_read_only(folder: Path, *command: object) -> "subprocess.CompletedProcess[str]":
    """Run a command for which `folder` is mounted read-only."""
    unshared = ["unshare", "--mount", "sh", "-c", MOUNT, "sh", str(folder)]
    try:
        subprocess.run([*unshared, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        if "SAM3_REQUIRE_NETNS" in os.environ:
            raise
        pytest.skip(f"no mounts here ({error}): they need root and unshare")
    return subprocess.run([*unshared, *map(str, command)], capture_output=True, text=True, check=False)


@pytest.fixture
def out(shell: Shell) -> Path:
    """The folder of a run that is over; its database was closed in order."""
    work_off(shell.sessions, load(shell.sessions, numbered(8)), 0.9)
    shell.sessions.kw["bind"].dispose()
    folder = shell.home / "out"
    state = folder / ".sam3"
    state.mkdir(parents=True)
    shutil.copy(shell.home.parent / "sam3.db", state)
    (folder / "run.yaml").write_text("run: faces\nsource: /data/faces.csv\n")
    return folder


def test_status_and_export_of_a_finished_folder_work_on_a_read_only_mount(out: Path, tmp_path: Path) -> None:
    before = sorted(out.rglob("*"))

    shown = run_read_only(out, BIN / "sam3-status", out)
    export = run_read_only(out, BIN / "sam3-export", out, "--format", "coco", "-o", tmp_path / "faces.json")

    assert (shown.returncode, export.returncode) == (0, 0), shown.stderr + export.stderr
    assert "8 segmented" in shown.stdout
    assert len(json.loads((tmp_path / "faces.json").read_text())["images"]) == 8
    assert sorted(out.rglob("*")) == before


def test_what_was_not_merged_yet_is_read_too(out: Path) -> None:
    """A worker that was killed leaves the log and its index behind."""
    with closing(sqlite3.connect(out / ".sam3" / "sam3.db")) as writer:
        writer.execute("UPDATE run SET name = 'renamed'")
        writer.commit()
        (out / "run.yaml").write_text("run: renamed\n")
        shown = run_read_only(out, BIN / "sam3-status", out)

    assert shown.returncode == 0, shown.stderr
    assert "renamed" in shown.stdout


def test_a_command_that_would_change_it_says_that_it_can_only_be_read(out: Path) -> None:
    deleted = run_read_only(out, BIN / "sam3-delete", out, "--yes")

    assert deleted.returncode == 3
    [line] = deleted.stderr.splitlines()
    assert line.endswith("it can only be read here; copy it to a disk of yours to change anything")


def test_older_tables_on_a_read_only_mount_are_one_line(out: Path) -> None:
    with closing(sqlite3.connect(out / ".sam3" / "sam3.db")) as database:
        database.execute("UPDATE alembic_version SET version_num = '0001'")
        database.commit()

    shown = run_read_only(out, BIN / "sam3-status", out)

    assert shown.returncode == 2
    [line] = shown.stderr.splitlines()
    assert "older tables and can only be read here" in line
    assert line.endswith(f"it belongs to {out}/run.yaml")


def test_a_log_without_its_index_is_not_passed_over(out: Path) -> None:
    """Nobody may be shown an older state as the last one."""
    (out / ".sam3" / "sam3.db-wal").write_bytes(b"x" * 100)

    shown = run_read_only(out, BIN / "sam3-status", out)

    assert shown.returncode == 3
    [line] = shown.stderr.splitlines()
    assert "copy all of it to a disk of yours" in line


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a folder of somebody else")
def test_a_folder_that_only_its_owner_may_write_to_says_what_is_missing(
    out: Path, shell: Shell, nobody_special: None
) -> None:
    """Where a writer may come at any moment, a file is never read as one that does not change."""
    theirs = Path.cwd() / "theirs"
    os.seteuid(0)
    shell(status, out)  # its owner sees it; and all modules are imported while they can be read
    shutil.copytree(out, theirs, ignore=shutil.ignore_patterns("*-wal", "*-shm"))
    for path in (theirs, *theirs.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    os.seteuid(NOBODY)

    error = shell(status, theirs, code=3).error

    assert str(theirs / ".sam3" / "sam3.db") in error
    assert "the folder must be writable, or copy all of it to a disk of yours" in error
    assert error.endswith(f"it belongs to {theirs}/run.yaml")


@pytest.mark.parametrize("code", ["SHMMAP", "SHMOPEN", "SHMLOCK", "LOCK"])
def test_a_file_system_without_shared_memory_maps_is_named_as_the_reason(tmp_path: Path, code: str) -> None:
    """As SQLite says it on FUSE with direct_io: simulated, since no such file system can be mounted everywhere."""
    said = sqlite3.OperationalError("disk I/O error")
    said.sqlite_errorcode = getattr(sqlite3, f"SQLITE_IOERR_{code}")

    line = describe_failure(OperationalError("PRAGMA journal_mode=WAL", None, said), f"sqlite:///{tmp_path}/sam3.db")

    assert "has no memory maps or locks that processes share, which SQLite needs; use a local disk" in line
