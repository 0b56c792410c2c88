"""Very many rows at once arrive as they were given, in the transaction of everything else, or not at all."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from db.bulk import insert_rows
from db.columns import cells_to_json, to_json
from db.intake import IMAGES
from db.models import Image
from db.session import Sessions, read, reading, write_once
from tests.db import scenario

COLUMNS = ("run_id", "row", "load", "path", "state", "error_class", "error")
ODD = [
    "tab\tand\ttab",
    "line\nbreak\r\nand\rreturn",
    "back\\slash \\t \\n \\\\",
    "\\N",
    "\\.",
    "",
    " ",
    "\"quoted\", 'twice'",
    '{"json":["\\u0000",null]}',
    "😀 é e\u0301 \u202e \ufeff",
    "\x01\x1f\x7f\x80",
]


@pytest.fixture
def run_id(sessions: Sessions) -> Iterator[int]:
    """An empty run, whose rows are gone again when the tables are checked: these belong to no load."""
    run_id = scenario.create(sessions)
    yield run_id
    with sessions.begin() as session:
        session.execute(text("DELETE FROM image"))


def rejected(run_id: int, row: int, path: str, error: str | None = "x") -> tuple[Any, ...]:
    return run_id, row, 1, path, "rejected", "bad_row", error


def count(session: Session) -> int:
    return session.execute(select(func.count()).select_from(Image)).scalar_one()


def test_every_character_arrives_as_it_was_given(sessions: Sessions, run_id: int) -> None:
    with sessions.begin() as session:
        insert_rows(session, IMAGES, COLUMNS, [rejected(run_id, row, odd, odd) for row, odd in enumerate(ODD)])

    stored = select(Image.path, Image.error).order_by(Image.row)
    assert read(sessions, lambda session: session.execute(stored).all()) == [(odd, odd) for odd in ODD]


def test_nothing_is_not_the_empty_text(sessions: Sessions, run_id: int) -> None:
    with sessions.begin() as session:
        insert_rows(session, IMAGES, COLUMNS, [rejected(run_id, 1, "a", None), rejected(run_id, 2, "b", "")])

    stored = select(Image.error).order_by(Image.row)
    assert read(sessions, lambda session: session.execute(stored).scalars().all()) == [None, ""]


def test_no_rows_are_no_error(sessions: Sessions, run_id: int) -> None:
    with sessions.begin() as session:
        insert_rows(session, IMAGES, COLUMNS, [])
        assert count(session) == 0


def test_rows_are_part_of_the_callers_transaction(sessions: Sessions, run_id: int) -> None:
    with sessions() as session:
        insert_rows(session, IMAGES, COLUMNS, [rejected(run_id, 1, "a")])
        assert count(session) == 1
        session.rollback()

    assert read(sessions, count) == 0


def test_a_row_that_the_table_refuses_is_an_error_of_sqlalchemy_and_brings_nothing(
    sessions: Sessions, run_id: int
) -> None:
    with pytest.raises(IntegrityError), sessions.begin() as session:
        insert_rows(session, IMAGES, COLUMNS, [rejected(run_id, 1, "a"), rejected(run_id, 1, "b")])

    assert read(sessions, count) == 0


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_nul_character_is_refused_by_postgresql(sessions: Sessions, run_id: int) -> None:
    with pytest.raises(DBAPIError, match="NUL"), sessions.begin() as session:
        insert_rows(session, IMAGES, COLUMNS, [rejected(run_id, 1, "a"), rejected(run_id, 2, "a\0b")])

    assert read(sessions, count) == 0


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_connection_that_breaks_in_the_middle_is_replaced_and_the_rows_come_once(
    sessions: Sessions, run_id: int
) -> None:
    attempts: list[int] = []

    def load(session: Session) -> None:
        backend = session.execute(select(func.pg_backend_pid())).scalar_one()
        attempts.append(backend)

        def rows() -> Iterator[tuple[Any, ...]]:
            for row in range(20_000):
                yield rejected(run_id, row, "a" * 100)
                if row == 10_000 and len(attempts) == 1:
                    with reading(sessions) as other:
                        other.execute(select(func.pg_terminate_backend(backend, 5000)))

        insert_rows(session, IMAGES, COLUMNS, rows())

    write_once(sessions, load)

    assert len(set(attempts)) == 2
    assert read(sessions, count) == 20_000


@given(st.dictionaries(st.text(), st.text(), max_size=4))
def test_cells_are_spelled_as_all_other_json(cells: dict[str, str]) -> None:
    assert cells_to_json(cells) == to_json(cells)
