"""`--dry-run` refuses what the command itself would refuse, in the same words, and changes nothing."""

import fcntl
import io
import json
import sys
from pathlib import Path

import pytest
from sqlalchemy import text, update

from db.models import Chunk, Run
from db.session import connect, sqlite_url, write
from producer.cli.enqueue import main as enqueue
from producer.cli.run import main as run
from tests import templates
from tests.db import scenario
from tests.producer.cli.conftest import Shell

CSV = ("--csv", "birds.csv")
GIVEN = (*CSV, "--prompt", "person")
IN_FOLDER = ("birds.csv", "--prompt", "person", "--model", "tiny", "-o", "out")


@pytest.fixture
def birds(shell: Shell, broker: str) -> Shell:
    """Three images of one run, computed."""
    (shell.home / "birds.csv").write_text("path\n0.jpg\n1.jpg\n2.jpg\n")
    shell(enqueue, *GIVEN)
    scenario.commit_all(shell.sessions, scenario.claim(shell.sessions, 1, 1), 0.9)
    return shell


@pytest.mark.parametrize(
    "given",
    [
        (*GIVEN, "--threshold", "0.6"),
        (*GIVEN, "--prompt", "hat"),
        (*CSV, "--drop-prompt", "cap"),
        (*CSV, "--drop-prompt", "person"),
        (*CSV, "--add-prompt", "hat", "--run", "new"),
        (*GIVEN, "--moved-from", "old.csv", "--run", "new"),
        (*GIVEN, "--moved-from", "old.csv"),
        (*GIVEN, "--sample", "2"),
        ("--csv", "other.csv", "--prompt", "person", "--run", "birds"),
    ],
)
def test_what_a_recorded_run_cannot_take_is_refused_in_the_same_words(birds: Shell, given: tuple[str, ...]) -> None:
    (birds.home / "other.csv").write_text("path\n0.jpg\n")
    with (birds.home / "birds.csv").open("a") as file:
        file.write("3.jpg\n")

    refused = birds(enqueue, *given, "--dry-run", code=2).error

    assert refused == birds(enqueue, *given, code=2).error
    assert len(scenario.images(birds.sessions, 1)) == 3


def test_a_run_that_is_being_cancelled_is_refused(birds: Shell) -> None:
    with birds.sessions.begin() as session:
        session.execute(update(Run).values(state="cancelling", finished_at=None))
    assert "is being cancelled" in birds(enqueue, *GIVEN, "--dry-run", code=2).error
    with birds.sessions.begin() as session:
        session.execute(update(Run).values(state="done", finished_at=1.0))


def test_a_change_of_prompts_is_told_with_its_own_cost_as_json_too(birds: Shell) -> None:
    write(birds.sessions, lambda session: session.execute(update(Chunk).values(waiting_seconds=6.0)))

    facts = birds(enqueue, *CSV, "--add-prompt", "hat", "--dry-run", "--json").json

    assert (facts["adding"], facts["prompts"]) == (3, ["person", "hat"])
    assert facts["cost"]["worker_hours_left"] == pytest.approx(3 * 2 / 3600, rel=0.01)
    dropped = birds(enqueue, *CSV, "--prompt", "hat", "--run", "new", "--dry-run", "--json").json
    assert (dropped["adding"], dropped["prompts"]) == (0, ["hat"])


def test_the_old_command_after_a_change_is_told_with_the_prompts_of_the_run(birds: Shell) -> None:
    birds(enqueue, *CSV, "--add-prompt", "hat")
    scenario.commit_all(birds.sessions, scenario.claim(birds.sessions, 1, 2), 0.9)
    assert birds(enqueue, *GIVEN, "--dry-run", "--json").json["prompts"] == ["person", "hat"]


def test_a_run_that_is_there_is_told_with_what_would_be_new_and_the_cost_of_that_alone(birds: Shell) -> None:
    write(birds.sessions, lambda session: session.execute(update(Chunk).values(waiting_seconds=6.0)))  # 2 s an image
    again = birds(enqueue, *GIVEN, "--dry-run", "--gpu-hour-price", 1)
    assert again.out.splitlines()[0] == (
        'would record nothing new of run birds: 3 images in 1 chunk, 3 already done, 0 new; prompts: ["person"]'
    )
    assert "would take" not in again.out
    assert "measured" not in again.err
    (birds.home / "birds.csv").write_text("path\n9.jpg\n0.jpg\n1.jpg\n2.jpg\n0.jpg\n\n8.jpg\n8.jpg\n")  # edited

    told = birds(enqueue, *GIVEN, "--dry-run")

    assert told.out.startswith("would record run birds: 7 images in 1 chunk, 3 already done, 2 duplicate, 3 new;")
    assert "0:04 on one worker (2 s an image in run birds)" in told.out
    facts = birds(enqueue, *GIVEN, "--dry-run", "--json").json
    assert (facts["new"], facts["already_done"], facts["duplicates"]) == (3, 3, 2)
    redone = birds(enqueue, *GIVEN, "--dry-run", "--redo", "all").out
    assert "0:10 on one worker" in redone
    recorded = birds(enqueue, *GIVEN, "--json").json
    assert (recorded["images"], recorded["duplicates"]) == (7, 2)


def test_rows_that_repeat_another_one_cost_nothing(birds: Shell) -> None:
    write(birds.sessions, lambda session: session.execute(update(Chunk).values(waiting_seconds=6.0)))
    (birds.home / "boxes.csv").write_text(
        'path,boxes,words\na.jpg,"[[1, 2, 3, 4]]",\na.jpg,"[[1, 2, 3, 4]]",\n'
        "./a.jpg,,\na.jpg,,hat\na.jpg,,\n,,\nb.jpg,x,\n"
    )
    given = ("--csv", "boxes.csv", "--prompt", "person", "--box-column", "boxes", "--prompt-column", "words")

    told = birds(enqueue, *given, "--dry-run", code=1)

    assert told.out.startswith("would record run boxes: 6 images in 1 chunk, 2 duplicate, 1 rejected;")
    assert "0:06 on one worker" in told.out
    recorded = birds(enqueue, *given, "--json", code=1).json
    assert (recorded["duplicates"], recorded["rejected"]) == (2, 1)


def test_images_of_a_source_that_was_read_are_not_looked_for_again(
    birds: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SAM3_NO_CHECK")  # none of the images is there
    assert birds(enqueue, *GIVEN, "--dry-run").out.startswith("would record nothing new of run birds: 3 images")
    assert "none of 3 images looked at is there" in birds(enqueue, *GIVEN, "--run", "b", "--dry-run", code=2).error


def test_a_database_that_is_newer_is_refused_and_one_that_is_older_or_away_is_a_warning(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shell.home / "birds.csv").write_text("path\n0.jpg\n")
    for version, code, told in (("9999", 2, "is newer than this program"), ("0001", 0, "has older tables")):
        with shell.sessions.begin() as session:
            session.execute(text("UPDATE alembic_version SET version_num = :version"), {"version": version})
        assert told in shell(enqueue, *GIVEN, "--dry-run", code=code).err
    monkeypatch.setenv("SAM3_DATABASE_URL", "postgresql://user:secret@localhost:1/nowhere")
    answer = shell(enqueue, *GIVEN, "--add-prompt", "hat", "--dry-run")
    assert answer.err.startswith("warning: ")
    assert answer.err.endswith("; not compared with runs that are there\n")
    assert "secret" not in answer.err


def test_what_is_piped_in_again_is_compared_with_the_run_that_it_was_recorded_as(
    shell: Shell, broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pipe(*given: str) -> str:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"path\n0.jpg\n")))
        return shell(enqueue, "--source", "-", "--prompt", "person", "--run", "birds", *given).out

    pipe()
    assert pipe("--dry-run").startswith("would record nothing new of run birds: 1 image ")


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        (("-o", "birds.csv/out"), 2, "birds.csv/out/results.csv: cannot write: Not a directory"),
        (("--state-dir", "birds.csv/state"), 2, "birds.csv/state: cannot write there: Not a directory"),
        (("--model", "no such model"), 2, "model no such model: no such folder, nor a name like facebook/sam3"),
        (("--model", "/usr"), 3, "model /usr: no usable config.json there; is it a model's folder?"),
        (("--model", "../bert"), 3, "/bert: of type bert; we have code for "),
        (("--model", "facebook/sam3"), 3, "cannot download facebook/sam3: the Hub cannot be reached (HF_HUB_OFFLINE"),
        (("--gpus", "99"), 2, "GPU"),  # what is said depends on the machine
    ],
)
def test_what_this_machine_cannot_do_is_refused_in_the_same_words(
    shell: Shell, given: tuple[str, ...], code: int, said: str
) -> None:
    (shell.home / "birds.csv").write_text("path\n0.jpg\n")
    (other := shell.home.parent / "bert").mkdir()
    (other / "config.json").write_text('{"model_type": "bert"}')

    refused = shell(run, *IN_FOLDER, *given, "--dry-run", code=code).error

    assert said in refused
    assert refused == shell(run, *IN_FOLDER, *given, code=code).error
    assert [path.name for path in shell.home.iterdir()] == ["birds.csv"]


def test_a_folder_that_another_sam3_run_works_in_or_has_filled_is_refused(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, plain_template: Path
) -> None:
    monkeypatch.delenv("SAM3_STATE_DIR")
    (shell.home / "birds.csv").write_text("path\n0.jpg\n")
    state = shell.home / "out" / ".sam3"
    state.mkdir(parents=True)
    templates.copy_sqlite(plain_template, state / "sam3.db")
    sessions = connect(sqlite_url(state / "sam3.db"))
    with (state / "run.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another sam3-run works with" in shell(run, *IN_FOLDER, "--dry-run", code=2).error
    scenario.load(sessions, scenario.numbered(1), name="faces")
    assert "belongs to run faces" in shell(run, *IN_FOLDER, "--dry-run", code=2).err
    assert "belongs to run faces" in shell(run, *IN_FOLDER, code=2).err
    assert json.loads(shell(run, *IN_FOLDER[:-1], "new", "--dry-run", "--json").out)["images"] == 1


def test_without_torch_a_run_on_this_machine_is_refused(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    (shell.home / "birds.csv").write_text("path\n0.jpg\n")
    monkeypatch.setattr("workers.fleet.weights.find_spec", lambda name: None)

    refused = shell(run, *IN_FOLDER, "--dry-run", code=2).error

    assert "running a model needs: pip install 'sam3-queue[worker]'" in refused
    assert refused == shell(run, *IN_FOLDER, code=2).error


def test_a_dry_run_says_what_it_leaves_to_the_workers(birds: Shell) -> None:
    unchecked = "not checked: the broker; the model, which the workers load\n"
    assert birds(enqueue, *GIVEN, "--dry-run").out.endswith(unchecked)


def test_images_that_redo_would_take_are_counted_and_stay_as_they_are(birds: Shell) -> None:
    told = birds(enqueue, *GIVEN, "--redo", "all", "--dry-run")
    assert "would compute 3 images again (--redo all)\n" in told.out
    for which, count in (("empty", 0), ("failed", 0), ("changed", 0), ("all", 3)):
        assert birds(enqueue, *GIVEN, "--redo", which, "--dry-run", "--json").json["redone"] == count
    assert birds(enqueue, *GIVEN, "--run", "new", "--redo", "all", "--dry-run", "--json").json["redone"] == 0
    assert {image.state for image in scenario.images(birds.sessions, 1)} == {"done"}
    assert birds(enqueue, *GIVEN, "--redo", "all", "--json").json["redone"] == 3
