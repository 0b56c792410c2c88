"""Of the processes that share a folder for compiled kernels, one makes them and the others wait."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from workers.inference.kept_kernels import CACHE_FOLDER, alone

HOLDS = """
import sys
from workers.inference.kept_kernels import alone
with alone("kernels"):
    print("inside", flush=True)
    sys.stdin.readline()
    open(sys.argv[1], "a").write("first\\n")
"""


def test_of_two_processes_one_compiles_and_the_other_one_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_FOLDER, str(tmp_path / "compiled"))
    order = tmp_path / "order"

    def second() -> None:
        with alone("kernels"), order.open("a") as file:
            file.write("second\n")

    command = [sys.executable, "-c", HOLDS, str(order)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdin is not None
        assert first.stdout is not None
        assert first.stdout.readline() == "inside\n"
        with pytest.raises(Timeout):
            FileLock(tmp_path / "compiled" / "sam3.lock").acquire(timeout=0)
        waits = threading.Thread(target=second)
        waits.start()
        first.stdin.write("\n")
        first.stdin.close()
        waits.join()
    assert order.read_text() == "first\nsecond\n"


def test_what_was_compiled_before_is_taken_from_the_folder_without_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_FOLDER, str(tmp_path))
    with pytest.raises(RuntimeError), alone("kernels"):
        raise RuntimeError  # so these are not made
    with alone("kernels"), pytest.raises(Timeout):
        FileLock(tmp_path / "sam3.lock").acquire(timeout=0)
    with alone("kernels"), FileLock(tmp_path / "sam3.lock").acquire(timeout=0):
        pass
