"""The first moments of every command: Ctrl-C, SIGTERM and folders that hide our packages, with real processes."""

import gc
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import pytest

from sam3_start import INTERRUPTED, QuickImports, Stopping
from tests.terminals import PATIENCE, wait_until
from workers.fleet.valkey import free_port

REPOSITORY = Path(__file__).parents[1]
SCRIPTS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]
COMMANDS = {  # those that somebody waits for, and what each is given
    "sam3-run": ("images", "--prompt", "red circle", "--model", "tiny", "--gpus", "cpu", "-o", "out"),
    "sam3-worker": ("--gpus", "cpu"),
    "sam3-enqueue": ("--csv", "images.csv", "--prompt", "square", "--model", "tiny"),
    "sam3-status": (),
    "sam3": ("status",),
    "sam3-broker": ("--port", "PORT"),
    "sam3-flower": ("--port", "PORT"),
}
# How a command may also end: it was quicker than the signal, or what it serves was up and ends in order.
OTHERWISE = {
    "sam3-run": (1, 130),  # the two images are none; asked to stop while it segments, it tells how to go on
    "sam3-worker": (0,),
    "sam3-enqueue": (0,),
    "sam3-status": (0, 3),
    "sam3": (0, 3),
    "sam3-broker": (0,),
    "sam3-flower": (0,),
}
Start = Callable[..., "subprocess.Popen[str]"]


def script(name: str) -> list[str]:
    """The command as pip installs it."""
    module, function = SCRIPTS[name].split(":")
    return [sys.executable, "-c", f"import sys; from {module} import {function}; sys.argv[0] = {name!r}; {function}()"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where commands work and keep all that is theirs."""
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def start(home: Path) -> Start:
    """Start a command in a group of its own, in a folder with two images."""
    for number in range(2):
        (home / "images").mkdir(exist_ok=True)
        (home / "images" / f"{number}.png").write_bytes(b"no picture")
    (home / "images.csv").write_text("path\nimages/0.png\nimages/1.png\n")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SAM3_")}

    def started(name: str, *given: str, before: tuple[str, ...] = (), **variables: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*before, *script(name), *given],
            cwd=home,
            env=clean | {"PYTHONPATH": str(REPOSITORY), "SAM3_STATE_DIR": str(home / "state"), **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    return started


def left_of(folder: Path) -> list[str]:
    """Processes that work below the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and Path(os.readlink(entry / "cwd")).is_relative_to(folder):
                found.append((entry / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def runs_our_code(process: "subprocess.Popen[str]") -> bool:
    """Whether Python has got as far as to our first handler; what comes before is not ours."""
    if process.poll() is not None:
        return True
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")), "0")
    return bool(int(caught, 16) & (1 << (signal.SIGTERM - 1)))


INT, TERM = signal.SIGINT, signal.SIGTERM
DELAYS = (0, 0.1, 0.25, 0.5, 1, 2.5)  # s; they only spread the signals over imports, schema, broker, nodes and model
MOST = ("sam3-run", "sam3-worker")  # those that start most get both signals at each moment, the others one of the two
SIGNALS = {f"{name} {number.name}": (name, [number] * 6) for name in MOST for number in (INT, TERM)}
SIGNALS |= {name: (name, [INT, TERM] * 3) for name in COMMANDS if name not in MOST}
QUICK = ("sam3-run SIGINT", "sam3-worker SIGTERM")


@pytest.mark.parametrize(
    ("name", "numbers"),
    [pytest.param(*SIGNALS[one], marks=() if one in QUICK else pytest.mark.long, id=one) for one in SIGNALS],
)
def test_a_signal_at_any_moment_ends_a_command_quietly_and_leaves_nothing_behind(
    start: Start, home: Path, broker_url: str, name: str, numbers: list[signal.Signals]
) -> None:
    """From our first line on."""
    for delay, number in zip(DELAYS, numbers, strict=True):
        given = [argument.replace("PORT", str(free_port())) for argument in COMMANDS[name]]
        process = start(name, *given, SAM3_BROKER_URL=broker_url)
        wait_until(lambda: runs_our_code(process), "our first line")  # noqa: B023
        time.sleep(delay)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        said, _ = process.communicate(timeout=PATIENCE)
        assert "Traceback" not in said
        assert "Exception ignored" not in said
        # The signal itself ends a process that Python takes down already; a shell shows the same code then.
        assert process.returncode in (128 + number, -number, *OTHERWISE[name]), (delay, said)
        wait_until(lambda: not left_of(home), "the end of all that it started")


def test_what_was_ignored_when_we_were_started_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        stopping = Stopping()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
        stopping.begin()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        stopping.end(INTERRUPTED)
        assert stopping.code == 128 + signal.SIGTERM
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_no_file_gets_the_number_of_a_standard_one_that_was_closed() -> None:
    """Whoever prints there would print into the file."""
    script = (
        "import os, sys; from types import SimpleNamespace as Has; from sam3_start import Program\n"
        "command = Has(main=lambda: sys.exit(os.open('/', os.O_RDONLY)))\n"
        "sys.modules['any'] = Has(command=command); os.closerange(0, 3); Program('any:command')()"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY).returncode > 2


class Gone:
    """An object whose end raises an error, which Python can only show."""

    def __del__(self) -> None:
        raise TypeError("weak object has gone away")


def test_errors_that_cannot_be_raised_are_shown_but_not_after_an_interrupt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    try:
        stopping = Stopping()
        stopping.begin()
        Gone()
        assert "weak object has gone away" in capsys.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        Gone()
        assert capsys.readouterr().err == ""
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("package", ["db", "producer", "workers"])
def test_a_folder_before_ours_in_pythonpath_is_named_in_one_line(start: Start, home: Path, package: str) -> None:
    (home / package).mkdir()
    (home / package / "__init__.py").write_text("raise SystemExit('taken')")
    process = start("sam3-status", "--json", PYTHONPATH=f".:{REPOSITORY}")
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    hides = f"{home / package} hides our package {package}"
    assert said == f"sam3-status: error: {hides}; start it without that: env -u PYTHONPATH sam3-status --json\n"


def test_a_folder_without_code_hides_nothing(start: Start, home: Path) -> None:
    (home / "db").mkdir()
    process = start("sam3-db", "--help", PYTHONPATH=f".:{REPOSITORY}")
    said, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, said.partition(" [")[0]) == (0, "Usage: sam3-db")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes process namespaces everywhere")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_first_process_of_a_container_ends_at_a_signal(start: Start, number: signal.Signals, code: int) -> None:
    """As `docker stop` sends it; the kernel drops what such a process has no handler for."""
    new = ("unshare", "--pid", "--fork", "--mount-proc")
    if subprocess.run([*new, "true"], capture_output=True).returncode:
        pytest.skip("no process namespaces here")
    outside = start("sam3-status", "--watch", before=new, SAM3_DATABASE_URL="sqlite:///new.db")
    children = Path(f"/proc/{outside.pid}/task/{outside.pid}/children")
    wait_until(lambda: children.read_text().split(), "the first process")
    first = int(children.read_text().split()[0])
    wait_until(lambda: Path(f"/proc/{first}/task/{first}/children").read_text().split(), "its child")
    os.kill(first, number)
    said, _ = outside.communicate(timeout=PATIENCE)
    assert outside.returncode in (code, 3), said  # 3: it had said already that there is no database
    assert "Traceback" not in said


@pytest.fixture
def frozen() -> Iterator[Callable[[], bool]]:
    """Whether Python has stopped looking for garbage among what there is; after the test it is as before."""
    before = gc.get_freeze_count()
    yield lambda: gc.get_freeze_count() > before
    gc.unfreeze()
    if before:
        gc.freeze()
    gc.enable()


@pytest.mark.parametrize("collects", [True, False])
def test_no_garbage_is_looked_for_among_what_is_imported_then_or_later(
    collects: bool, frozen: Callable[[], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    (gc.enable if collects else gc.disable)()
    with QuickImports():
        inside = gc.isenabled()
        monkeypatch.setitem(sys.modules, "new", ModuleType("new"))

    assert (inside, gc.isenabled(), frozen()) == (False, collects, True)


def test_what_may_become_garbage_is_still_looked_at_when_all_was_imported_before(frozen: Callable[[], bool]) -> None:
    with QuickImports():
        import sam3_start  # noqa: F401

    assert not frozen()
