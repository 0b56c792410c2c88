"""Images that take their process with them: they are found, and all others finish."""

from pathlib import Path

import pytest

from db.session import Sessions
from tests.db import scenario
from tests.fakes import BREAKS_GPU, HANGS, HANGS_DECODER, HUNGRY, KILLS, RAISES, TOO_LARGE
from tests.integration.faults import farm
from tests.terminals import Terminal

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.mark.usefixtures("real_programs")
def test_one_image_that_kills_its_process_fails_alone(here: Terminal, sessions: Sessions, tmp_path: Path) -> None:
    """A batch of four holds it: 2 (1 + log2 4) deaths at most, and one for the attempt before the split.

    Each is a real process that Celery spawns, no fork of the tests.
    """
    run_id = farm.load(sessions, tmp_path / "in", 40, {22: KILLS}, chunk_size=20)
    worker = farm.start(here, "one", "--until-empty")
    said = worker.wait()
    farm.check(sessions, run_id, failed={22: "crashed"})
    assert 2 <= farm.crashes(said) <= 2 * (1 + 2) + 1
    image = next(image for image in scenario.images(sessions, run_id) if image.row == 22)
    assert image.error == "the worker process died twice while it had this image in hand"


def test_two_such_images_first_and_last_of_their_chunk_are_both_found(
    here: Terminal, sessions: Sessions, tmp_path: Path
) -> None:
    """In batches of two, as each death costs the start of a process."""
    run_id = farm.load(sessions, tmp_path / "in", 12, {1: KILLS, 12: KILLS}, chunk_size=12)
    farm.start(here, "one", "--until-empty", "--batch-size", "2").wait()
    farm.check(sessions, run_id, failed={1: "crashed", 12: "crashed"})


def test_an_image_that_breaks_the_gpu_is_found_like_one_that_kills(
    here: Terminal, sessions: Sessions, tmp_path: Path
) -> None:
    """Its class of error is all that tells: the process cannot be trusted with another image."""
    run_id = farm.load(sessions, tmp_path / "in", 8, {3: BREAKS_GPU}, chunk_size=8)
    said = farm.start(here, "one", "--until-empty", "--batch-size", "2").wait()
    farm.check(sessions, run_id, failed={3: "crashed"})
    assert "this process cannot go on: CUDA error" in said


@pytest.mark.usefixtures("nobody_dies")
@pytest.mark.parametrize("rows", [[22], [5, 6, 7, 8], [1, 21, 22, 40]], ids=str)
def test_images_that_make_the_model_raise_fail_alone_in_one_attempt_and_so_again_after_a_retry(
    here: Terminal, sessions: Sessions, tmp_path: Path, failing_attempts: set[str], rows: list[int]
) -> None:
    failing_attempts.add("Unforeseen")
    run_id = farm.load(sessions, tmp_path / "in", 40, dict.fromkeys(rows, RAISES), chunk_size=20)
    said = farm.start(here, "one", "--until-empty").wait()
    farm.check(sessions, run_id, failed=dict.fromkeys(rows, "internal"))
    assert {chunk.fence for chunk in scenario.chunks(sessions, run_id)} == {1}
    assert farm.crashes(said) == 0
    reason = "the model raises for it, even alone: Unforeseen: an odd image"
    assert {image.error for image in scenario.images(sessions, run_id) if image.row in rows} == {reason}
    here.run("sam3-retry", "faces")
    farm.start(here, "one", "--until-empty").wait()
    images = scenario.images(sessions, run_id)
    assert {image.row: image.error for image in images if image.state == "failed"} == dict.fromkeys(rows, reason)
    assert {image.state for image in images if image.row not in rows} == {"done"}
    assert {chunk.fence for chunk in scenario.chunks(sessions, run_id)} == {1}


def test_a_model_that_raises_for_everything_fails_no_image_but_its_process(
    here: Terminal, sessions: Sessions, tmp_path: Path, failing_attempts: set[str]
) -> None:
    """Each process is good for some images; the next one loads the model anew and goes on."""
    failing_attempts |= {"Unforeseen", "BrokenModel"}
    run_id = farm.load(sessions, tmp_path / "in", 24, chunk_size=12)
    here.environment |= {"SAM3_SEGMENTER": "tests.fakes:BreaksLater", "FAKE_GOOD_IMAGES": "17"}
    said = farm.start(here, "one", "--until-empty").wait()
    farm.check(sessions, run_id)
    assert "this process cannot go on: the model no longer passes its self-test" in said


@pytest.mark.usefixtures("nobody_dies")
def test_an_image_that_does_not_fit_into_memory_fails_alone_without_a_crash(
    here: Terminal, sessions: Sessions, tmp_path: Path
) -> None:
    """What a GPU's allocator says."""
    run_id = farm.load(sessions, tmp_path / "in", 12, {7: TOO_LARGE}, chunk_size=12)
    said = farm.start(here, "one", "--until-empty").wait()
    farm.check(sessions, run_id, failed={7: "out_of_memory"})
    assert farm.crashes(said) == 0
    assert "out of memory with 4 images in the forward pass; now at most 2" in said
    assert scenario.chunks(sessions, run_id)[0].fence == 1


@pytest.mark.usefixtures("nobody_dies")
def test_an_image_that_takes_more_memory_than_the_process_may_have_fails_alone(
    here: Terminal, sessions: Sessions, tmp_path: Path
) -> None:
    """A process that the kernel ends for its memory dies of SIGKILL, as above."""
    run_id = farm.load(sessions, tmp_path / "in", 12, {7: HUNGRY}, chunk_size=12)
    said = farm.start(here, "one", "--until-empty", FAKE_MEMORY=str(2 << 30)).wait()
    farm.check(sessions, run_id, failed={7: "out_of_memory"})
    assert farm.crashes(said) == 0


def test_an_image_that_hangs_its_process_loses_it_the_lease_and_then_itself_its_turn(
    here: Terminal, sessions: Sessions, tmp_path: Path
) -> None:
    """Alone in its chunk: each hang costs stall, lease and the launcher's patience."""
    run_id = farm.load(sessions, tmp_path / "in", 5, {5: HANGS}, chunk_size=4)
    said = farm.start(
        here, "one", "--until-empty", SAM3_STALL_SECONDS="1", SAM3_LEASE_SECONDS="1.5", SAM3_HEARTBEAT_SECONDS="0.3"
    ).wait()
    images = scenario.images(sessions, run_id)
    assert [image.state for image in images] == ["done"] * 4 + ["failed"]
    assert images[4].error_class in ("gave_up", "crashed")
    assert "hangs: its process" in said


def test_decoders_that_hang_do_not_gather_and_cost_no_image_but_their_own(
    here: Terminal, sessions: Sessions, tmp_path: Path
) -> None:
    """Three that hang, and the process hands back the rest of its chunk, and ends in order."""
    rows = [1, 2, 3, 10, 11, 12, 20]
    run_id = farm.load(sessions, tmp_path / "in", 32, dict.fromkeys(rows, HANGS_DECODER), chunk_size=32)
    said = farm.start(here, "one", "--until-empty", SAM3_DECODE_SECONDS="3").wait()
    farm.check(sessions, run_id, failed=dict.fromkeys(rows, "timeout"))
    assert farm.crashes(said) == 0
    assert said.count("ended to get rid of decoders that hang; starting it again") == 2
    assert "fault 1 of" not in said
    assert scenario.chunks(sessions, run_id)[0].fence == 3
