"""No statement names more values the more rows, prompts or chunks there are: every database has a limit."""

import sqlite3

import pytest
from sqlalchemy import event

from db import claims, doorbells, intake, presence, runs
from db.bulk import NAMED_AT_ONCE, named_at_once
from db.intake import NewRow
from db.session import Sessions, read, write
from db.views.results import exported_images
from db.views.run_views import prompt_texts
from tests.db import scenario
from tests.db.parameters import FEW, most_parameters

MANY = 3 * NAMED_AT_ONCE
LIMITS = {"sqlite": 5_000, "postgresql": 65_535}  # SQLite's is set here; who builds it chooses up to 250,000


@pytest.mark.parametrize(("count", "parts"), [(0, []), (1, [1]), (NAMED_AT_ONCE, [NAMED_AT_ONCE])])
def test_values_are_named_in_parts_that_one_statement_can_take(count: int, parts: list[int]) -> None:
    assert [len(part) for part in named_at_once(range(count))] == parts
    assert [value for part in named_at_once(range(MANY + 1)) for value in part] == list(range(MANY + 1))


@pytest.mark.long
def test_a_chunk_may_ask_for_more_different_prompts_than_a_statement_takes(sessions: Sessions) -> None:
    limit = LIMITS[dialect(sessions)]
    if dialect(sessions) == "sqlite":
        limit_sqlite(sessions, limit)
    asked = 1000
    texts = iter(f"prompt {number}" for number in range(limit + 20 * asked))
    rows = [
        NewRow(f"{number}.jpg", prompts=tuple(next(texts) for _ in range(asked)))
        for number in range(limit // asked + 2)
    ]
    run_id = scenario.load(sessions, rows, chunk_size=len(rows))
    held = scenario.claim(sessions, run_id)
    wanted = {prompt_id for image in held.images for prompt_id in image.prompt_ids}
    assert len(wanted) > limit
    found = read(sessions, prompt_texts, wanted)
    assert found.keys() == wanted
    assert {found[id] for id in held.images[0].prompt_ids} == set(rows[0].prompts or ())
    assert not scenario.commit(sessions, held, [scenario.done(held.images[0], 0.9)])


def test_no_statement_grows_with_what_it_is_about(sessions: Sessions) -> None:
    """A chunk, a batch, a range in hand, a window of doorbells and a page of an export, all of them large."""
    new = [NewRow(f"{n}.jpg", prompts=(f"prompt {n}",)) for n in range(MANY)]
    with most_parameters(sessions) as most:
        run_id = scenario.create(sessions, chunk_size=MANY)
        write(sessions, intake.begin_reading, run_id, 1, 1, ["path"])
        write(sessions, intake.add_rows, run_id, 0, new)
        scenario.finish(sessions, run_id)
        held = scenario.claim(sessions, run_id)
        read(sessions, prompt_texts, {id for image in held.images for id in image.prompt_ids})
        for _ in range(2):
            write(sessions, claims.begin_range, held, 1, MANY)
            scenario.take_back(sessions, held)
            held = scenario.claim(sessions, run_id)
        failed = [scenario.failed(image) for image in held.images]
        scenario.commit(sessions, held, failed)
        assert read(sessions, claims.was_committed, held, failed) is not None
        held = scenario.claim(sessions, run_id)
        done = [scenario.done(image, 0.9) for image in held.images]
        scenario.commit(sessions, held, done)
        assert read(sessions, claims.was_committed, held, done) is not None
        assert len(list(exported_images(sessions, run_id, 0.3))) == MANY
        small = scenario.load(sessions, new, "small", chunk_size=1)
        assert len(write(sessions, doorbells.ring_pending, small, MANY)) == MANY
        write(sessions, presence.forget_old_workers)
        write(sessions, runs.repair)
    assert most[0] <= NAMED_AT_ONCE + FEW, most[1]


def limit_sqlite(sessions: Sessions, limit: int) -> None:
    """From the next connection on."""
    engine = sessions.kw["bind"]
    event.listen(
        engine, "connect", lambda connection, _: connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, limit)
    )
    engine.dispose()


def dialect(sessions: Sessions) -> str:
    return str(sessions.kw["bind"].dialect.name)
