"""`sam3-pause`, `sam3-resume` and `sam3-set` as they are typed, and what `sam3-status` shows of them."""

import re
from collections.abc import Callable
from functools import partial

import pytest

from db import budgets, steering
from db.claimed import ClaimedImage
from db.outcomes import Outcome
from db.session import write
from db.values import StopRule
from producer.cli.delete import main as delete
from producer.cli.enqueue import main as enqueue
from producer.cli.export import main as export_main
from producer.cli.pause import main as pause
from producer.cli.resume import main as resume
from producer.cli.retry import main as retry
from producer.cli.set import main as set_
from producer.cli.status import main as status
from tests.db import scenario
from tests.db.scenario import load, numbered
from tests.producer.cli.conftest import Shell
from tests.workers import runs
from workers.broker.connection import Doorbells
from workers.cli.base import Sam3Command
from workers.settings import load_settings

PAUSED = "paused by sam3-pause; sam3-resume faces lets it go on"


@pytest.mark.usefixtures("broker")
def test_a_paused_run_says_so_and_its_hint_lets_it_go_on(shell: Shell) -> None:
    load(shell.sessions, numbered(8))

    told = shell(pause, "faces")

    assert (told.out, told.err) == ("run faces: paused\n", "Next: sam3-resume faces\n")
    assert shell(pause, "faces").out == "run faces: paused already, by sam3-pause\n"
    assert shell(status).out == f"paused     faces: 0/8 images (0 %), {PAUSED}\n"
    shown = shell(status, "faces")
    assert re.search(r"run +faces  \(paused\)", shown.out)
    assert PAUSED in shown.out
    assert shell(pause, "faces", "--json").json == {"schema": 1, "run": "faces", "paused": "by sam3-pause"}
    told = shell(resume, "faces")
    assert (told.out, told.err) == ("run faces: goes on\n", "Next: sam3-status faces --watch\n")
    assert Doorbells(runs.app(shell.sessions, load_settings().broker_url)).chunks() == {1, 2}
    assert shell(resume, "faces", "--json").json == {"schema": 1, "run": "faces", "was_paused": None, "queued": 0}
    assert shell(resume, "faces").out == "run faces: was not paused\n"


def test_a_run_that_is_over_has_nothing_to_pause(shell: Shell) -> None:
    scenario.work_off(shell.sessions, load(shell.sessions, numbered(4)))

    told = shell(pause, "faces")

    assert (told.out, told.err) == ("run faces: done, so there is nothing to pause\n", "")


def test_waiting_for_a_paused_run_says_that_it_is_paused_and_goes_on_waiting(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = load(shell.sessions, numbered(4))
    shell(pause, "faces")
    looks = 0

    def look(_: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            write(shell.sessions, steering.resume, run_id)
            scenario.work_off(shell.sessions, run_id, 0.9)

    monkeypatch.setattr("producer.cli.standing.time.sleep", look)

    told = shell(status, "faces", "--wait")

    assert "(done)" in told.out
    assert told.err.splitlines()[0] == f"run faces: {PAUSED}"
    assert told.err.count("paused") == 1
    assert looks == 3


@pytest.mark.usefixtures("broker")
def test_priority_and_share_can_be_changed_at_any_time_and_are_shown(shell: Shell) -> None:
    (shell.home / "faces.csv").write_text("path\na.jpg\nb.jpg\n")
    given = ("--csv", "faces.csv", "--prompt", "person")
    shell(enqueue, *given, "--priority", 5)
    assert shell(status).out.startswith("active     faces: 0/2 images (0 %), priority 5, no worker")

    told = shell(set_, "faces", "--share", 0.3)

    assert told.out == "run faces: priority 5, share 0.3\n"
    facts = shell(status, "faces", "--json").json
    assert (facts["priority"], facts["share"], facts["paused"]) == (5, 0.3, None)
    assert "(active, priority 5, share 0.3)" in shell(status, "faces").out
    shell(enqueue, *given)  # leaves them as they are
    assert shell(set_, "faces", "--priority=-1", "--json").json["share"] == 0.3
    shell(enqueue, *given, "--share", 1)
    assert shell(status).out.startswith("active     faces: 0/2 images (0 %), priority -1, no worker")


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        ((), "say what to change, such as sam3-set faces --priority 5"),
        (("--priority", 11), "11 is not in the range -10<=x<=10"),
        (("--share", 0), "0 would stop the run: that is sam3-pause"),
        (("--share", 30), "30.0 is not in the range 0<=x<=1"),
        (("--share", "nan"), "nan is not in the range 0<=x<=1"),
    ],
)
def test_what_cannot_be_set_is_one_line(shell: Shell, flags: tuple[object, ...], fault: str) -> None:
    load(shell.sessions, numbered(1))

    assert fault in shell(set_, "faces", *flags, code=2).error


@pytest.mark.parametrize("command", [pause, resume, set_], ids=lambda command: command.name)
def test_a_run_that_is_being_stopped_is_not_steered(shell: Shell, command: Sam3Command) -> None:
    scenario.begin_cancel(shell.sessions, load(shell.sessions, numbered(4)))
    scenario.begin_delete(shell.sessions, load(shell.sessions, numbered(4), "birds"))

    assert "run faces is being cancelled; sam3-cancel faces" in shell(command, "faces", code=2).error
    assert "run birds is being deleted; sam3-delete birds" in shell(command, "birds", code=4).error
    assert "no run called cars; there are: faces, birds" in shell(command, "cars", code=4).error


@pytest.mark.usefixtures("broker")
def test_a_paused_run_that_is_retried_or_grows_says_that_it_is_paused(shell: Shell) -> None:
    (shell.home / "faces.csv").write_text("path\na.jpg\nb.jpg\n")
    given = ("--csv", "faces.csv", "--prompt", "person", "--chunk-size", 1)
    shell(enqueue, *given)
    run_id = 1
    held = scenario.claim(shell.sessions, run_id, scenario.chunks(shell.sessions, run_id)[0].id)
    scenario.commit(shell.sessions, held, [scenario.failed(image) for image in held.images])
    shell(pause, "faces")

    resumes = "the run is paused by sam3-pause\nNext: sam3-resume faces\n"
    assert shell(retry, "faces").err == resumes
    (shell.home / "faces.csv").write_text("path\na.jpg\nb.jpg\nc.jpg\n")
    assert shell(enqueue, *given).err.endswith(resumes)
    assert scenario.run(shell.sessions, run_id).paused == "by sam3-pause"


def stopped(shell: Shell, rule: str, *ends: Callable[[ClaimedImage], Outcome]) -> int:
    """A run that this rule has paused after its first chunk of ten images, all of which ended in one of these ways."""
    run_id = load(shell.sessions, numbered(40), chunk_size=10)
    write(shell.sessions, partial(steering.steer, stop_after=[str(StopRule.read(rule))]), run_id)
    held = scenario.claim(shell.sessions, run_id)
    scenario.commit(shell.sessions, held, [ends[number % len(ends)](image) for number, image in enumerate(held.images)])
    assert write(shell.sessions, budgets.stop, run_id)
    return run_id


@pytest.mark.usefixtures("broker")
def test_a_run_of_missing_files_says_what_is_likely_wrong_and_its_hints_take_it_up(shell: Shell) -> None:
    run_id = stopped(shell, "5% failed", partial(scenario.failed, error_class="missing"))

    told = shell(status, "faces")

    assert "paused as 10 of the latest 10 images failed (--stop-after '5% failed of 500')" in plain(told.out)
    assert "missing, 10 times, such as 000001.jpg: the workers do not see the files" in plain(told.out)
    assert told.err == "When that is mended: sam3-retry faces\nNext: sam3-resume faces\n"
    assert shell(status, "faces", "--json").json["likeliest_cause"].startswith("missing, 10 times")
    assert "Next: sam3-resume faces" in shell(retry, "faces").err
    assert shell(resume, "faces", "--json").json["queued"] == 2
    assert scenario.states(shell.sessions, run_id) == ["pending"] * 40


@pytest.mark.usefixtures("broker")
def test_a_run_without_any_find_says_whether_the_threshold_or_the_prompt_is_the_likely_cause(shell: Shell) -> None:
    low, nothing = low_score, scenario.done
    stopped(shell, "98% empty of 10", low, low, nothing)
    told = shell(status, "faces")
    export = "sam3-export faces --partial --format csv --threshold 0.3 -o faces-low.csv"
    assert "the threshold 0.5 is too high: 7 of 10 empty images have lower scores" in plain(told.out)
    assert told.err == f"To look at lower scores: {export}\nNext: sam3-resume faces\n"
    shell(export_main, *export.split()[1:])
    table = (shell.home / "faces-low.csv").read_text()
    assert table.count(",640,480,1,0.4") == 7

    shell(delete, "faces", "--yes")
    stopped(shell, "98% empty of 10", nothing)
    told = shell(status, "faces")
    assert "the images do not show the prompt (person): in 10 of 10 empty images nothing has" in plain(told.out)


def low_score(image: ClaimedImage) -> Outcome:
    return scenario.done(image, 0.4)


def plain(text: str) -> str:
    """As one line, however the terminal wrapped it."""
    return " ".join(text.split())


@pytest.mark.usefixtures("broker")
def test_budgets_can_be_set_shown_and_taken_away_at_any_time(shell: Shell) -> None:
    (shell.home / "faces.csv").write_text("path\na.jpg\nb.jpg\n")
    given = ("--csv", "faces.csv", "--prompt", "person")
    shell(enqueue, *given, "--stop-after", "5% failed", "--stop-after", "98% empty of 20")
    assert shell(status, "faces", "--json").json["stop_after"] == ["5% failed of 500", "98% empty of 20"]
    shell(enqueue, *given)
    told = shell(set_, "faces", "--priority", 1)
    assert told.out == "run faces: priority 1, share 1, stops after 5% failed of 500 or 98% empty of 20\n"
    assert shell(set_, "faces", "--stop-after", "never", "--json").json["stop_after"] == []
    assert "'5' is no such rule as '5% failed'" in shell(set_, "faces", "--stop-after", 5, code=2).error
