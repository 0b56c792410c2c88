"""Who is alive, as the kernel tells it, and processes that end with their parent."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from db.presence import Process
from tests.integration.hidden import another_user
from tests.terminals import wait_until
from workers.fleet.processes import Fate, fate, is_dead, this_process, with_parent

PATIENT = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def other() -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(PATIENT)
    yield process
    process.kill()
    process.wait()


def identity(pid: int) -> Process:
    """What the process itself would have written into the database."""
    started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return replace(this_process(), pid=pid, started=int(started))


def exists(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def test_a_process_knows_itself_and_is_alive() -> None:
    me = this_process()
    assert me.pid == os.getpid()
    assert me.started > 0
    assert me.boot
    assert not is_dead(me)


def test_a_running_process_is_alive_and_a_killed_one_is_dead(other: "subprocess.Popen[bytes]") -> None:
    process = identity(other.pid)
    assert not is_dead(process)
    other.kill()
    other.wait()
    assert is_dead(process)


def test_a_killed_process_is_dead_even_before_its_parent_buries_it(other: "subprocess.Popen[bytes]") -> None:
    process = identity(other.pid)
    other.kill()
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays a zombie
    assert Path(f"/proc/{other.pid}").exists()
    assert is_dead(process)


def test_a_stopped_process_is_alive(other: "subprocess.Popen[bytes]") -> None:
    process = identity(other.pid)
    other.send_signal(signal.SIGSTOP)
    assert not is_dead(process)


def test_a_number_that_was_given_to_a_later_process_does_not_keep_the_earlier_one_alive() -> None:
    me = this_process()
    assert is_dead(replace(me, started=me.started - 1))


def test_nothing_is_said_about_processes_of_another_host_or_another_start() -> None:
    gone = replace(this_process(), started=1)
    assert is_dead(gone)
    assert not is_dead(replace(gone, host="elsewhere"))
    assert not is_dead(replace(gone, boot="an earlier start"))


def judged(within: Sequence[str], *processes: Process) -> list[str]:
    """What a process that is started so says of these."""
    script = (
        "import json, sys; from db.presence import Process; from workers.fleet.processes import fate\n"
        "print(*(fate(Process(*one)).name for one in json.loads(sys.argv[1])))"
    )
    asked = json.dumps([[one.host, one.boot, one.pid, one.started] for one in processes])
    done = subprocess.run(
        [*within, sys.executable, "-c", script, asked], capture_output=True, text=True, check=True, cwd="/"
    )
    return done.stdout.split()


def free_number() -> int:
    """Of a process that has ended and was buried."""
    process = subprocess.Popen(["/bin/true"])
    process.wait()
    return process.pid


def test_a_process_of_another_user_that_proc_hides_is_unknown_and_one_that_is_gone_is_dead(
    other: "subprocess.Popen[bytes]",
) -> None:
    lives, gone = identity(other.pid), replace(this_process(), pid=free_number())
    assert judged(another_user(), lives, gone) == ["UNKNOWN", "DEAD"]
    assert judged((), lives, gone) == ["ALIVE", "DEAD"]


def container(*flags: str) -> tuple[str, ...]:
    """What stands before a command to run it in new namespaces of this machine, under the same host name."""
    within = ("unshare", *flags, "--fork", "--kill-child")
    try:
        subprocess.run([*within, "/bin/true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        if "SAM3_REQUIRE_NETNS" in os.environ:
            raise
        pytest.skip(f"no such namespaces here ({error}): they need root and unshare")
    return within


@pytest.mark.parametrize("flags", [("--pid", "--mount-proc"), ("--time", "--boottime", "1000")], ids=["pids", "time"])
def test_nothing_is_said_about_processes_of_another_container(
    other: "subprocess.Popen[bytes]", flags: tuple[str, ...]
) -> None:
    """The same number may be another process's there, and the same process may have begun at another time."""
    processes = identity(other.pid), replace(this_process(), pid=free_number()), replace(this_process(), started=1)
    assert judged(container(*flags), *processes) == ["UNKNOWN"] * 3


def test_nothing_is_said_where_proc_shows_the_processes_of_another_namespace(
    other: "subprocess.Popen[bytes]",
) -> None:
    """A container's numbers, looked up in its machine's /proc, are those of strangers: its own too."""
    inside = container("--pid")
    script = (
        "from workers.fleet.processes import *; me = this_process(); print(repr(me.boot), me.started, fate(me).name)"
    )
    done = subprocess.run([*inside, sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.split() == ["''", "0", "UNKNOWN"]
    assert judged(inside, identity(other.pid), replace(this_process(), started=1)) == ["UNKNOWN", "UNKNOWN"]


def test_nothing_is_said_of_a_process_that_could_not_tell_its_own_start() -> None:
    assert fate(replace(this_process(), started=0)) is Fate.UNKNOWN


def test_a_name_with_brackets_and_blanks_does_not_confuse_the_reader(tmp_path: Path) -> None:
    program = tmp_path / "s) R 1 (l"
    program.symlink_to("/bin/sleep")
    process = subprocess.Popen([program, "60"])
    try:
        wait_until(lambda: "R 1" in Path(f"/proc/{process.pid}/stat").read_text(), "the program")
        assert not is_dead(identity(process.pid))
    finally:
        process.kill()
        process.wait()


def test_a_child_with_parent_dies_when_its_parent_is_killed(tmp_path: Path) -> None:
    script = """
import subprocess, sys, time
from workers.fleet.processes import with_parent
child = subprocess.Popen(with_parent([sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]))
print(child.pid, flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    assert parent.stdout is not None
    with parent.stdout:
        said = {parent.stdout.readline().strip(), parent.stdout.readline().strip()}
    [child] = [int(line) for line in said - {"up"}]
    assert exists(child)
    parent.kill()
    parent.wait()
    wait_until(lambda: not exists(child), "the end of the child")


def test_a_child_whose_parent_is_gone_already_does_not_start(tmp_path: Path) -> None:
    mark = tmp_path / "started"
    command = with_parent([sys.executable, "-c", f"open({str(mark)!r}, 'w')"])
    command[command.index(str(os.getpid()))] = "1"  # as if the parent had been another one
    assert subprocess.run(command, check=False).returncode == 1
    assert not mark.exists()


def test_a_command_with_parent_keeps_its_arguments_and_its_exit_code() -> None:
    script = "import sys; print(sys.argv[1:]); sys.exit(7)"
    done = subprocess.run(
        with_parent([sys.executable, "-c", script, "a b", "--flag"]), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (7, "['a b', '--flag']\n")
