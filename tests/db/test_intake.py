"""How rows come in: loaded, continued, appended, matched, found twice; on SQLite and on PostgreSQL."""

import sqlite3
from collections import Counter

import pytest
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError

from db import claims, doorbells, duplicates, intake, prompt_rows
from db.intake import LoadCancelled, LoadTaken, NewRow
from db.session import Sessions, reading, write
from tests.db import scenario
from tests.db.scenario import BOX, NO_BOX, REJECTED, add, claim, create, finish, load, numbered, rows


def test_a_load_numbers_its_rows_packs_chunks_and_becomes_active(sessions: Sessions) -> None:
    run_id = create(sessions, chunk_size=4)
    assert add(sessions, run_id, numbered(6)) == 6
    assert scenario.run(sessions, run_id).state == "loading"

    finish(sessions, run_id)

    run = scenario.run(sessions, run_id)
    assert (run.state, run.images, run.source_rows, run.source_sha256) == ("active", 6, 6, "sha256")
    assert [image.row for image in scenario.images(sessions, run_id)] == [1, 2, 3, 4, 5, 6]
    assert [(chunk.number, chunk.images) for chunk in scenario.chunks(sessions, run_id)] == [(1, 4), (2, 2)]


def test_a_run_is_found_again_as_it_was_made(sessions: Sessions) -> None:
    run_id = create(sessions, prompts=("person", "dog"), chunk_size=7)
    with reading(sessions) as session:
        found = intake.find_run(session, "faces")
        assert intake.find_run(session, "other") is None

    assert found is not None
    assert (found.id, found.state, found.prompts, found.chunk_size) == (run_id, "loading", ("person", "dog"), 7)
    assert (found.source, found.frozen) == (scenario.SOURCE, scenario.FROZEN)


def test_a_name_is_given_once(sessions: Sessions) -> None:
    create(sessions)

    with pytest.raises(IntegrityError):
        create(sessions)


def test_nothing_of_a_loading_run_is_rung_or_claimed(sessions: Sessions) -> None:
    run_id = create(sessions)
    add(sessions, run_id, numbered(4))
    [one] = scenario.chunks(sessions, run_id)

    assert write(sessions, doorbells.ring_pending, run_id, 10) == []
    assert write(sessions, claims.claim, run_id, one.id, 1) is None
    finish(sessions, run_id)


def test_a_killed_load_goes_on_where_it_stopped_and_still_finds_all_duplicates(sessions: Sessions) -> None:
    run_id = create(sessions)
    add(sessions, run_id, rows("a", "b", "a"))
    with reading(sessions) as session:
        known = intake.find_run(session, "faces")
    assert known is not None
    assert (known.state, known.source_rows) == ("loading", 3)

    write(sessions, intake.begin_reading, run_id, 1, 1, ["path"])
    add(sessions, run_id, rows("c", "b"), read=known.source_rows)

    assert finish(sessions, run_id) == 2
    assert scenario.states(sessions, run_id) == ["pending", "pending", "duplicate", "pending", "duplicate"]


def test_of_two_loaders_the_slower_one_is_told(sessions: Sessions) -> None:
    run_id = create(sessions)
    add(sessions, run_id, numbered(2))

    with pytest.raises(LoadTaken):
        add(sessions, run_id, numbered(2), read=0)

    add(sessions, run_id, numbered(4)[2:], read=2)
    finish(sessions, run_id)
    assert scenario.run(sessions, run_id).images == 4


def test_appended_rows_get_the_next_numbers_and_chunks_of_their_own(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(5))
    scenario.work_off(sessions, run_id, 0.9)
    assert scenario.run(sessions, run_id).state == "done"

    write(sessions, intake.begin_reading, run_id, 2, 2, ["path"])
    assert add(sessions, run_id, numbered(7)[5:], read=5) == 2
    assert scenario.run(sessions, run_id).state == "loading"
    finish(sessions, run_id)

    run = scenario.run(sessions, run_id)
    assert (run.state, run.images, run.finished_at) == ("active", 7, None)
    assert [(one.number, one.images) for one in scenario.chunks(sessions, run_id)] == [(1, 4), (2, 1), (3, 2)]
    scenario.work_off(sessions, run_id)
    assert scenario.run(sessions, run_id).state == "done"


def test_a_source_read_again_without_new_rows_leaves_a_done_run_done(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    scenario.work_off(sessions, run_id, 0.9)

    write(sessions, intake.begin_matching, run_id, 2, 2, ["path"])
    assert add(sessions, run_id, numbered(4), matching=True) == 0
    finish(sessions, run_id)

    assert scenario.run(sessions, run_id).state == "done"


def test_appending_to_a_running_run_holds_new_claims_back_but_not_what_is_in_hand(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(8))
    held = claim(sessions, run_id)
    write(sessions, intake.begin_reading, run_id, 2, 2, ["path"])
    add(sessions, run_id, numbered(9)[8:], read=8)

    assert scenario.try_claim(sessions, run_id) is None
    assert write(sessions, claims.heartbeat, held)
    assert scenario.commit_all(sessions, held, 0.9)

    finish(sessions, run_id)
    scenario.work_off(sessions, run_id)
    assert scenario.run(sessions, run_id).state == "done"


def test_the_last_chunk_ending_during_an_append_does_not_end_the_run(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    held = claim(sessions, run_id)
    write(sessions, intake.begin_reading, run_id, 2, 2, ["path"])
    add(sessions, run_id, numbered(5)[4:], read=4)

    scenario.commit_all(sessions, held, 0.9)

    assert scenario.run(sessions, run_id).state == "loading"
    finish(sessions, run_id)
    assert scenario.run(sessions, run_id).state == "active"


def test_a_cancelled_run_that_grows_is_active_again_with_only_the_new_rows(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(4))
    scenario.cancel(sessions, run_id)

    write(sessions, intake.begin_reading, run_id, 2, 2, ["path"])
    write(sessions, intake.add_rows, run_id, 4, numbered(6)[4:], reopens=True)
    finish(sessions, run_id)

    assert scenario.run(sessions, run_id).state == "active"
    assert scenario.states(sessions, run_id) == ["cancelled"] * 4 + ["pending"] * 2


def test_a_run_cancelled_while_it_is_loaded_stays_cancelled(sessions: Sessions) -> None:
    run_id = create(sessions)
    add(sessions, run_id, rows("a", "a"))
    with reading(sessions) as session:
        repeated = list(duplicates.repeated_rows(session, run_id))
    scenario.cancel(sessions, run_id)

    with pytest.raises(LoadCancelled):
        add(sessions, run_id, rows("b"), read=2)
    with pytest.raises(LoadCancelled):
        write(sessions, duplicates.mark_duplicates, run_id, repeated)
    write(sessions, intake.finish_load, run_id, None)

    assert scenario.run(sessions, run_id).state == "cancelled"
    assert scenario.states(sessions, run_id) == ["cancelled", "cancelled"]


def test_an_edited_source_keeps_known_rows_and_adds_new_ones(sessions: Sessions) -> None:
    first = [NewRow("a", {"label": "1"}), NewRow("b", {"label": "2"}), NewRow("c", {"label": "3"})]
    run_id = load(sessions, first)
    scenario.work_off(sessions, run_id, 0.9)

    edited = [NewRow("c", {"label": "3"}), NewRow("d", {"label": "4"}), NewRow("a", {"label": "changed"})]
    write(sessions, intake.begin_matching, run_id, 2, 2, ["path", "label"])
    assert add(sessions, run_id, edited, matching=True) == 1
    finish(sessions, run_id)

    found = [(image.row, image.path, image.cells, image.state) for image in scenario.images(sessions, run_id)]
    assert found == [
        (1, "a", {"label": "changed"}, "done"),
        (2, "b", {"label": "2"}, "done"),
        (3, "c", {"label": "3"}, "done"),
        (4, "d", {"label": "4"}, "pending"),
    ]
    assert scenario.run(sessions, run_id).gone == 1


def test_a_row_that_was_gone_and_comes_back_is_the_old_row(sessions: Sessions) -> None:
    run_id = load(sessions, rows("a", "b"))
    for size, paths in enumerate([("a",), ("b", "a")], start=2):
        write(sessions, intake.begin_matching, run_id, size, size, ["path"])
        assert add(sessions, run_id, rows(*paths), matching=True) == 0
        finish(sessions, run_id)

    assert scenario.run(sessions, run_id).gone == 0
    assert scenario.run(sessions, run_id).images == 2


def test_matching_pairs_repeated_rejected_and_prompted_rows_one_to_one(sessions: Sessions) -> None:
    first = [*rows("a", "a"), REJECTED, NewRow("a", prompts=("dog",))]
    run_id = load(sessions, first)

    write(sessions, intake.begin_matching, run_id, 2, 2, ["path"])
    new = add(sessions, run_id, [*reversed(first), *rows("a"), REJECTED, NewRow("a", prompts=("cat",))], matching=True)
    finish(sessions, run_id)

    assert new == 3
    assert scenario.states(sessions, run_id) == [
        "pending",
        "duplicate",
        "rejected",
        "pending",
        "duplicate",
        "rejected",
        "pending",
    ]
    run = scenario.run(sessions, run_id)
    assert (run.duplicates, run.rejected) == (2, 2)


def test_a_matching_that_was_killed_goes_on_where_it_stopped(sessions: Sessions) -> None:
    run_id = load(sessions, rows("a", "b", "c"))
    write(sessions, intake.begin_matching, run_id, 2, 2, ["path"])
    add(sessions, run_id, rows("c", "d"), matching=True)

    write(sessions, intake.begin_reading, run_id, 2, 2, ["path"])
    add(sessions, run_id, rows("d", "a"), read=2, matching=True)
    finish(sessions, run_id)

    assert [image.path for image in scenario.images(sessions, run_id)] == ["a", "b", "c", "d", "d"]
    assert scenario.states(sessions, run_id)[-1] == "duplicate"
    assert scenario.run(sessions, run_id).gone == 1


def test_a_row_whose_boxes_were_edited_is_a_new_row_and_all_others_keep_their_results(sessions: Sessions) -> None:
    first = [NewRow("a", boxes=(BOX,)), NewRow("b", boxes=(BOX, NO_BOX)), NewRow("c"), NewRow("d", boxes=(BOX,))]
    run_id = load(sessions, first)
    scenario.work_off(sessions, run_id, 0.9)

    edited = [NewRow("c", boxes=(BOX,)), first[1], NewRow("a", boxes=(NO_BOX,)), NewRow("d")]
    scenario.read_again(sessions, run_id, edited)

    found = [(image.row, image.path, image.state, image.position) for image in scenario.images(sessions, run_id)]
    assert found == [
        (1, "a", "done", None),
        (2, "b", "done", None),
        (3, "c", "done", None),
        (4, "d", "done", None),
        (5, "c", "pending", 1),
        (6, "a", "pending", 3),
        (7, "d", "pending", 4),
    ]
    assert [image.boxes for image in claim(sessions, run_id).images] == [(BOX,), (NO_BOX,), ()]
    assert scenario.run(sessions, run_id).gone == 3


def test_a_prompt_named_twice_in_a_row_is_asked_once(sessions: Sessions) -> None:
    run_id = load(sessions, [NewRow("a", prompts=("dog", "cat", "dog"))])

    [image] = claim(sessions, run_id).images

    assert len(image.prompt_ids) == 2


def test_row_prompts_reuse_the_runs_and_each_other(sessions: Sessions) -> None:
    run_id = load(sessions, [NewRow("a", prompts=("person",)), NewRow("b", prompts=("dog",))], prompts=("person",))
    [a, b] = scenario.images(sessions, run_id)

    ids = write(sessions, prompt_rows.prompt_ids, run_id, ["person", "dog"])

    assert (a.prompts, b.prompts) == ([ids["person"]], [ids["dog"]])


def test_a_run_with_only_rejected_and_duplicate_rows_ends_done(sessions: Sessions) -> None:
    run_id = load(sessions, rows("a"))
    scenario.work_off(sessions, run_id, 0.9)

    write(sessions, intake.begin_reading, run_id, 2, 2, ["path"])
    add(sessions, run_id, [REJECTED, *rows("a")], read=1)
    finish(sessions, run_id)

    assert scenario.states(sessions, run_id) == ["done", "rejected", "duplicate"]
    assert scenario.run(sessions, run_id).state == "done"


def test_a_run_with_only_rejected_rows_ends_done(sessions: Sessions) -> None:
    run_id = load(sessions, [REJECTED, REJECTED])

    assert scenario.run(sessions, run_id).state == "done"
    assert scenario.chunks(sessions, run_id) == []


def test_cells_and_paths_keep_every_character(sessions: Sessions) -> None:
    odd = 'Ä/ö "q",\n\t\\ 😀.jpg'
    run_id = load(sessions, [NewRow(odd, {odd: odd, "": ""})])

    [image] = scenario.images(sessions, run_id)

    assert (image.path, image.cells) == (odd, {odd: odd, "": ""})


def test_a_slice_takes_the_same_few_statements_however_many_rows_it_has(sessions: Sessions) -> None:
    run_id = create(sessions, chunk_size=100)
    sent: list[str] = []
    event.listen(sessions.kw["bind"], "before_cursor_execute", lambda *args: sent.append(args[2].split()[0]))
    new = [NewRow(f"{row}.jpg", {"label": "x"}, ("dog", "cat")) for row in range(1000)]

    add(sessions, run_id, new[:10])
    few = sent[:]
    sent.clear()
    add(sessions, run_id, new[10:], read=10)

    postgresql = sessions.kw["bind"].dialect.name == "postgresql"  # whose COPYs are not seen here
    inserts = [] if postgresql else ["INSERT", "INSERT"]
    # BEGIN on SQLite, SET of the time limits on PostgreSQL: once a transaction.
    assert Counter(sent) - Counter(["BEGIN", "SET"]) == Counter(
        ["UPDATE", "SELECT", "SELECT", "SELECT", "UPDATE", *inserts]
    )
    assert len(few) == len(sent) + 2  # its prompts were new
    finish(sessions, run_id)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_one_slice_may_name_more_paths_and_prompts_than_a_statement_has_parameters(sessions: Sessions) -> None:
    few = (sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 1100)  # by default 32,766, and a slice may have 30,000 rows
    event.listen(sessions.kw["bind"], "checkout", lambda connection, *_: connection.setlimit(*few))
    new = [NewRow(f"{row}.jpg", prompts=(f"number {row}",)) for row in range(2500)]
    run_id = create(sessions, chunk_size=1000)
    assert write(sessions, intake.add_rows, run_id, 0, new) == len(new)

    write(sessions, intake.begin_matching, run_id, 2, 2, ["path"])

    assert write(sessions, intake.add_rows, run_id, 0, [*reversed(new), new[0]], matching=True) == 1
    assert finish(sessions, run_id) == 1
