"""What a commit writes down about the file that was read, and about what is odd in it, on both databases."""

from dataclasses import replace
from typing import Any

from sqlalchemy import event

from db.session import Sessions, reading
from db.views import status
from db.views.status import WarningLine
from tests.db import scenario
from tests.db.scenario import claim, commit, done, failed, load, numbered

DARK = "samples fill little of their range"
LATEST = 2**63 - 1


def test_size_and_time_of_a_file_are_kept_also_of_one_that_failed(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(3))
    held = claim(sessions, run_id)
    one, two, three = held.images
    read = replace(done(one, 0.9), file_size=5, file_mtime_ns=LATEST)
    cut = replace(failed(two), file_size=0, file_mtime_ns=-1)

    commit(sessions, held, [read, cut, failed(three, "missing")])

    kept = [(image.file_size, image.file_mtime_ns) for image in scenario.images(sessions, run_id)]
    assert kept == [(5, LATEST), (0, -1), (None, None)]


def test_warnings_and_capped_results_are_counted_by_image(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(6), prompts=("person", "hat"), chunk_size=3)
    first, second = claim(sessions, run_id), claim(sessions, run_id, worker_id=2)
    dark = [replace(done(image, 0.9), warning=DARK) for image in first.images[1:]]
    odd = replace(done(second.images[0]), warning="odd")
    full = done(second.images[1], 0.9)
    full = replace(full, results=tuple(replace(result, capped=True) for result in full.results))

    commit(sessions, first, [done(first.images[0]), *dark])
    commit(sessions, second, [odd, full, failed(second.images[2])])

    with reading(sessions) as session:
        progress = status.progress(session, run_id)
        warnings = status.warnings(session, run_id)
    assert (progress.warned, progress.capped) == (3, 1)
    assert warnings == [WarningLine(DARK, 2, "000002.jpg"), WarningLine("odd", 1, "000004.jpg")]


def test_a_run_without_warnings_has_none(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(1))
    scenario.work_off(sessions, run_id, 0.9)
    with reading(sessions) as session:
        assert status.warnings(session, run_id) == []
        assert status.progress(session, run_id).warned == 0


def test_what_was_seen_of_a_file_goes_with_the_next_reading_of_it(sessions: Sessions) -> None:
    """A truncated file is mended: its size and time are those of the reading that counts."""
    run_id = load(sessions, numbered(1))
    held = claim(sessions, run_id)
    commit(sessions, held, [replace(failed(held.images[0]), file_size=100, file_mtime_ns=7)])

    scenario.retry(sessions, run_id)
    again = claim(sessions, run_id)
    commit(sessions, again, [replace(done(again.images[0]), file_size=200, file_mtime_ns=8, warning=DARK)])

    [image] = scenario.images(sessions, run_id)
    assert (image.state, image.file_size, image.file_mtime_ns, image.warning) == ("done", 200, 8, DARK)


def test_a_commit_takes_no_statement_more_for_it(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(8))
    statements: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    taken = []
    event.listen(sessions.kw["bind"], "before_cursor_execute", note)
    kinds: list[dict[str, Any]] = [{}, {"file_size": 5, "file_mtime_ns": 7, "warning": DARK}]
    for seen in kinds:
        held = claim(sessions, run_id)
        statements.clear()
        commit(sessions, held, [replace(done(image, 0.9), **seen) for image in held.images[:3]])
        taken.append(len(statements))
    assert taken[0] == taken[1]
