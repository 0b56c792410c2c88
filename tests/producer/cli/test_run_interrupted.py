"""A `sam3-run` that is interrupted, killed or cancelled keeps what is done, and the same command goes on."""

import os
import shlex
import shutil
import signal
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image

from tests.producer.cli.whole_runs import FAKE, SLOW, squares
from tests.terminals import Background, Terminal, wait_until


def segmented(here: Terminal, running: Background) -> int:
    if not (here.home / "out" / "run.yaml").exists():
        return 0
    assert running.process.poll() is None, running.output()
    return int(here.json("sam3-status", "out")["images"]["segmented"])


@pytest.mark.long
def test_interrupted_or_killed_it_keeps_what_is_done_and_the_same_command_goes_on(here: Terminal) -> None:
    squares(here, 160)
    command = ("sam3-run", "photos", *FAKE, "-o", "out", "--batch-size", "2", "--chunk-size", "8")

    running = here.start(*command, **SLOW)
    wait_until(lambda: segmented(here, running) >= 2, "the first batch")
    second = here.run(*command, code=2)
    assert second.stderr.startswith("sam3-run: error: another sam3-run works with ")
    running.interrupt()
    said = running.wait(code=130).splitlines()

    assert "stopping: the batch in hand is finished first; once more to stop at once" in said
    assert said[-1] == "Next: the same command again goes on from here"
    status = here.json("sam3-status", "out")
    kept = status["images"]["segmented"]
    assert 2 <= kept < 160
    assert status["chunks"]["running"] == 0
    assert status["waiting_for"] == "no worker is running: the same sam3-run command goes on"
    assert not (here.home / "out" / "results.csv").exists()

    running = here.start(*command, **SLOW)
    wait_until(lambda: segmented(here, running) > kept, "one more batch")
    running.kill_group()

    assert "  160 segmented, 0 empty; 160 instances" in here.run(*command).stdout


@pytest.mark.long
def test_a_run_that_was_cancelled_ends_with_1_and_the_command_that_it_names_goes_on(here: Terminal) -> None:
    squares(here, 200)
    running = here.start("sam3-run", "photos", *FAKE, "-o", "out", "--batch-size", "2", "--chunk-size", "4", **SLOW)
    wait_until(lambda: segmented(here, running) >= 2, "the first batch")
    here.run("sam3-cancel", "out")
    running.wait(code=1)

    again = here.run("sam3-run", "photos", *FAKE, "-o", "out", code=1)
    cancelled = here.json("sam3-status", "out", code=1)["images"]["cancelled"]
    assert 0 < cancelled <= 198
    head = f"run photos: cancelled with {cancelled} image{'s' * (cancelled > 1)} to go; 200 images"
    assert again.stdout.splitlines()[0] == head
    assert head.rpartition(";")[0] in running.output()
    assert "nothing left to do" not in again.stdout + running.output()

    hint = again.stderr.splitlines()[-1].removeprefix("Next: ")
    on = here.run(*shlex.split(hint))
    assert f"{cancelled} image{'s' * (cancelled > 1)} to try again" in on.stderr
    assert "  200 segmented, 0 empty; 200 instances" in on.stdout


def masks(here: Terminal) -> dict[str, int]:
    """The inode of each: another one means that it was written again."""
    return {path.name: path.stat().st_ino for path in (here.home / "out" / "masks").rglob("*.png")}


def helpers_of(pid: int) -> list[int]:
    """The processes that draw masks for a command."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"producer.results.files.helpers" in (status.parent / "cmdline").read_bytes():
                found.append(int(status.parent.name))
    return found


@pytest.mark.long
def test_masks_and_preview_are_there_before_the_run_is_over_and_are_not_written_again(here: Terminal) -> None:
    squares(here, 40)
    command = ("sam3-run", "photos", *FAKE, "-o", "out", "--batch-size", "2", "--chunk-size", "8")
    running = here.start(*command, FAKE_SECONDS_PER_IMAGE="1")
    wait_until(lambda: len(masks(here)) > 8 and helpers_of(running.process.pid), "a helper that draws masks")
    wait_until(lambda: (here.home / "out" / "preview.jpg").exists(), "the first preview")
    assert not (here.home / "out" / "results.csv").exists(), "the run goes on"
    helpers = helpers_of(running.process.pid)
    running.process.kill()
    running.process.wait()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in helpers), "the end of the helpers")

    early = masks(here)
    assert "  40 segmented, 0 empty; 40 instances" in here.run(*command).stdout
    done = masks(here)
    assert len(done) == 40
    assert {name: done[name] for name in early} == early

    again = here.run(*command)
    assert "40 images, nothing left to do" in again.stdout
    assert masks(here) == done


def test_ctrl_c_before_the_first_image_says_how_to_go_on(here: Terminal) -> None:
    Image.new("RGB", (80, 60), "white").save(here.home / "photos" / "a.png")
    command = ("sam3-run", "photos", *FAKE, "-o", "out")
    running = here.start(*command)
    wait_until((here.home / "out" / ".sam3" / "sam3.db").exists, "a database")
    running.interrupt()
    assert running.wait(code=130).splitlines()[-1] == "Next: the same command again goes on from here"
    here.run(*command)
    assert (here.home / "out" / "results.csv").exists()


@pytest.mark.long
def test_ctrl_c_while_the_last_masks_are_written_says_how_to_go_on(here: Terminal) -> None:
    for number in range(60):
        Image.new("RGB", (1600, 1200), "white").save(here.home / "photos" / f"{number:03}.png", compress_level=1)
    command = ("sam3-run", "photos", *FAKE, "-o", "out")
    here.run(*command)
    shutil.rmtree(here.home / "out" / "masks")
    running = here.start(*command)
    wait_until(lambda: helpers_of(running.process.pid), "a process that draws")
    [helper, *_] = helpers_of(running.process.pid)
    os.kill(helper, signal.SIGSTOP)  # so that it cannot be over before the signal comes
    running.interrupt()
    os.kill(helper, signal.SIGCONT)
    assert running.wait(code=130).splitlines()[-1] == "Next: the same command again goes on from here"
    assert not helpers_of(running.process.pid)
    early = masks(here)

    assert "60 segmented" in here.run(*command).stdout
    done = masks(here)
    assert len(done) == 60
    assert {name: done[name] for name in early} == early
