"""What retry, cancel and delete of a run cost: statements and rows looked at that grow with the run, never faster."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, event, false, insert, literal, select, text, update

from db import presence, runs
from db.intake import NewRow
from db.models import Chunk, Image, Instance, Prompt, Result, Run
from db.session import Sessions, read, write
from db.slices import Place, in_slices
from db.states import ChunkState, ImageState, RunState
from db.views import results
from tests.db import scenario

Pass = Callable[[Sessions, int], int]


def add_prompt(sessions: Sessions, run_id: int) -> int:
    return scenario.change_prompts(sessions, run_id, add=["hat"])


PASSES: dict[str, Pass] = {
    "retry": scenario.retry,
    "cancel": scenario.cancel,
    "delete": scenario.delete,
    "add prompt": add_prompt,
}
TABLES = ("image", "chunk", "prompt", "result", "instance")
CHUNK = 50


def failed_run(sessions: Sessions, images: int) -> int:
    """A done run whose images have all failed, written at one stroke."""
    run_id = scenario.load(sessions, scenario.numbered(images), f"run{images}", chunk_size=CHUNK)
    with sessions.begin() as session:
        session.execute(
            update(Image).where(Image.run_id == run_id).values(state=ImageState.FAILED, error_class="missing")
        )
        session.execute(update(Chunk).where(Chunk.run_id == run_id).values(state=ChunkState.DONE, failed=Chunk.images))
        session.execute(update(Run).where(Run.id == run_id).values(state=RunState.DONE, finished_at=1.0))
    return run_id


def segmented_run(sessions: Sessions, images: int) -> int:
    """A done run with an empty result for each image, written at one stroke."""
    run_id = pending_run(sessions, images)
    with sessions.begin() as session:
        of_run = Image.run_id == run_id
        session.execute(update(Image).where(of_run).values(state=ImageState.DONE, width=4, height=3))
        prompt = select(Prompt.id).where(Prompt.run_id == run_id).scalar_subquery()
        values = select(Image.id, prompt, literal(0), literal(0.9), literal(0), false()).where(of_run)
        columns = ("image_id", "prompt_id", "fence", "presence", "instances", "capped")
        session.execute(insert(Result).from_select(columns, values))
        counts = {"empty": Chunk.images}
        session.execute(update(Chunk).where(Chunk.run_id == run_id).values(state=ChunkState.DONE, **counts))
        session.execute(update(Run).where(Run.id == run_id).values(state=RunState.DONE, finished_at=1.0))
        session.execute(text("DELETE FROM audit_arrival"))  # which no commit brought
        session.execute(text("DELETE FROM audit_step"))
    return run_id


MADE = {"retry": failed_run, "add prompt": segmented_run}


def pending_run(sessions: Sessions, images: int) -> int:
    return scenario.load(sessions, scenario.numbered(images), f"run{images}", chunk_size=CHUNK)


@contextmanager
def statements(sessions: Sessions) -> Iterator[list[tuple[str, Any]]]:
    """Those that reach the driver, with their parameters; many sets of parameters are one statement."""
    seen: list[tuple[str, Any]] = []
    engine: Engine = sessions.kw["bind"]

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool) -> None:
        seen.append((statement, parameters[0] if executemany else parameters))

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", note)


@pytest.mark.parametrize("name", PASSES)
def test_ten_times_as_many_images_take_ten_times_as_many_statements(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("db.slices.IDLE_SLICE_ROWS", 500)
    made = MADE.get(name, pending_run)
    counts = {}
    for images in (500, 5000):
        run_id = made(sessions, images)
        with statements(sessions) as seen:
            assert PASSES[name](sessions, run_id) == images
        counts[images] = len(seen)
    assert counts[5000] <= 10 * counts[500], counts


@pytest.mark.parametrize("name", PASSES)
def test_no_statement_of_a_slice_reads_a_whole_table(sessions: Sessions, name: str) -> None:
    run_id = MADE.get(name, pending_run)(sessions, 200)
    with statements(sessions) as seen:
        PASSES[name](sessions, run_id)
    plans = read(
        sessions, lambda session: [plan(session, *one) for one in seen if "chunk" in one[0] or "image" in one[0]]
    )
    assert plans
    whole = re.compile(rf"\bSCAN ({'|'.join(TABLES)})\b(?! USING)|Seq Scan on ({'|'.join(TABLES)})\b")
    assert [(found, of) for of, found in plans if whole.search(found)] == []


def done_run(sessions: Sessions, images: int) -> int:
    run_id = scenario.load(sessions, scenario.numbered(images), chunk_size=500)
    scenario.work_off(sessions, run_id, 0.9)
    return run_id


def export(sessions: Sessions, run_id: int) -> int:
    return len(list(results.exported_images(sessions, run_id, 0.5)))


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize(
    ("made", "work"),
    [
        pytest.param(failed_run, scenario.retry, id="retry"),
        pytest.param(pending_run, scenario.cancel, id="cancel"),
        pytest.param(done_run, export, id="export"),
        pytest.param(done_run, scenario.delete, id="delete"),
        pytest.param(done_run, add_prompt, id="add prompt"),
    ],
)
def test_no_statement_reads_a_whole_table_of_which_postgresql_has_no_statistics(
    sessions: Sessions, made: Callable[[Sessions, int], int], work: Pass
) -> None:
    with sessions.begin() as session:
        for table in TABLES:
            session.execute(text(f"ALTER TABLE {table} SET (autovacuum_enabled = off)"))
    run_id = made(sessions, 2000)
    with statements(sessions) as seen:
        work(sessions, run_id)
    plans = read(sessions, lambda session: [plan(session, *one, small=False) for one in seen if "image" in one[0]])
    assert plans
    # Images are found by their own id, too, and a thousand of two thousand are quicker found by reading them all.
    whole = re.compile(r"Seq Scan on (result|instance)\b|Seq Scan on image\b.*\n.*chunk_id")
    assert [(of, found) for of, found in plans if whole.search(found)] == []


def plan(session: Any, statement: str, parameters: Any, *, small: bool = True) -> tuple[str, str]:
    connection = session.connection()
    if small and connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")  # it would rather read a table as small as this
    explain = "EXPLAIN QUERY PLAN " if connection.dialect.name == "sqlite" else "EXPLAIN "
    if statement.lstrip().upper().startswith(("INSERT", "COPY")):
        return statement, ""
    rows = connection.exec_driver_sql(explain + statement, parameters)
    return statement, "\n".join(str(row[-1]) for row in rows)


@pytest.mark.parametrize(("state", "pauses"), [("running", 5), ("idle", 0)])
def test_a_slice_is_small_while_workers_are_busy_and_leaves_them_as_much_time_as_it_took(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch, state: str, pauses: int
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("db.slices.time.sleep", slept.append)
    monkeypatch.setattr("db.slices.SLICE_ROWS", 2 * CHUNK)
    run_id = pending_run(sessions, 10 * CHUNK)
    write(sessions, presence.report, scenario.worker(sessions), state=state)
    told: list[int] = []
    write(sessions, runs.cancel_run, run_id)

    in_slices(sessions, runs.cancel_slice, run_id, told.append)

    assert told == ([100, 200, 300, 400, 500] if pauses else [500])
    assert len(slept) == pauses
    assert all(seconds > 0 for seconds in slept)


def test_chunks_of_no_image_that_matters_are_passed_over_many_at_a_time(sessions: Sessions) -> None:
    run_id = scenario.load(sessions, scenario.numbered(2500), chunk_size=1)
    with sessions.begin() as session:
        first = Image.row < 2500
        session.execute(update(Image).where(first).values(state=ImageState.FAILED, error_class="missing"))
        session.execute(update(Chunk).where(Chunk.number < 2500).values(state=ChunkState.DONE, failed=1))
    told: list[int] = []
    write(sessions, runs.cancel_run, run_id)

    assert in_slices(sessions, runs.cancel_slice, run_id, told.append) == 1

    assert told == [0, 0, 1]


def test_a_slice_takes_a_chunk_that_is_larger_than_it(sessions: Sessions) -> None:
    run_id = pending_run(sessions, 2 * CHUNK)
    write(sessions, runs.cancel_run, run_id)

    done = write(sessions, runs.cancel_slice, run_id, Place(), 1)

    assert (done.images, done.place) == (CHUNK, Place(1))
    scenario.cancel(sessions, run_id)


def test_a_delete_takes_results_and_prompts_along(sessions: Sessions) -> None:
    rows = [NewRow(f"{number}.jpg", prompts=(f"object {number}",)) for number in range(40)]
    run_id = scenario.load(sessions, rows, chunk_size=8)
    scenario.work_off(sessions, run_id, 0.9, 0.8)

    assert scenario.delete(sessions, run_id) == 40

    with sessions() as session:
        assert [session.query(table).count() for table in (Run, Chunk, Image, Prompt, Result, Instance)] == [0] * 6
