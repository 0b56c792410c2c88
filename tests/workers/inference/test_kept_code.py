"""Compiled code that outlives its process, and all that may be wrong with its file."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

from tests.quick_start import PROJECT
from workers.inference import kept_code
from workers.inference.shapes import outlines

SOURCE = Path(__file__)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where code is kept: nothing yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(kept_code, "folder", lambda: tmp_path / "cache/sam3-queue/compiled")
    return tmp_path / "cache/sam3-queue/compiled"


def compiles(source: Path = SOURCE) -> bool:
    """Whether a function of `source` had to be compiled, as the first call in a new process would find it."""
    function: Any = numba.njit(lambda number: number + 1)
    kept_code.keep(function, source)
    assert function(1) == 2
    return not dict(function.stats.cache_hits)


def test_code_that_was_compiled_once_is_not_compiled_again(folder: Path) -> None:
    assert (compiles(), compiles()) == (True, False)
    (kept,) = folder.iterdir()
    assert (kept.stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == (0o600, 0o700)


def test_code_of_another_release_is_not_used(tmp_path: Path) -> None:
    compiles()
    (tmp_path / "changed.py").write_text(SOURCE.read_text() + "# changed")
    assert compiles(tmp_path / "changed.py")


@pytest.mark.parametrize("damage", ["empty", "cut off", "zeros", "one bit"])
def test_a_damaged_file_is_replaced(damage: str, folder: Path) -> None:
    compiles()
    (kept,) = folder.iterdir()
    content = kept.read_bytes()
    flipped = content[:-100] + bytes([content[-100] ^ 1]) + content[-99:]
    kept.write_bytes({"empty": b"", "cut off": content[:-1], "zeros": bytes(len(content)), "one bit": flipped}[damage])
    assert (compiles(), compiles()) == (True, False)


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_file_that_another_user_may_have_written_is_replaced(mode: int, folder: Path) -> None:
    compiles()
    (kept,) = folder.iterdir()
    kept.chmod(mode)
    assert (compiles(), compiles()) == (True, False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_of_another_user_is_replaced(folder: Path) -> None:
    compiles()
    (kept,) = folder.iterdir()
    os.chown(kept, 65534, 65534)
    assert (compiles(), compiles()) == (True, False)


def test_nothing_is_kept_where_no_folder_can_be_made(folder: Path) -> None:
    folder.parent.parent.write_bytes(b"")
    assert (compiles(), compiles()) == (True, True)


def test_nothing_is_kept_for_a_user_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kept_code, "folder", lambda: Path("~/.cache"))
    assert (compiles(), compiles()) == (True, True)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing_half_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    assert (compiles(), compiles()) == (True, True)
    assert list(folder.iterdir()) == []


def test_a_new_process_makes_masks_without_compiling_anything(folder: Path) -> None:
    function: Any = numba.njit(nogil=True)(outlines._encode.py_func)  # type: ignore[attr-defined]
    kept_code.keep(function, Path(outlines.__file__))
    small = np.random.default_rng(1).random((2, 9, 9), dtype=np.float32)
    function(small, outlines._axis(9, 30), outlines._axis(9, 20), np.float32(0.5))
    script = (
        "import numpy, workers.inference.shapes.outlines as it\n"
        "print(it.encode(numpy.random.default_rng(1).random((2, 9, 9), dtype=numpy.float32), 20, 30, 0.5))\n"
        "others = [each for each in vars(it).values() if hasattr(each, 'py_func') and each is not it._encode]\n"
        "print([other.signatures for other in others])\n"
        "print(list(it._encode.stats.cache_misses.values()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=PROJECT)

    found, compiled, misses = done.stdout.splitlines()
    assert found == str(outlines.encode(small, 20, 30, 0.5))
    assert (compiled, misses) == (str([[]] * 6), "[]")
    assert len(list(folder.iterdir())) == 1
