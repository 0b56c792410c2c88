"""What a run costs: before it is recorded, by a dry run, and while and after it works, by `sam3-status`."""

from pathlib import Path

import pytest

from db import claims
from db.session import write
from db.values import Spent
from producer.cli.enqueue import main as enqueue
from producer.cli.run import main as run
from producer.cli.status import main as status
from tests.db import scenario
from tests.db.scenario import load, numbered
from tests.producer.cli.conftest import Shell

HOUR = 3600.0


def worked(shell: Shell, chunks: int, seconds: float = HOUR) -> None:
    """A run of 40 images with the model tiny, of which so many chunks, of four images each, took so many seconds."""
    run_id = load(shell.sessions, numbered(40), chunk_size=4)
    for _ in range(chunks):
        held = scenario.claim(shell.sessions, run_id)
        outcomes = [scenario.done(image, 0.9) for image in held.images]
        write(shell.sessions, claims.commit, held, outcomes, 60.0, Spent(waiting=seconds))


def table(home: Path, rows: int) -> tuple[str, ...]:
    (home / "birds.csv").write_text("path\n" + "".join(f"{number}.jpg\n" for number in range(rows)))
    return ("--csv", "birds.csv", "--prompt", "bird", "--dry-run")


def test_the_status_shows_the_hours_spent_and_to_go_and_money_if_an_hour_has_a_price(shell: Shell) -> None:
    worked(shell, 2)

    assert "cost       2 worker hours, about 8 to go" in shell(status, "faces").out
    told = shell(status, "faces", "--gpu-hour-price", 2.5)
    assert "cost       2 worker hours (5.00), about 8 (20.00) to go" in told.out
    assert shell(status, "faces", "--gpu-hour-price", 2.5, "--json").json["cost"] == {
        "seconds_per_image": 900.0,
        "worker_hours": 2.0,
        "worker_hours_left": 8.0,
        "price": 5.0,
        "price_left": 20.0,
    }
    assert shell(status, "--json").json["runs"][0]["cost"]["price"] is None


def test_a_cost_of_parts_of_a_second_is_a_number_as_people_write_it(shell: Shell) -> None:
    worked(shell, 2, seconds=0.036)

    assert "cost       0.000020 worker hours, about 0.000080 to go" in shell(status, "faces").out


def test_a_run_that_is_done_shows_what_it_cost(shell: Shell) -> None:
    worked(shell, 10)

    assert "cost       10.0 worker hours (25.00) " in shell(status, "faces", "--gpu-hour-price", 2.5).out


def test_a_dry_run_projects_from_an_earlier_run_with_the_same_model(shell: Shell) -> None:
    worked(shell, 3)
    scenario.worker(shell.sessions, 1)
    scenario.worker(shell.sessions, 2)
    given = table(shell.home, 8)

    told = shell(enqueue, *given, "--model", "tiny", "--gpu-hour-price", 3).out.splitlines()[-2]

    assert (
        told == "would take about 2 worker hours, 1:00:00 on 2 workers, 6.00 at 3 an hour (900 s an image in run faces)"
    )
    facts = shell(enqueue, *given, "--model", "tiny", "--json").json["cost"]
    assert (facts["worker_hours_left"], facts["measured_in"], facts["workers"]) == (2.0, "faces", 2)
    two = shell(enqueue, *given, "--model", "tiny", "--prompt", "cat").out
    assert "(900 s an image in run faces with 1 prompt)\n" in two


def test_without_a_measured_run_of_the_model_a_dry_run_says_how_to_get_one(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    worked(shell, 3)
    given = table(shell.home, 8)
    advice = "no run of this model was measured here: run a part of it first, such as --limit 100 --run try\n"

    assert "worker hours" not in shell(enqueue, *given, "--model", "other/model").out
    assert shell(enqueue, *given, "--model", "other/model", "--gpu-hour-price", 3).err == advice
    assert shell(enqueue, *given, "--model", "other/model", "--json").json["cost"] is None
    monkeypatch.setenv("SAM3_DATABASE_URL", f"sqlite:///{shell.home}/nowhere.db")
    assert shell(enqueue, *given, "--model", "tiny", "--gpu-hour-price", 3).err == advice
    assert not (shell.home / "nowhere.db").exists()
    in_folder = shell(run, "birds.csv", "--prompt", "bird", "--model", "tiny", "-o", "out", "--dry-run")
    assert "worker hours" not in in_folder.out
    assert not (shell.home / "out").exists()
