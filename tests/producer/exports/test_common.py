"""Files are replaced only when they are whole."""

import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from producer.exports.common import replacing
from workers.errors import UsageError


def test_a_file_is_replaced_only_when_the_new_one_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "new" / "a.csv"
    with replacing(out) as temporary:
        temporary.write_text("first")
    with pytest.raises(KeyboardInterrupt):
        _be_interrupted_while_writing(out)
    assert out.read_text() == "first"
    assert list(out.parent.iterdir()) == [out]


def _be_interrupted_while_writing(out: Path) -> None:
    with replacing(out) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt


KILLED = """
import os, signal, sys
from pathlib import Path
from producer.exports.common import replacing

with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_text("half, and longer than what comes later")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_export_left_is_used_up_by_the_next(tmp_path: Path) -> None:
    out = tmp_path / ("é" * 127)  # 254 bytes: nothing can be appended to such a name
    assert subprocess.run([sys.executable, "-c", KILLED, out], check=False).returncode == -signal.SIGKILL
    [left] = tmp_path.iterdir()
    assert left != out

    with replacing(out) as temporary:
        temporary.write_text("whole")

    assert list(tmp_path.iterdir()) == [out]
    assert out.read_text() == "whole"


def test_two_files_are_written_at_once_but_one_only_by_one(tmp_path: Path) -> None:
    one, other = tmp_path / "a.csv", tmp_path / "b.csv"
    with replacing(one) as first, replacing(other) as second:
        first.write_text("one")
        second.write_text("other")
        with pytest.raises(UsageError, match=r"a\.csv: another export is writing it"), replacing(one):
            pass
    assert (one.read_text(), other.read_text()) == ("one", "other")
    assert sorted(tmp_path.iterdir()) == [one, other]


def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    out.write_text("old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(UsageError, match=r"a\.csv: cannot write: File too large"), replacing(out) as temporary:
            temporary.write_text("x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert out.read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


def test_a_folder_a_device_and_a_file_in_the_way_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cases = {
        tmp_path: "is a folder",
        Path("/dev/null"): "not an ordinary file",
        tmp_path / "file" / "a": "cannot write",
    }
    for out, message in cases.items():
        with pytest.raises(UsageError, match=message) as error, replacing(out):
            pass
        assert "\n" not in str(error.value)


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "link.csv").symlink_to(tmp_path / "real.csv")
    with replacing(tmp_path / "link.csv") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "real.csv").read_text() == "new"
    assert (tmp_path / "link.csv").is_symlink()


def test_csv_and_coco_need_no_worker_packages() -> None:
    program = (
        "import sys; sys.modules |= dict.fromkeys(['numpy', 'PIL', 'pycocotools', 'torch', 'celery']);"
        "import producer.exports.csv_file, producer.exports.coco"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
