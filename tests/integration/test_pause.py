"""A pause that holds whatever is restarted, and a `sam3-run` that is paused: real workers, brokers and commands."""

from pathlib import Path

import pytest
import redis
from PIL import Image

from db.session import Sessions
from tests.terminals import Terminal, wait_until
from tests.workers import runs

pytestmark = pytest.mark.long


def pictures(here: Terminal, count: int) -> Path:
    folder = here.home / "photos"
    folder.mkdir()
    for number in range(count):
        Image.new("RGB", (40, 40), "white").save(folder / f"{number:03}.png")
    return folder


def segmented(here: Terminal) -> int:
    if not (here.home / "out" / "run.yaml").exists():
        return 0
    return int(here.json("sam3-status", "out")["images"]["segmented"])


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_pause_holds_while_workers_and_the_broker_are_started_anew(
    here: Terminal, sessions: Sessions, broker_url: str
) -> None:
    pictures(here, 24)
    (here.home / "faces.csv").write_text("path\n" + "".join(f"photos/{number:03}.png\n" for number in range(24)))
    here.run("sam3-enqueue", "--csv", "faces.csv", "--prompt", "person", "--chunk-size", "12")
    worker = here.start("sam3-worker", "--gpus", "cpu", FAKE_SECONDS_PER_IMAGE="0.3")
    wait_until(lambda: runs.results(sessions), "the first batch")
    here.run("sam3", "pause", "faces")
    wait_until(lambda: here.json("sam3-status", "faces")["chunks"]["running"] == 0, "the end of the batches in hand")
    before = runs.results(sessions)
    assert before < 24
    worker.kill_group()
    with redis.Redis.from_url(broker_url) as client:
        client.flushall()

    told = here.start("sam3-worker", "--gpus", "cpu", "--until-empty").wait()

    assert "nothing left to do until a run goes on that is paused: sam3-resume faces" in told
    assert runs.results(sessions) == before
    here.run("sam3", "resume", "faces")
    here.start("sam3-worker", "--gpus", "cpu", "--until-empty").wait()
    assert here.json("sam3-status", "faces")["images"]["segmented"] == 24


def test_a_sam3_run_that_is_paused_ends_with_1_and_the_same_command_goes_on(terminal: Terminal) -> None:
    here = terminal
    del here.environment["SAM3_STATE_DIR"]
    pictures(here, 40)
    command = ("sam3-run", "photos", "--prompt", "person", "--model", "any/model", "--gpus", "cpu", "-o", "out")
    running = here.start(*command, "--batch-size", "2", "--chunk-size", "4", FAKE_SECONDS_PER_IMAGE="0.3")
    wait_until(lambda: segmented(here) >= 2, "the first batch")

    here.run("sam3", "pause", "out")

    told = running.wait(code=1).splitlines()
    assert told[-2].endswith(", paused by sam3-pause")
    assert told[-1] == "Next: the same command again goes on from here"
    again = here.run(*command)
    assert "run photos was paused by sam3-pause; it goes on" in again.stderr
    assert "  40 segmented, 0 empty; 40 instances" in again.stdout


def test_a_sam3_run_that_used_up_its_budget_says_why_and_the_same_command_goes_on(terminal: Terminal) -> None:
    here = terminal
    del here.environment["SAM3_STATE_DIR"]
    (here.home / "faces.csv").write_text("path\n" + "".join(f"photos/{number:03}.png\n" for number in range(30)))
    flags = (
        "--model",
        "any/model",
        "--gpus",
        "cpu",
        "--chunk-size",
        "5",
        "--no-check",
        "--stop-after",
        "20% failed of 10",
    )
    command = ("sam3-run", "faces.csv", "--prompt", "person", "-o", "out", *flags)

    *_, said, hint = here.run(*command, code=1).stderr.splitlines()

    assert (
        ", paused as 5 of the latest 5 images failed (--stop-after '20% failed of 10'); likely missing, 5 times" in said
    )
    assert (
        hint == "Next: the same command again goes on from here; with --retry-failed it tries the failed images first"
    )
    assert here.json("sam3-status", "out")["images"]["pending"] == 25
    pictures(here, 30)
    again = here.run(*command, "--retry-failed")
    assert "run faces was paused as 5 of the latest 5 images failed" in again.stderr
    assert "  30 segmented, 0 empty; 30 instances" in again.stdout
