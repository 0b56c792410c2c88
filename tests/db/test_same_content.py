"""What images of the same content got, on SQLite and on PostgreSQL."""

from dataclasses import replace

from sqlalchemy import event

from db.claims import Claim
from db.outcomes import ImageDone
from db.redo import last_chunk_before, redo_slice
from db.same_content import DoneBefore, done_before
from db.session import Sessions, read, write
from db.values import FoundInstance, PromptResult
from tests.db import scenario
from tests.db.scenario import claim, load, numbered, rows

A, B, C = (bytes([number]) * 16 for number in range(3))


def commit(sessions: Sessions, held: Claim, contents: list[bytes], *scores: float) -> list[ImageDone]:
    done = [
        replace(scenario.done(image, *scores), content=content)
        for image, content in zip(held.images, contents, strict=True)
    ]
    scenario.commit(sessions, held, done)
    return done


def got(done: ImageDone) -> DoneBefore:
    return DoneBefore(done.width, done.height, done.warning, {result.prompt_id: result for result in done.results})


def test_an_image_is_found_by_its_content_with_all_that_it_got(sessions: Sessions) -> None:
    run_id = load(sessions, rows("a.jpg", "b.jpg", "c.jpg"), prompts=("person", "car"))
    held = claim(sessions, run_id)
    person, car = held.images[0].prompt_ids
    found = tuple(FoundInstance(score, (score, -2.5, 3, 4), 7, b"\0rle") for score in (0.9, 0.4))
    first = ImageDone(
        held.images[0].id,
        64,
        48,
        (PromptResult(person, 0.9, True, found), PromptResult(car, 0.2, False, ())),
        content=A,
        warning="dark",
    )
    empty = replace(scenario.done(held.images[1]), content=B)
    scenario.commit(sessions, held, [first, empty])

    assert read(sessions, done_before, run_id, [A, B, C]) == {A: got(first), B: got(empty)}
    assert read(sessions, done_before, run_id, [C]) == {}
    assert read(sessions, done_before, run_id, []) == {}


def test_neither_another_run_nor_an_image_that_is_computed_again_is_taken(sessions: Sessions) -> None:
    run_id, other = load(sessions, rows("a.jpg", "b.jpg")), load(sessions, rows("a.jpg"), name="other")
    first, second = commit(sessions, claim(sessions, run_id), [A, A], 0.9)
    commit(sessions, claim(sessions, other), [B])
    assert read(sessions, done_before, run_id, [B]) == {}

    last = read(sessions, last_chunk_before, run_id)
    write(sessions, redo_slice, run_id, [first.image_id], last)
    assert read(sessions, done_before, run_id, [A]) == {A: got(second)}
    write(sessions, redo_slice, run_id, [second.image_id], last)
    assert read(sessions, done_before, run_id, [A]) == {}


def test_an_image_whose_file_was_replaced_has_the_new_content_alone(sessions: Sessions) -> None:
    run_id = load(sessions, rows("a.jpg"))
    [old] = commit(sessions, claim(sessions, run_id), [A], 0.9)
    write(sessions, redo_slice, run_id, [old.image_id], read(sessions, last_chunk_before, run_id))
    [new] = commit(sessions, claim(sessions, run_id), [B], 0.4)
    assert read(sessions, done_before, run_id, [A, B]) == {B: got(new)}


def test_a_thousand_copies_are_asked_for_as_one(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(1000), chunk_size=1000)
    commit(sessions, claim(sessions, run_id), [A] * 1000, 0.9)
    statements = []
    engine = sessions.kw["bind"]
    event.listen(engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    [one] = read(sessions, done_before, run_id, [A, B]).values()
    assert len(one.results) == 1
    assert len([statement for statement in statements if "image" in statement]) == 2


def test_a_run_that_does_not_look_for_copies_notes_no_content_and_names_none(sessions: Sessions) -> None:
    run_id = load(sessions, rows("a.jpg"))
    held = claim(sessions, run_id)
    statements = []
    engine = sessions.kw["bind"]
    event.listen(engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    scenario.commit_all(sessions, held, 0.9)
    assert not any("content" in statement for statement in statements)
    assert [image.content for image in scenario.images(sessions, run_id)] == [None]
