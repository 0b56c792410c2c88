"""What status says of a run: its JSON, its one line, and every reason why nothing moves."""

import re
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from sqlalchemy import update

from db import claims, doorbells, intake, presence
from db.intake import NewRow
from db.models import Worker
from db.session import Sessions, write
from db.views.status import ErrorLine
from producer.results.status import Standing, duration, told_errors, told_warnings
from producer.runs.operate import cancel
from tests import templates
from tests.db import scenario
from tests.db.scenario import REJECTED, claim, commit, commit_all, done, failed, load, numbered


@pytest.fixture
def database_url(tmp_path: Path, sqlite_template: Path) -> str:
    """SQLite alone: the queries have tests of their own, on both databases."""
    templates.copy_sqlite(sqlite_template, tmp_path / "sam3.db")
    return f"sqlite:///{tmp_path / 'sam3.db'}"


def waiting_for(sessions: Sessions, run_id: int) -> str | None:
    return Standing(sessions, run_id).waiting_for()


def shown(sessions: Sessions, run_id: int, *, errors: bool = False) -> str:
    """The table as a terminal of 100 columns shows it."""
    screen = StringIO()
    Console(file=screen, width=100).print(Standing(sessions, run_id).table(errors=errors))
    return screen.getvalue()


def finished(sessions: Sessions, new: Sequence[NewRow], *, fail: Sequence[str] = ()) -> int:
    """A run of one chunk that is done: its first images failed for these reasons."""
    run_id = load(sessions, new, chunk_size=len(new))
    held = claim(sessions, run_id)
    ended = [failed(image, reason) for image, reason in zip(held.images, fail, strict=False)]
    commit(sessions, held, [*ended, *(done(image, 0.9) for image in held.images[len(fail) :])])
    return run_id


def test_the_json_has_its_keys_in_the_promised_order(sessions: Sessions) -> None:
    run_id = load(sessions, [*numbered(8), REJECTED, *numbered(1)])
    worker = scenario.worker(sessions)
    held = claim(sessions, run_id)
    write(sessions, presence.report, worker, state="running", run_id=run_id, chunk_id=held.chunk_id)
    commit(sessions, held, [done(held.images[0], 0.9, 0.8), done(held.images[1]), failed(held.images[2])])

    told = Standing(sessions, run_id).as_json()

    assert list(told)[:9] == [
        *("run", "state", "images", "chunks", "instances", "images_per_second", "eta_seconds", "errors", "workers")
    ]
    assert list(told["images"].items()) == [
        ("total", 10),
        ("pending", 5),
        ("segmented", 1),
        ("empty", 1),
        ("failed", 1),
        ("cancelled", 0),
        ("duplicate", 1),
        ("rejected", 1),
        ("gone", 0),
    ]
    assert list(told["chunks"].items()) == [
        ("total", 3),
        ("pending", 1),
        ("queued", 0),
        ("running", 1),
        ("done", 1),  # it held only the duplicate
        ("failed", 0),
        ("cancelled", 0),
    ]
    assert told["instances"] == 2
    assert told["errors"] == [
        {"error_class": "bad_path", "count": 1, "example": "the cell is empty"},
        {"error_class": "truncated", "count": 1, "example": "000003.jpg"},
    ]
    assert list(told["workers"][0])[:6] == ["node", "state", "run", "chunk", "images_per_second", "heartbeat"]
    assert (told["workers"][0]["node"], told["workers"][0]["chunk"]) == ("cpu1@here", 1)


def test_a_moving_run_tells_its_speed_and_how_long_it_still_takes(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(300), chunk_size=100)
    worker = scenario.worker(sessions)
    held = claim(sessions, run_id)
    commit_all(sessions, held, 0.9)
    write(sessions, presence.report, worker, state="running", run_id=run_id, images_per_second=10.0)

    standing = Standing(sessions, run_id)

    assert (standing.as_json()["images_per_second"], standing.as_json()["eta_seconds"]) == (10.0, 20.0)
    assert standing.one_line() == "faces: 100/300 images (33 %), 10.0 images/s, 0:20 left"


def test_one_line_names_failures_and_what_is_waited_for(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(8))
    held = claim(sessions, run_id)
    commit(sessions, held, [failed(image) for image in held.images])

    standing = Standing(sessions, run_id)

    line = "faces: 4/8 images (50 %), failed 4"
    assert standing.one_line() == f"{line}, no worker is running: start sam3-worker"
    assert standing.one_line(waiting=False) == line


def test_images_in_which_there_may_be_more_are_counted(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4), prompts=("person", "hat"))
    held = claim(sessions, run_id)
    assert Standing(sessions, run_id).as_json()["capped"] == 0
    capped = [
        replace(one, results=tuple(replace(result, capped=True) for result in one.results))
        for one in (done(held.images[0], 0.9), done(held.images[1], 0.9))
    ]
    commit(sessions, held, [*capped, done(held.images[2], 0.9), done(held.images[3])])

    standing = Standing(sessions, run_id)

    assert standing.as_json()["capped"] == 2
    assert standing.one_line().endswith("images/s, capped 2")
    assert "6; there may be more in 2 images (capped)" in shown(sessions, run_id)


def test_what_a_run_waits_for_is_shown_letter_by_letter(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    worker = scenario.worker(sessions)
    reason = "prompt 'a [bold]hat[/x]' is too long"
    write(sessions, presence.report, worker, state="declined", run_id=run_id, message=reason)

    assert f"cpu1@here does not serve it: {reason}" in shown(sessions, run_id)


def test_duplicate_and_rejected_rows_are_no_part_of_the_progress(sessions: Sessions) -> None:
    run_id = load(sessions, [*numbered(4), *numbered(2), REJECTED])
    scenario.work_off(sessions, run_id, 0.9)

    assert Standing(sessions, run_id).one_line().startswith("faces: 4/4 images (100 %), ")


def test_a_run_of_rejected_rows_alone_is_over_and_counts_nothing(sessions: Sessions) -> None:
    run_id = load(sessions, [REJECTED])

    standing = Standing(sessions, run_id)

    assert standing.over
    assert standing.one_line() == "faces: 0/0 images"


def test_a_run_that_is_over_waits_for_nothing(sessions: Sessions) -> None:
    over = finished(sessions, numbered(2))
    stopped = load(sessions, numbered(2), name="stopped")
    cancel(sessions, stopped)

    assert (waiting_for(sessions, over), waiting_for(sessions, stopped)) == (None, None)


def test_a_run_that_a_worker_has_in_hand_waits_for_nothing(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(8))
    write(sessions, presence.report, scenario.worker(sessions), state="running", run_id=run_id)

    assert waiting_for(sessions, run_id) is None


def test_a_loading_run_waits_for_its_enqueue(sessions: Sessions) -> None:
    run_id = scenario.create(sessions)
    write(sessions, intake.begin_reading, run_id, 1, 1, ["path"])
    scenario.add(sessions, run_id, numbered(3))

    assert waiting_for(sessions, run_id) == "still loading; if no sam3-enqueue runs, run the same one again"


def test_without_a_worker_it_says_how_to_start_one(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))

    assert waiting_for(sessions, run_id) == "no worker is running: start sam3-worker"
    again = Standing(sessions, run_id, "the same sam3-run command goes on")
    assert again.waiting_for() == "no worker is running: the same sam3-run command goes on"


def test_a_chunk_that_was_handed_back_for_a_fault_says_which(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    held = claim(sessions, run_id)
    write(sessions, claims.release, held, "/mnt/a.jpg was read before and is gone")
    write(sessions, doorbells.ring_pending, run_id, 10)

    said = "no worker is running: start sam3-worker (last fault: /mnt/a.jpg was read before and is gone)"
    assert waiting_for(sessions, run_id) == said


def test_a_worker_that_declines_the_run_is_named_with_its_reason(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    reason = "it began with weights abc in fp32, here are def in fp32"
    write(sessions, presence.report, scenario.worker(sessions), state="declined", run_id=run_id, message=reason)

    assert waiting_for(sessions, run_id) == f"cpu1@here does not serve it: {reason}"


@pytest.mark.parametrize(
    ("count", "sentence"), [(1, "cpu1@here loads the model"), (2, "cpu1@here, cpu2@here load the model")]
)
def test_workers_that_load_the_model_are_named(sessions: Sessions, count: int, sentence: str) -> None:
    run_id = load(sessions, numbered(4))
    for pid in range(1, count + 1):
        write(sessions, presence.report, scenario.worker(sessions, pid), state="loading", run_id=run_id)

    assert waiting_for(sessions, run_id) == sentence


def test_a_chunk_of_a_silent_worker_is_waited_for_until_its_lease_ends(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    claim(sessions, run_id, worker_id=scenario.worker(sessions))
    write(sessions, lambda session: session.execute(update(Worker).values(heartbeat=Worker.heartbeat - 61)))

    assert waiting_for(sessions, run_id) == (
        "a worker that no longer answers holds a chunk; it is taken back when its lease ends"
    )


def test_a_worker_that_has_claimed_a_chunk_and_not_told_yet_is_not_taken_for_silent(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    claim(sessions, run_id, worker_id=scenario.worker(sessions))

    assert waiting_for(sessions, run_id) is None


def test_a_chunk_that_rests_after_failed_attempts_says_for_how_long(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    for _ in range(4):
        held = claim(sessions, run_id)
        write(sessions, claims.fail_attempt, held, "boom")
        rests = scenario.rests_for(sessions, held.chunk_id)
        sentence = waiting_for(sessions, run_id)
        scenario.rest_is_over(sessions, held.chunk_id)

    assert sentence in {
        f"a chunk rests for {duration(seconds)} after failed attempts: boom" for seconds in (rests, rests - 1)
    }


def test_busy_workers_are_named_by_the_runs_they_serve(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    for pid, name in ((1, "birds"), (2, "cats"), (3, "birds")):
        other = load(sessions, numbered(4), name=name) if pid < 3 else 2
        write(sessions, presence.report, scenario.worker(sessions, pid), state="running", run_id=other)

    assert waiting_for(sessions, run_id) == "workers are busy with birds, cats"


def test_with_an_idle_worker_it_waits_for_that_one(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    scenario.worker(sessions)

    assert waiting_for(sessions, run_id) == "waiting for a worker"


def test_the_table_leaves_out_what_is_zero_and_says_what_is_waited_for(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(8))
    scenario.worker(sessions)
    commit_all(sessions, claim(sessions, run_id), 0.9)

    lines = [" ".join(line.split()) for line in shown(sessions, run_id).splitlines()]

    assert "run faces (active)" in lines
    assert "images 8 total, 4 pending, 4 segmented" in lines
    assert "chunks 2 total, 1 pending, 1 done" in lines
    assert "waiting waiting for a worker" in lines
    assert [line for line in lines if re.fullmatch(r"cpu1@here idle \d+ s ago", line)]


def test_the_table_shows_five_kinds_of_errors_unless_all_are_asked_for(sessions: Sessions) -> None:
    classes = ["missing", "missing", "truncated", "too_large", "too_small", "timeout", "unsupported"]
    run_id = finished(sessions, numbered(7), fail=classes)

    short, long = shown(sessions, run_id), shown(sessions, run_id, errors=True)

    assert [name for name in dict.fromkeys(classes) if name not in short] == ["unsupported"]
    assert "(others) 1 --errors lists them" in " ".join(short.split())
    assert all(name in long for name in classes)
    assert "(others)" not in long
    assert "000001.jpg" in short


def test_what_was_odd_about_images_that_are_done_is_counted_with_an_example(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    held = claim(sessions, run_id)
    commit(sessions, held, [replace(done(image, 0.9), warning="too dark") for image in held.images[1:]])

    told = Standing(sessions, run_id)

    assert told.as_json()["warnings"] == [{"warning": "too dark", "count": 3, "example": "000002.jpg"}]
    assert shown(sessions, run_id).split()[-8:] == [
        "warning",
        "images",
        "for",
        "example",
        "too",
        "dark",
        "3",
        "000002.jpg",
    ]
    assert told_warnings(told.warnings) == "3 images: too dark, such as 000002.jpg"


def test_a_run_without_warnings_shows_no_such_table(sessions: Sessions) -> None:
    run_id = finished(sessions, numbered(1))
    assert Standing(sessions, run_id).as_json()["warnings"] == []
    assert "warning" not in shown(sessions, run_id)


def test_errors_are_told_in_one_line() -> None:
    errors = [ErrorLine("truncated", 12_000, "a.jpg"), ErrorLine("missing", 1, "b.jpg")]

    assert told_errors(errors) == "12,000 truncated, 1 missing"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (19.6, "0:20"), (725, "12:05"), (11_400, "3:10:00"), (-3, "0:00")]
)
def test_durations_are_told_as_on_a_clock(seconds: float, text: str) -> None:
    assert duration(seconds) == text
