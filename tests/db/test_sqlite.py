"""Where an SQLite file may lie, and that many processes may make one at once."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from sqlalchemy import text

from db.refusals import DatabaseUnusable
from db.session import connect
from db.sqlite import file_system


def test_several_may_open_a_new_sqlite_database_at_once(tmp_path: Path) -> None:
    files, threads = 60, 4  # SQLite itself refuses about one of a hundred
    together = Barrier(threads)

    def open_new(turn: int) -> None:
        sessions = connect(f"sqlite:///{tmp_path / f'{turn // threads}.db'}")
        together.wait()
        with sessions.begin() as session:
            session.execute(text("SELECT 1"))
        sessions.kw["bind"].dispose()

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(open_new, range(files * threads)))


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(DatabaseUnusable, match=r"cannot make the database's folder: .*; set SAM3_DATABASE_URL"):
        connect(f"sqlite:///{tmp_path / 'file' / 'sam3.db'}")


def test_sqlite_makes_its_folder(tmp_path: Path) -> None:
    connect(f"sqlite:///{tmp_path / 'new' / 'folder' / 'sam3.db'}")

    assert (tmp_path / "new" / "folder").is_dir()


MOUNTS = r"""
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:5 / /mnt rw shared:2 - tmpfs tmpfs rw
31 30 0:40 / /mnt/team\040photos rw shared:3 - nfs4 server:/photos rw
32 30 0:41 / /mnt/gluster rw - fuse.glusterfs server:/volume rw
33 22 0:42 / /mnt/home-disk rw master:1 - ext4 /dev/sdb1 rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/data/sam3.db", "ext4"),
        ("/mnt/sam3.db", "tmpfs"),
        ("/mnt/team photos/a/sam3.db", "nfs4"),
        ("/mnt/team photos 2/sam3.db", "tmpfs"),
        ("/mnt/gluster/sam3.db", "fuse.glusterfs"),
    ],
)
def test_the_file_system_of_a_path_is_that_of_the_deepest_mount(
    path: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda self: MOUNTS.strip())

    assert file_system(Path(path)) == kind


@pytest.mark.parametrize("folder", ["/mnt/team photos", "/mnt/gluster"])
def test_sqlite_on_a_network_file_system_is_refused(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda self: MOUNTS.strip())

    with pytest.raises(DatabaseUnusable, match="SQLite needs a local disk"):
        connect(f"sqlite:///{folder}/sam3.db")


def test_this_machines_own_file_systems_are_known(tmp_path: Path) -> None:
    if Path("/proc/self/mountinfo").exists():
        assert file_system(tmp_path)
