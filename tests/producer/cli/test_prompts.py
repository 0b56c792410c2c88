"""`--add-prompt` and `--drop-prompt`, as a person meets them."""

import csv
import json
import sqlite3
from pathlib import Path

import pytest
import yaml
from PIL import Image
from sqlalchemy import update

import sam3_queue
from db import named_leases
from db.models import Chunk, Run
from db.presence import Process
from db.prompts import change_prompts
from db.session import write
from producer.cli.enqueue import main as enqueue
from producer.cli.export import main as export
from producer.cli.retry import main as retry
from producer.cli.status import main as status
from tests.db import scenario
from tests.producer.cli.conftest import Shell
from tests.terminals import Terminal, wait_until

CSV = ("--csv", "faces.csv")
GIVEN = (*CSV, "--prompt", "person")
FAKE = ("--model", "any/model", "--gpus", "cpu")
SLOW = {"FAKE_SECONDS_PER_IMAGE": "0.25"}


@pytest.fixture
def faces(shell: Shell, broker: str) -> Shell:
    """Three images of one run, computed: two with somebody, one without."""
    (shell.home / "faces.csv").write_text("path\n0.jpg\n1.jpg\n2.jpg\n")
    shell(enqueue, *GIVEN)
    held = scenario.claim(shell.sessions, 1, 1)
    one, two, three = held.images
    scenario.commit(shell.sessions, held, [scenario.done(one, 0.9), scenario.done(two, 0.9), scenario.done(three)])
    return shell


def work_off(shell: Shell) -> None:
    """What the commands have queued is computed."""
    for chunk in scenario.chunks(shell.sessions, 1):
        if chunk.state == "queued":
            scenario.commit_all(shell.sessions, scenario.claim(shell.sessions, 1, chunk.id), 0.8)


def table(shell: Shell) -> list[dict[str, str]]:
    shell(export, "faces", "--format", "csv", "-o", "out.csv", "--partial", "--force")
    with (shell.home / "out.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_an_added_prompt_is_told_with_its_cost_and_computed_for_each_image(faces: Shell) -> None:
    write(faces.sessions, lambda session: session.execute(update(Chunk).values(waiting_seconds=6.0)))

    told = faces(enqueue, *GIVEN, "--add-prompt", "hat")

    assert told.err.splitlines() == [
        "3 images that are done go through the vision encoder again for hat: about 0.0017 worker hours, "
        "0:06 on one worker (2 s an image in run faces)",
        "run faces has hat now",
        "3 images to compute for prompts that were added",
        "Next: sam3-status faces --watch",
    ]
    assert scenario.states(faces.sessions, 1) == ["pending"] * 3
    waiting = table(faces)
    assert [row["sam3_status"] for row in waiting] == ["segmented", "segmented", "empty"]
    assert [row["person_instances"] for row in waiting] == ["1", "1", "0"]
    assert [row["hat_instances"] for row in waiting] == ["", "", ""]
    assert [row.status for row in sam3_queue.open_run("faces")] == ["segmented", "segmented", "empty"]

    work_off(faces)

    assert [row["hat_instances"] for row in table(faces)] == ["1", "1", "1"]
    assert sam3_queue.open_run("faces").prompts == ["person", "hat"]


@pytest.mark.parametrize("given", [GIVEN, CSV, (*GIVEN, "--prompt", "hat")])
def test_the_same_command_again_goes_on_and_adds_nothing_twice(faces: Shell, given: tuple[str, ...]) -> None:
    assert faces(enqueue, *given, "--add-prompt", "hat", "--json").json["adding"] == 3

    again = faces(enqueue, *given, "--add-prompt", "hat")
    assert again.err.splitlines()[0] == "run faces has these prompts already"
    work_off(faces)
    assert faces(enqueue, *given, "--add-prompt", "hat", "--json").json["adding"] == 0
    assert faces(enqueue, *GIVEN, "--prompt", "hat", "--json").json["already_done"] == 3


def test_the_old_command_goes_on_with_the_prompts_that_the_run_has_now(faces: Shell) -> None:
    faces(enqueue, *GIVEN, "--add-prompt", "hat")
    faces(enqueue, *CSV, "--add-prompt", "dog")
    work_off(faces)
    with (faces.home / "faces.csv").open("a") as file:
        file.write("3.jpg\n")

    told = faces(enqueue, *GIVEN)

    assert told.err.splitlines()[0] == "run faces goes on with the prompts that it has now: person, hat, dog"
    work_off(faces)
    assert [table(faces)[3][f"{name}_instances"] for name in ("person", "hat", "dog")] == ["1"] * 3
    between = (*GIVEN, "--prompt", "hat")
    assert faces(enqueue, *between, "--json").json["already_done"] == 4
    faces(enqueue, *between, "--drop-prompt", "hat")
    assert "has now: person, dog\n" in faces(enqueue, *between).err
    assert "prompt person, dog there, cat here" in faces(enqueue, *CSV, "--prompt", "cat", code=2).error


def test_a_run_with_half_a_change_is_not_over(faces: Shell) -> None:
    faces(enqueue, *GIVEN, "--add-prompt", "hat")
    work_off(faces)
    with faces.sessions.begin() as session:
        session.execute(update(Run).values(unsettled=True))

    shown = faces(status, "faces")

    told = (
        "changing prompts: not all images have followed; goes on by itself while workers run, or at once with the same"
    )
    assert f"{told} sam3-enqueue again" in " ".join(shown.out.split())
    assert "Next:" not in shown.err
    assert faces(status, "faces", "--json").json["unsettled"] is True
    refused = faces(export, "faces", "--format", "csv", "-o", "out.csv", code=1).error
    assert "is not over: not all of its images have followed a change of its prompts; wait" in refused
    faces(export, "faces", "--format", "csv", "-o", "out.csv", "--partial")


def test_a_retry_tells_what_it_adds_for_a_change_that_was_killed(faces: Shell) -> None:
    faces(enqueue, *GIVEN)
    write(faces.sessions, change_prompts, 1, ["hat"], [])

    told = faces(retry, "faces")

    assert told.err.splitlines()[0] == "3 images to compute for prompts that were added"
    assert "nothing had failed" not in told.err
    work_off(faces)


def test_a_killed_change_is_finished_by_any_command_that_records_the_run_or_retries_it(faces: Shell) -> None:
    faces(enqueue, *GIVEN, "--add-prompt", "hat")
    work_off(faces)
    for command, given in ((enqueue, (*CSV, "--add-prompt", "dog")), (retry, ("faces",))):
        with faces.sessions.begin() as session:
            session.execute(update(Run).values(unsettled=True))
        faces(command, *given)
        assert not scenario.run(faces.sessions, 1).unsettled
    work_off(faces)


def test_rows_that_come_with_the_prompt_and_later_ones_get_all_prompts(faces: Shell) -> None:
    with (faces.home / "faces.csv").open("a") as file:
        file.write("3.jpg\n")
    faces(enqueue, *GIVEN, "--add-prompt", "hat")

    work_off(faces)

    assert [(row["person_instances"], row["hat_instances"]) for row in table(faces)] == [
        ("1", "1"),
        ("1", "1"),
        ("0", "1"),
        ("1", "1"),
    ]


def test_a_dropped_prompt_is_in_no_output_until_it_is_added_again_at_no_cost(faces: Shell) -> None:
    faces(enqueue, *CSV, "--add-prompt", "hat")
    work_off(faces)
    before = table(faces)

    told = faces(enqueue, *GIVEN, "--drop-prompt", "hat")

    assert told.err.splitlines()[0] == "run faces has hat no longer"
    assert not [column for column in table(faces)[0] if column.startswith("hat")]
    faces(export, "faces", "--format", "coco", "-o", "out.json")
    assert [one["name"] for one in json.loads((faces.home / "out.json").read_text())["categories"]] == ["person"]
    assert faces(status, "faces", "--json").json["images"]["empty"] == 1
    assert "run faces is without hat already" in faces(enqueue, *GIVEN, "--drop-prompt", "hat").err
    again = faces(enqueue, *GIVEN, "--add-prompt", "hat")
    assert again.err.splitlines()[0] == "run faces has hat now"
    assert "to compute" not in again.err
    assert table(faces) == before


def test_the_same_words_with_another_class_are_another_prompt(faces: Shell) -> None:
    faces(enqueue, *CSV, "--add-prompt", "hat=clothes")
    work_off(faces)
    faces(enqueue, *CSV, "--add-prompt", "hat")
    work_off(faces)

    faces(enqueue, *CSV, "--drop-prompt", "hat")

    assert faces(enqueue, *GIVEN, "--prompt", "hat=clothes", "--json").json["already_done"] == 3
    faces(enqueue, *CSV, "--drop-prompt", "hat=clothes")
    faces(enqueue, *CSV, "--add-prompt", "hat")
    assert faces(enqueue, *GIVEN, "--prompt", "hat", "--json").json["already_done"] == 3


def test_what_could_not_be_computed_is_told_and_may_be_retried(faces: Shell) -> None:
    faces(enqueue, *GIVEN, "--add-prompt", "hat")
    held = scenario.claim(faces.sessions, 1, scenario.chunks(faces.sessions, 1)[-1].id)
    scenario.commit(faces.sessions, held, [scenario.failed(image, "missing") for image in held.images])

    shown = faces(status, "faces", "--wait", code=1)

    assert "3 images without results of prompts that were added later" in shown.out
    assert shown.err.splitlines()[-1] == "Next: sam3-retry faces"
    assert faces(status, "faces", "--json", code=1).json["incomplete"] == 3
    assert "3 images to try again" in faces(retry, "faces").out
    work_off(faces)


def test_a_dry_run_tells_the_cost_and_changes_nothing(faces: Shell) -> None:
    write(faces.sessions, lambda session: session.execute(update(Chunk).values(waiting_seconds=6.0)))
    told = faces(enqueue, *CSV, "--add-prompt", "hat", "--dry-run")

    assert told.out.splitlines()[0].endswith('prompts: ["person", "hat"]')
    assert "would take" not in told.out  # as images that are done are computed for one prompt only
    assert "3 images that are done go through the vision encoder again for hat" in told.out
    assert scenario.states(faces.sessions, 1) == ["done"] * 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--drop-prompt", "cap"), "--drop-prompt 'cap': run faces has no such prompt; it has person"),
        (
            ("--drop-prompt", "person"),
            "no prompt of run faces would be left; sam3-delete faces",
        ),
        (("--add-prompt", "a", "--drop-prompt", "a"), "--add-prompt 'a' and --drop-prompt 'a': give one of them"),
        (("--add-prompt", " "), "--add-prompt is empty"),
        (("--add-prompt", "a=b=c"), "--add-prompt 'a=b=c': more than one ="),
        (("--add-prompt", "hat", "--run", "caps"), "there is no run caps to change the prompts of"),
        (
            ("--prompt", "cat", "--add-prompt", "hat"),
            "has results with other settings: prompt person there, cat",
        ),
        (
            ("--threshold", "0.6", "--add-prompt", "hat"),
            "threshold 0.5 there, 0.6 here. Give the settings that the run was recorded with",
        ),
    ],
)
def test_what_cannot_be_is_told_in_one_line(faces: Shell, given: tuple[str, ...], said: str) -> None:
    error = faces(enqueue, *CSV, *given, code=2).error

    assert said in error
    assert scenario.states(faces.sessions, 1) == ["done"] * 3


def test_a_run_that_another_command_loads_is_left_alone(faces: Shell) -> None:
    elsewhere = Process("other machine", "boot", 1, 1)
    write(faces.sessions, named_leases.acquire_lease, "load 1", elsewhere, 60.0)

    error = faces(enqueue, *GIVEN, "--add-prompt", "hat", code=2).error

    assert "run faces is being loaded by another sam3-enqueue" in error


def test_a_run_that_has_only_the_prompts_of_its_rows_is_refused(shell: Shell, broker: str) -> None:
    (shell.home / "faces.csv").write_text("path,what\n0.jpg,dog\n")
    shell(enqueue, *CSV, "--prompt-column", "what")

    error = shell(enqueue, *CSV, "--prompt-column", "what", "--add-prompt", "hat", code=2).error

    assert "run faces has only the prompts of its rows: change them in the column of the input" in error


def test_a_run_that_looks_for_everything_takes_no_prompts(faces: Shell) -> None:
    with faces.sessions.begin() as session:
        session.execute(update(Run).values(points_per_side=8))

    error = faces(enqueue, *CSV, "--add-prompt", "hat", code=2).error

    assert "run faces looks for everything and takes no prompts" in error


def test_a_command_with_other_prompts_names_the_flag_that_computes_only_these(faces: Shell) -> None:
    error = faces(enqueue, *GIVEN, "--prompt", "hard hat=hat", code=2).error

    assert "To change its prompts: the same command with --add-prompt 'hard hat=hat'." in error
    faces(enqueue, *GIVEN, "--prompt", "hard hat=hat", "--add-prompt", "hard hat=hat")
    advice = "the same command with --add-prompt hat --drop-prompt person --drop-prompt 'hard hat=hat'."
    assert advice in faces(enqueue, *CSV, "--prompt", "hat", code=2).error


@pytest.mark.long
def test_a_run_that_is_killed_while_it_adds_a_prompt_goes_on_and_leaves_old_results_alone(terminal: Terminal) -> None:
    del terminal.environment["SAM3_STATE_DIR"]
    (terminal.home / "photos").mkdir()
    for number in range(60):
        Image.new("RGB", (40, 40), "white").save(terminal.home / "photos" / f"{number:03}.png")
    command = ("sam3-run", "photos", "--prompt", "person", *FAKE, "-o", "out", "--batch-size", "2", "--chunk-size", "4")
    terminal.run(*command)
    before = dump(terminal.home, 1)
    adding = (*command, "--add-prompt", "hat")

    running = terminal.start(*adding, **SLOW)
    wait_until(lambda: len(dump(terminal.home, 2)) >= 4 or running.process.poll() is not None, "the first new results")
    running.kill_group()
    assert 0 < len(dump(terminal.home, 2)) < 120
    told = terminal.run(*adding)

    assert "  60 segmented, 0 empty; 120 instances" in told.stdout
    assert dump(terminal.home, 1) == before
    assert len(dump(terminal.home, 2)) == 120
    assert yaml.safe_load((terminal.home / "out" / "run.yaml").read_text())["prompt"] == ["person", "hat"]
    assert (terminal.home / "out" / "masks" / "hat" / "059.png.png").exists()


def dump(home: Path, prompt_id: int) -> list[tuple[object, ...]]:
    """All results and instances of a prompt, with all columns."""
    there = home / "out" / ".sam3" / "sam3.db"
    with sqlite3.connect(f"file:{there}?mode=ro", uri=True) as connection:
        return [
            row
            for name in ("result", "instance")
            for row in connection.execute(f"SELECT * FROM {name} WHERE prompt_id = {prompt_id} ORDER BY image_id")
        ]
