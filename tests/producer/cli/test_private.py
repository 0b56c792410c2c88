"""What only its user needs is made for nobody else; results are not."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.terminals import Terminal, wait_until
from tests.workers import runs


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """The usual one, by which others may look."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def modes_below(folder: Path) -> dict[str, str]:
    """Of everything that others may look into."""
    paths = [folder, *folder.rglob("*")]
    return {str(path.relative_to(folder)): oct(mode(path)) for path in paths if mode(path) & 0o077}


def test_state_is_for_its_user_alone_and_results_are_for_others(terminal: Terminal, tmp_path: Path) -> None:
    runs.pictures(terminal.home / "photos", 3)
    del terminal.environment["SAM3_STATE_DIR"]
    terminal.run("sam3-run", "photos", "--prompt", "person", "-o", "out", "--gpus", "cpu")
    out = terminal.home / "out"
    assert (out / ".sam3" / "sam3.db").is_file()
    assert (out / ".sam3" / "logs" / "cpu0.log").is_file()
    assert modes_below(out / ".sam3") == {}
    assert mode(out / "run.yaml") == 0o600
    assert mode(out) == 0o755
    assert mode(out / "results.csv") == 0o644


def test_the_database_of_sam3_enqueue_and_what_stands_beside_it_are_for_its_user_alone(
    terminal: Terminal, broker_url: str
) -> None:
    runs.pictures(terminal.home, 3)
    (terminal.home / "images.csv").write_text("path\n0000.png\n0001.png\n")
    terminal.environment |= {"SAM3_STATE_DIR": str(terminal.home / "a" / "state"), "SAM3_BROKER_URL": broker_url}
    terminal.run("sam3-enqueue", "--csv", "images.csv", "--prompt", "person")
    worker = terminal.start("sam3-worker", "--gpus", "cpu")
    state = terminal.home / "a" / "state"
    wait_until(lambda: "segmented" in worker.output(), "the run")
    assert {path.name for path in state.iterdir()} >= {"sam3.db", "sam3.db-wal", "sam3.db-shm", "locks", "nodes"}
    assert modes_below(terminal.home / "a") == {}


def test_a_stricter_umask_stays_and_shared_state_follows_it(terminal: Terminal, broker_url: str) -> None:
    runs.pictures(terminal.home, 2)
    (terminal.home / "images.csv").write_text("path\n0000.png\n")
    terminal.environment |= {"SAM3_BROKER_URL": broker_url, "SAM3_SHARED": "1"}
    given = ("sam3-enqueue", "--csv", "images.csv", "--prompt", "person")
    for umask, folder, file in ((0o002, 0o775, 0o664), (0o027, 0o750, 0o640), (0o077, 0o700, 0o600)):
        os.umask(umask)
        state = terminal.home / f"state-{umask:o}"
        terminal.run(*given, SAM3_STATE_DIR=str(state))
        assert (mode(state), mode(state / "sam3.db")) == (folder, file)


def test_what_is_there_already_keeps_its_mode(terminal: Terminal, broker_url: str) -> None:
    runs.pictures(terminal.home, 2)
    (terminal.home / "images.csv").write_text("path\n0000.png\n")
    state = terminal.home / "state"
    state.mkdir(mode=0o755)
    terminal.run(
        *("sam3-enqueue", "--csv", "images.csv", "--prompt", "person"),
        SAM3_BROKER_URL=broker_url,
        SAM3_STATE_DIR=str(state),
    )
    assert (mode(state), mode(state / "sam3.db")) == (0o755, 0o600)
