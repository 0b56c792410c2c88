"""Loads of an edited source: when gone rows are looked for, and a load that is killed while they leave."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from db import gone
from db.session import Sessions, reading
from tests.db import recount, scenario
from tests.producer.runs.conftest import MANY, REQUEST, Killed, load, only_sqlite, paths, write_csv

pytestmark = pytest.mark.usefixtures("small_slices")


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The chunk behind which each slice of the pass over gone rows begins."""
    begun: list[int] = []
    whole = gone.drop_gone_slice

    def noted(session: Any, run_id: int, place: Any, rows: int) -> Any:
        begun.append(place.chunk)
        return whole(session, run_id, place, rows)

    monkeypatch.setattr(gone, "drop_gone_slice", noted)
    return begun


@only_sqlite
def test_rows_are_looked_for_only_when_some_have_gone_in_this_load(
    sessions: Sessions, faces: Path, passes: list[int]
) -> None:
    write_csv(faces, paths(20))
    run_id = load(sessions, faces, replace(REQUEST, limit=8)).run_id
    load(sessions, faces)
    write_csv(faces, reversed(paths(20)))
    load(sessions, faces)
    assert passes == [], "none has gone"
    write_csv(faces, paths(19))
    load(sessions, faces, replace(REQUEST, limit=15))
    assert passes == [], "the source was not read to its end"
    load(sessions, faces)
    assert len(passes) == 1
    write_csv(faces, paths(25))
    assert load(sessions, faces).new_rows == 5
    assert scenario.states(sessions, run_id) == ["pending"] * 25, "a row that came back"
    write_csv(faces, paths(24))
    load(sessions, faces)
    assert len(passes) == 2
    with faces.open("a") as file:
        file.write("more.jpg,\n")
    assert load(sessions, faces).new_rows == 1
    assert len(passes) == 2, "the source only grew"


def test_a_load_that_is_killed_while_rows_leave_is_finished_by_the_same_command(
    sessions: Sessions, faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_csv(faces, paths(MANY))
    run_id = load(sessions, faces).run_id
    write_csv(faces, paths(10))
    whole = gone.drop_gone_slice

    def die_in_the_second(session: Any, run: int, place: Any, rows: int) -> Any:
        if place.chunk:
            raise Killed
        return whole(session, run, place, rows)

    monkeypatch.setattr(gone, "drop_gone_slice", die_in_the_second)
    with pytest.raises(Killed):
        load(sessions, faces)
    assert scenario.states(sessions, run_id).count("cancelled") == 990
    monkeypatch.setattr(gone, "drop_gone_slice", whole)

    assert load(sessions, faces).gone_rows == MANY - 10

    assert scenario.states(sessions, run_id) == ["pending"] * 10 + ["cancelled"] * (MANY - 10)
    with reading(sessions) as session:
        assert recount.differences(session) == []
