"""The judge of added prompts: old results that change are seen, and so are images that lack new ones."""

from collections.abc import Iterator

import pytest
from sqlalchemy import delete, event, update
from sqlalchemy.orm import Session

from db.models import Image, Instance, Result, Run
from db.session import Sessions, read
from tests.chaos.kept import Kept, compare, kept
from tests.chaos.verdict import lacking
from tests.db import scenario

COUNT = 4


@pytest.fixture
def before(sessions: Sessions) -> Kept:
    """Four images that are done, to which a prompt was added and computed since."""
    run_id = scenario.load(sessions, scenario.numbered(COUNT))
    scenario.worker(sessions)
    scenario.work_off(sessions, run_id, 0.9, 0.8)
    found = read(sessions, kept, "faces")
    assert found is not None
    scenario.change_prompts(sessions, run_id, add=["hat"])
    scenario.work_off(sessions, run_id, 0.7)
    return found


@pytest.fixture
def damaged(sessions: Sessions) -> Iterator[Session]:
    """A transaction that is undone, since the test's rows must agree in the end."""
    with sessions() as session:
        yield session
        session.rollback()


def test_results_that_stay_are_compared_and_each_change_of_them_is_seen(before: Kept, damaged: Session) -> None:
    assert compare(damaged, [before]) == (COUNT, [])

    damaged.execute(update(Instance).where(Instance.image_id == 1, Instance.prompt_id == 1).values(rle=b"34"))
    damaged.execute(update(Result).where(Result.image_id == 2, Result.prompt_id == 1).values(fence=9))
    damaged.execute(delete(Instance).where(Instance.image_id == 3))
    damaged.execute(delete(Result).where(Result.image_id == 3))

    assert compare(damaged, [before]) == (
        COUNT,
        [f"run {before.uid}: results of 3 images changed with its prompts: [1, 2, 3]"],
    )


def test_results_of_a_file_that_was_replaced_or_of_a_redo_may_change(before: Kept, damaged: Session) -> None:
    damaged.execute(update(Result).where(Result.prompt_id == 1).values(fence=9))
    damaged.execute(update(Image).where(Image.id == 1).values(file_size=7))
    damaged.execute(update(Image).where(Image.id == 2).values(state="pending", adds=False))
    damaged.execute(update(Image).where(Image.id == 2).values(state="done"))

    assert compare(damaged, [before])[1] == [f"run {before.uid}: results of 2 images changed with its prompts: [3, 4]"]


def test_results_that_are_committed_while_those_before_are_read_are_not_half_remembered(sessions: Sessions) -> None:
    run_id = scenario.load(sessions, scenario.numbered(COUNT))
    scenario.worker(sessions)
    scenario.work_off(sessions, run_id, 0.9, 0.8)
    scenario.change_prompts(sessions, run_id, add=["hat"])
    statements: list[str] = []

    @event.listens_for(sessions.kw["bind"], "after_cursor_execute")
    def commit(connection: object, cursor: object, statement: str, *_: object) -> None:
        if "FROM result" in statement and not statements:
            statements.append(statement)
            scenario.work_off(sessions, run_id, 0.7)

    found = read(sessions, kept, "faces")

    assert found is not None
    assert statements
    assert read(sessions, compare, [found]) == (COUNT, [])


def test_an_image_that_lacks_a_result_is_seen(before: Kept, damaged: Session) -> None:
    run = damaged.get_one(Run, 1)
    assert lacking(damaged, run) == []

    damaged.execute(delete(Instance).where(Instance.image_id == 2))
    damaged.execute(delete(Result).where(Result.image_id == 2))
    assert lacking(damaged, run) == ["run faces: these images lack results, or have some twice: [2]"]
    damaged.execute(update(Image).where(Image.id == 2).values(adds=True))
    assert lacking(damaged, run) == ["run faces: 1 images are incomplete, although they were retried"]
