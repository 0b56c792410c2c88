"""Nodes as processes: locks, restarts, stopping. Small programs stand for Celery here; real nodes are in
tests/integration."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.terminals import wait_until
from workers.errors import UsageError
from workers.fleet import launcher as module
from workers.fleet.gpus import Slot
from workers.fleet.launcher import HOPELESS_FAILURES, LONGEST_PAUSE_SECONDS, TOUCH_SECONDS, Launcher
from workers.settings import Settings

CPU0, CPU1 = Slot("cpu0", None), Slot("cpu1", None)
# Two processes in the group, as a Celery parent and its child; each writes its number.
WAITS = "echo $$ >> pids; sh -c 'echo $$ >> pids; exec sleep 60' & wait"
DEAF = "trap '' TERM; echo $$ >> pids; while :; do sleep 1; done"

Start = Callable[..., Launcher]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """A launcher whose nodes run a shell script."""
    started: list[Launcher] = []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))  # locks of GPUs that we do not have

    def begin(script: str = WAITS, *slots: Slot, say: Callable[[str], None] = print) -> Launcher:
        monkeypatch.setattr(module, "with_parent", lambda command: ["/bin/sh", "-c", script])
        settings = Settings(state_dir=tmp_path, database_url=f"sqlite:///{tmp_path}/sam3.db", batch_size=4)
        launcher = Launcher(settings, list(slots) or [CPU0], say, tmp_path / "logs")
        started.append(launcher)
        launcher.start()
        return launcher

    yield begin
    for launcher in started:
        launcher.kill()


def pids(tmp_path: Path, count: int) -> list[int]:
    """The numbers that the node's processes wrote, once all have."""
    file = tmp_path / "nodes" / "pids"
    wait_until(lambda: file.exists() and len(file.read_text().split()) == count, "the node")
    return [int(pid) for pid in file.read_text().split()]


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def test_a_slot_belongs_to_one_launcher_until_it_is_killed(start: Start) -> None:
    first = start(WAITS, CPU0)
    with pytest.raises(
        UsageError, match="cpu0 is in use by another sam3-worker or sam3-run of yours; stop it first; one"
    ):
        start(WAITS, CPU1, CPU0)
    assert first.running() == 1
    first.kill()
    assert start(WAITS, CPU1, CPU0).running() == 2  # cpu1 was given back too


def test_a_gpu_belongs_to_one_launcher_of_the_machine_whatever_its_state_folder(start: Start, tmp_path: Path) -> None:
    gpu = Slot("gpu0", "0")
    start(WAITS, gpu)
    elsewhere = Settings(state_dir=tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="gpu0 is in use"):
        Launcher(elsewhere, [gpu], print).start()
    other = Launcher(elsewhere, [CPU0], print)
    other.start()
    assert other.running() == 1
    other.kill()


def of_card(name: str, card: str) -> Slot:
    return Slot(name, card, card)


def test_one_gpu_is_one_gpu_by_whatever_number_a_process_knows_it(start: Start) -> None:
    start(WAITS, of_card("gpu6", "GPU-1f2e3d4c-aaaa"))
    with pytest.raises(UsageError, match="gpu0 is in use by another sam3-worker or sam3-run of yours; stop it first"):
        start(WAITS, of_card("gpu0", "GPU-1f2e3d4c-aaaa"))


def test_two_jobs_that_call_their_gpus_by_one_number_both_get_a_node_of_its_own_name(
    start: Start, tmp_path: Path
) -> None:
    said: list[str] = []
    start(WAITS, of_card("gpu0", "GPU-1f2e3d4c-aaaa"))
    second = start(WAITS, of_card("gpu0", "GPU-5a6b7c8d-bbbb"), say=said.append)
    assert second.running() == 1
    assert said == ["gpu0 is called gpu0-5a6b7c8d: this machine has another node of that name"]
    assert {log.name for log in (tmp_path / "logs").iterdir()} == {"gpu0.log", "gpu0-5a6b7c8d.log"}
    second.kill()
    assert start(WAITS, of_card("gpu0", "GPU-5a6b7c8d-bbbb")).running() == 1  # all locks of the second were given back


def test_slices_of_a_gpu_are_locked_one_by_one_and_no_name_of_a_driver_is_one_of_a_file(
    start: Start, tmp_path: Path
) -> None:
    old = "MIG-GPU-1f2e3d4c-aaaa/{}/0"
    start(WAITS, of_card("gpu0", old.format(7)), of_card("gpu0", old.format(8)), of_card("gpu2", "../../$HOME\nx"))
    locks = tmp_path / f"sam3-queue-{os.getuid()}"
    assert {lock.name for lock in locks.iterdir()} == {
        "MIG-GPU-1f2e3d4c-aaaa-7-0.lock", "MIG-GPU-1f2e3d4c-aaaa-8-0.lock", "-HOME-x.lock",
        "name-gpu0.lock", "name-gpu2.lock",
    }  # fmt: skip
    assert {log.name for log in (tmp_path / "logs").iterdir()} == {"gpu0.log", "gpu0-1f2e3d4c-8-0.log", "gpu2.log"}


def test_the_locks_of_a_run_of_weeks_look_used_to_what_cleans_the_machines_tmp(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = start(WAITS, of_card("gpu0", "GPU-1f2e3d4c-aaaa"))
    locks = list((tmp_path / f"sam3-queue-{os.getuid()}").iterdir())
    for lock in locks:
        os.utime(lock, (0, 0))
    launcher.tend()
    assert {lock.stat().st_mtime for lock in locks} == {0}
    later = time.monotonic() + TOUCH_SECONDS
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: later, sleep=time.sleep))
    launcher.tend()
    assert all(lock.stat().st_mtime > 0 for lock in locks)
    locks[0].unlink()
    launcher._touch()  # nothing to do about it


def test_a_node_is_told_its_slot_its_settings_and_its_gpu(start: Start, tmp_path: Path) -> None:
    launcher = start("env > env.$SAM3_NODE; pwd > pwd.$SAM3_NODE", CPU0, Slot("gpu6", "6"))
    wait_until(lambda: launcher.running() == 0, "the nodes")
    said = {}
    for node in ("cpu0", "gpu6"):
        lines = (tmp_path / "nodes" / f"env.{node}").read_text().splitlines()
        said[node] = dict(line.partition("=")[::2] for line in lines)
        assert (tmp_path / "nodes" / f"pwd.{node}").read_text().strip() == str(tmp_path / "nodes")
    assert (said["cpu0"]["SAM3_DEVICE"], said["cpu0"]["CUDA_VISIBLE_DEVICES"]) == ("cpu", "")
    assert (said["gpu6"]["SAM3_DEVICE"], said["gpu6"]["CUDA_VISIBLE_DEVICES"]) == ("cuda", "6")
    assert said["gpu6"]["SAM3_BATCH_SIZE"] == "4"
    assert said["gpu6"]["SAM3_DATABASE_URL"] == f"sqlite:///{tmp_path}/sam3.db"
    assert "SAM3_SEGMENTER" not in said["gpu6"]


def test_nodes_of_a_machine_share_compiled_kernels_and_one_compiles_them_on_all_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TORCHINDUCTOR_COMPILE_THREADS"):  # torch sets the first one
        monkeypatch.delenv(name, raising=False)
    settings = Settings(state_dir=tmp_path, cores=9)
    for given, folder in ((None, tmp_path / "compiled"), (tmp_path / "elsewhere", tmp_path / "elsewhere")):
        launcher = Launcher(settings, [CPU0, Slot("gpu6", "6")], print, compiled=given)
        for slot in (CPU0, Slot("gpu6", "6")):
            said = launcher._environment(slot)
            assert (said["TORCHINDUCTOR_CACHE_DIR"], said["TORCHINDUCTOR_COMPILE_THREADS"]) == (str(folder), "9")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/theirs")
    assert Launcher(settings, [CPU0], print)._environment(CPU0)["TORCHINDUCTOR_CACHE_DIR"] == "/theirs"


@pytest.mark.parametrize("said", [None, "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF"])
def test_memory_of_a_gpu_grows_in_place_unless_somebody_said_how_it_is_to(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str | None
) -> None:
    if said is not None:
        monkeypatch.setenv(said, "max_split_size_mb:512")
    launcher = start('env | grep "^PYTORCH" > "$SAM3_NODE"', Slot("gpu6", "6"))
    wait_until(lambda: launcher.running() == 0, "the node")
    expected = "PYTORCH_ALLOC_CONF=expandable_segments:True" if said is None else f"{said}=max_split_size_mb:512"
    assert (tmp_path / "nodes" / "gpu6").read_text() == f"{expected}\n"


def test_memory_does_not_grow_in_place_where_the_gpu_cannot(start: Start, tmp_path: Path) -> None:
    launcher = start('env | grep -c "^PYTORCH" > "$SAM3_NODE"', Slot("gpu6", "6", grows=False))
    wait_until(lambda: launcher.running() == 0, "the node")
    assert (tmp_path / "nodes" / "gpu6").read_text() == "0\n"


def test_nodes_share_the_cores(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAM3_CORES", "9")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    launcher = start('echo $SAM3_CORES $OMP_NUM_THREADS > "$SAM3_NODE"', CPU0, Slot("gpu6", "6"))
    wait_until(lambda: launcher.running() == 0, "the nodes")
    assert (tmp_path / "nodes" / "cpu0").read_text() == "4 4\n"
    assert (tmp_path / "nodes" / "gpu6").read_text() == "4 1\n"


def test_no_secret_is_on_the_command_line_of_a_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def keep(command: list[str]) -> list[str]:
        seen.append(command)
        return [sys.executable, "-c", ""]

    monkeypatch.setattr(module, "with_parent", keep)
    settings = Settings(
        state_dir=tmp_path, broker_url="redis://:canary@localhost/0", database_url="postgresql://sam3:canary@db/sam3"
    )
    launcher = Launcher(settings, [CPU0], print)
    launcher.start()
    launcher.kill()
    assert "canary" not in " ".join(seen[0])
    assert seen[0][-2:] == ["workers.node", "cpu0"]  # as `ps` shows it


def test_what_a_node_says_goes_to_its_own_log(start: Start, tmp_path: Path) -> None:
    launcher = start("echo to stdout; echo to stderr >&2")
    wait_until(lambda: launcher.running() == 0, "the node")
    assert (tmp_path / "logs" / "cpu0.log").read_text() == "to stdout\nto stderr\n"


def test_a_node_that_ends_is_started_again_after_a_pause_that_doubles(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    launcher = start("exit 1", say=said.append)
    clock = [time.monotonic()]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=time.sleep))
    for _ in range(8):
        while launcher.running():
            os.sched_yield()
        launcher.tend()
        launcher.tend()
        assert launcher.running() == 0, "started again without a pause"
        clock[0] += LONGEST_PAUSE_SECONDS
        launcher.tend()
    assert said[0] == "cpu0 ended (exit code 1); starting it again in 1 s"
    assert [int(line.split()[-2]) for line in said] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert launcher.failing()


def test_a_node_that_has_failed_for_days_is_still_started_again(start: Start) -> None:
    launcher = start("exit 1")
    launcher._nodes[0].failures = 5000
    wait_until(lambda: launcher.running() == 0, "the node")
    launcher.tend()
    assert launcher.failing()


def test_a_node_that_lived_long_is_started_again_at_once(start: Start, tmp_path: Path) -> None:
    said: list[str] = []
    launcher = start(WAITS, say=said.append)
    first, _ = pids(tmp_path, 2)
    launcher._nodes[0].started -= 61
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: launcher.running() == 0, "the end of the node")
    launcher.tend()
    assert said == ["cpu0 ended (signal 9); starting it again in 0 s"]
    assert launcher.running() == 1
    assert not launcher.failing()


def test_a_node_that_took_minutes_to_meet_three_faults_pauses_all_the_same(start: Start) -> None:
    said: list[str] = []
    launcher = start("exit 3", say=said.append)
    wait_until(lambda: launcher.running() == 0, "the node")
    launcher._nodes[0].started -= 120
    launcher._nodes[0].faults = HOPELESS_FAILURES
    launcher.tend()
    assert said == ["cpu0 ended (repeated faults, told above); starting it again in 32 s"]
    assert not launcher.failing()  # what surrounds it may get well again


def test_all_nodes_must_fail_before_a_launcher_is_hopeless(start: Start) -> None:
    launcher = start(WAITS, CPU0, CPU1)
    launcher._nodes[0].failures = HOPELESS_FAILURES
    assert not launcher.failing()


def test_draining_asks_the_whole_group_of_a_node(start: Start, tmp_path: Path) -> None:
    launcher = start(WAITS)
    both = pids(tmp_path, 2)
    launcher.drain()
    wait_until(lambda: all(map(gone, both)), "the end of both processes")
    assert launcher.running() == 0


def test_killing_ends_a_deaf_node_and_frees_its_slot(start: Start, tmp_path: Path) -> None:
    launcher = start(DEAF)
    [pid] = pids(tmp_path, 1)
    launcher.drain()
    assert launcher.running() == 1
    launcher.kill()
    assert gone(pid)
    assert launcher.running() == 0
    assert start(WAITS).running() == 1


def test_killing_returns_when_the_kernel_knows_no_process_of_the_node_any_more(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    killpg = os.killpg

    def dies_slowly(group: int, number: int) -> None:
        asked.append(number)
        if number:
            killpg(group, number)
        elif asked.count(0) == 3:
            raise ProcessLookupError

    launcher = start()
    monkeypatch.setattr(os, "killpg", dies_slowly)
    launcher.kill()
    assert asked == [signal.SIGKILL, 0, 0, 0]


def test_killing_waits_in_vain_for_no_more_than_a_moment(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GONE_SECONDS", 0.05)
    launcher = start()
    killpg = os.killpg
    monkeypatch.setattr(os, "killpg", lambda group, number: number and killpg(group, number))
    launcher.kill()
    assert launcher.running() == 0


def test_a_child_that_outlives_its_node_is_ended_before_the_node_starts_again(start: Start, tmp_path: Path) -> None:
    launcher = start(WAITS)
    parent, child = pids(tmp_path, 2)
    os.kill(parent, signal.SIGKILL)
    wait_until(lambda: launcher.running() == 0, "the end of the node")
    launcher.tend()
    wait_until(lambda: gone(child), "the end of the child")


def test_killing_ends_also_what_an_ended_node_left_behind(start: Start, tmp_path: Path) -> None:
    launcher = start(WAITS)
    parent, child = pids(tmp_path, 2)
    os.kill(parent, signal.SIGKILL)
    wait_until(lambda: launcher.running() == 0, "the end of the node")
    launcher.kill()
    wait_until(lambda: gone(child), "the end of the child")


def test_locks_are_not_put_where_somebody_else_could_have_put_links(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / f"sam3-queue-{os.getuid()}"
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError) as refused:
        start(WAITS, Slot("gpu0", "0"))
    assert str(refused.value) == f"{folder} is not a folder of yours: remove it, or set TMPDIR to another place"
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize(("flags", "warned"), [((), True), (("-W", module.ROOT_WARNING), False)])
def test_celerys_warning_to_root_is_left_out_since_we_take_json_only(flags: tuple[str, ...], warned: bool) -> None:
    """Celery's own check, in a process that believes to be root's."""
    check = "import os; os.getuid = os.geteuid = lambda: 0; import celery.platforms as p; p.check_privileges(['json'])"
    asked = subprocess.run([sys.executable, *flags, "-c", check], capture_output=True, text=True, check=True)
    assert ("superuser" in asked.stderr) is warned
