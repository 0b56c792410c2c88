"""What becomes of the rows of older releases."""

import pytest
from sqlalchemy import func, select, text

from db.intake import NewRow, find_run
from db.migrate import revision, upgrade
from db.models import Chunk, Image, Instance, Run
from db.prompt_rows import prompt_ids
from db.refusals import DatabaseUnusable
from db.session import Sessions, reading, write
from db.views.run_views import run_view
from tests.db import scenario
from tests.db.migrations.conftest import by_hand, migrate
from tests.db.recount import differences


def test_a_cancel_that_was_killed_before_the_upgrade_is_finished_after_it(filled: Sessions) -> None:
    with filled.kw["bind"].begin() as connection:
        connection.execute(text("UPDATE run SET state = 'cancelled'"))
        connection.execute(text("UPDATE chunk SET state = 'pending', images = 3"))
        pending = "VALUES (13, 7, 3, 1, 'c.jpg', 'pending', 5)"
        connection.execute(text(f'INSERT INTO image (id, run_id, "row", load, path, state, chunk_id) {pending}'))
        connection.execute(text("UPDATE run SET images = 3"))
    upgrade(filled)

    assert scenario.run(filled, 7).state == "cancelling"
    assert scenario.cancel(filled, 7) == 1
    with reading(filled) as session:
        assert differences(session) == []
    assert scenario.run(filled, 7).state == "cancelled"


def test_a_filled_database_of_the_first_revision_is_upgraded_with_its_rows(filled: Sessions) -> None:
    upgrade(filled)

    with reading(filled) as session:
        assert differences(session) == []
        [run] = session.execute(select(Run)).scalars()
        assert (len(run.uid), run.source_ended, run.stretch) == (32, True, False)
        [chunk] = session.execute(select(Chunk)).scalars()
        assert (chunk.capped, chunk.warned) == (1, 0)
        [instance] = session.execute(select(Instance)).scalars()
        assert (instance.x1, instance.x2, instance.rle) == (0.0, 4.0, b"ok")


def test_each_prompt_of_an_older_run_is_a_class_of_its_own_after_the_upgrade(filled: Sessions) -> None:
    with filled.kw["bind"].begin() as connection:
        connection.execute(text("INSERT INTO prompt (id, run_id, text, every_image) VALUES (9, 7, 'a=b', true)"))
    upgrade(filled)

    with reading(filled) as session:
        view = run_view(session, 7)
        assert view is not None
        assert view.prompts == {3: "person", 9: "a=b"}
        assert [one.name for one in view.classes.values()] == ["person", "a=b"]
        assert (known := find_run(session, "faces")) is not None
        assert known.prompts == ("person", "a==b")  # as a command must give it now
    ids = write(filled, prompt_ids, 7, ["a=b", "a==b"])
    assert ids["a==b"] == 9 != ids["a=b"]


def test_rows_of_before_there_were_boxes_have_none_and_are_matched_after_the_upgrade(filled: Sessions) -> None:
    migrate(filled, "0010")
    by_hand(filled, *PENDING_IMAGE, "UPDATE chunk SET images = 3, state = 'pending'", "UPDATE run SET state = 'active'")
    upgrade(filled)

    assert [image.boxes for image in scenario.claim(filled, 7).images] == [()]
    scenario.read_again(
        filled, 7, [*scenario.rows("b.jpg", "a.jpg"), NewRow("c.jpg", boxes=((1.0, 2.0, 3.0, 4.0, True),))]
    )
    assert [image.boxes for image in scenario.images(filled, 7)] == [None, None, None, [[1.0, 2.0, 3.0, 4.0, True]]]
    assert scenario.run(filled, 7).box_column is None


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # no sequence of PostgreSQL is touched
def test_ids_go_on_after_an_upgrade(filled: Sessions) -> None:
    upgrade(filled)

    assert scenario.load(filled, scenario.rows("a.jpg"), name="later") == 8


def test_a_prompt_can_be_added_to_a_run_that_the_release_before_has_done(filled: Sessions) -> None:
    migrate(filled, "0012")
    upgrade(filled)

    assert scenario.change_prompts(filled, 7, add=["hat"]) == 2
    with reading(filled) as session:
        assert differences(session) == []
        assert session.execute(select(func.count()).select_from(Instance)).scalar_one() == 1
    assert scenario.chunk(filled, 5).incomplete == 0


PENDING_IMAGE = (
    "UPDATE run SET images = 3",
    "INSERT INTO image (id, run_id, \"row\", load, path, state, chunk_id) VALUES (13, 7, 3, 1, 'c.jpg', 'pending', 5)",
)


def test_a_filled_database_of_the_second_revision_is_upgraded_with_its_rows(second: Sessions) -> None:
    upgrade(second)

    with reading(second) as session:
        assert differences(session) == []
        assert (session.query(Run).count(), session.query(Chunk).count(), session.query(Image).count()) == (1, 1, 2)
        [chunk] = session.execute(select(Chunk)).scalars()
        assert (chunk.node, chunk.started_at, chunk.forward_seconds) == (None, None, 0.0)
        assert session.execute(select(Run.versions)).scalar_one() is None


@pytest.mark.parametrize(
    "wrong",
    ["segmented = 5", "empty = -1", "images = 1", "failed = 1", "capped = 9", "state = 'failed', images = 4"],
)
def test_counters_that_cannot_be_true_are_counted_again_by_the_upgrade(second: Sessions, wrong: str) -> None:
    by_hand(second, f"UPDATE chunk SET {wrong}", "UPDATE run SET duplicates = 3, rejected = -1")

    upgrade(second)

    chunk = scenario.chunk(second, 5)
    assert (chunk.images, chunk.segmented, chunk.empty, chunk.instances, chunk.capped) == (2, 1, 1, 1, 1)
    run = scenario.run(second, 7)
    assert (run.images, run.duplicates, run.rejected) == (2, 0, 0)


@pytest.mark.parametrize(("state", "after"), [("done", "active"), ("cancelled", "cancelling")])
def test_an_image_left_pending_in_a_chunk_that_is_over_is_taken_up_by_the_upgrade(
    second: Sessions, state: str, after: str
) -> None:
    by_hand(second, *PENDING_IMAGE, "UPDATE chunk SET images = 3", f"UPDATE run SET state = '{state}'")

    upgrade(second)

    assert (scenario.run(second, 7).state, scenario.chunk(second, 5).state) == (after, "pending")
    with reading(second) as session:
        assert differences(session) == []


def test_a_running_chunk_without_a_lease_is_taken_back_after_the_upgrade(second: Sessions) -> None:
    running = "UPDATE chunk SET images = 3, state = 'running'"
    by_hand(second, *PENDING_IMAGE, running, "UPDATE run SET state = 'active', finished_at = NULL")

    upgrade(second)

    [held] = scenario.running(second)
    assert held.lease_over


def test_a_lease_of_a_chunk_that_does_not_run_is_ended_by_the_upgrade(second: Sessions) -> None:
    by_hand(second, "UPDATE chunk SET lease_until = 1.0")

    upgrade(second)

    assert scenario.chunk(second, 5).lease_until is None


@pytest.mark.parametrize(
    ("table", "wrong"),
    [("run", "state = 'odd'"), ("run", "threshold = 2"), ("chunk", "state = 'odd'"), ("image", "state = 'odd'")],
)
def test_what_only_a_person_can_put_right_stops_the_upgrade_in_one_line(
    second: Sessions, table: str, wrong: str
) -> None:
    by_hand(second, f"UPDATE {table} SET {wrong}")

    with pytest.raises(DatabaseUnusable, match=rf"^the row \d+ of table {table} was changed by hand .* try again$"):
        upgrade(second)

    with reading(second) as session:
        assert revision(session.connection()) == "0002"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # no sequence of PostgreSQL is touched
def test_no_id_of_a_deleted_row_is_given_again_after_the_upgrade(second: Sessions) -> None:
    load = "INSERT INTO image (run_id, \"row\", load, path, state) VALUES (7, 9, 1, 'd.jpg', 'rejected')"
    by_hand(second, load)
    with reading(second) as session:
        given = session.execute(text("SELECT max(id) FROM image")).scalar_one()
    by_hand(second, f"DELETE FROM image WHERE id = {given}")

    upgrade(second)

    by_hand(second, load)
    with reading(second) as session:
        assert session.execute(text("SELECT max(id) FROM image")).scalar_one() > given
    by_hand(second, 'DELETE FROM image WHERE "row" = 9')
