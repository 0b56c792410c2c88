"""The same name with other settings: a run without results is corrected and goes on at once."""

from dataclasses import replace
from pathlib import Path

import pytest

from db import claims
from db.runs import run_id_of
from db.session import Sessions, read, write
from db.views.run_views import run_view
from producer.runs.load import Recorded, record
from producer.runs.operate import cancel
from producer.runs.request import RunRequest
from producer.sources.source import ReadOptions
from producer.sources.text.csv_source import CsvSource
from tests.db import scenario
from workers.errors import UsageError

REQUEST = RunRequest("faces", ("person",), scenario.FROZEN, chunk_size=2)
RIGHT = replace(REQUEST, prompts=("dog",), frozen=replace(scenario.FROZEN, model="facebook/sam3"))


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    csv = tmp_path / "faces.csv"
    csv.write_text("path,label,what\na.jpg,1,cat\nb.jpg,2,\nc.jpg,3,dog|cat\n")
    return csv


def load(sessions: Sessions, source: CsvSource, request: RunRequest = REQUEST) -> Recorded:
    return record(sessions, source, request, lambda done, total: None)


def served(sessions: Sessions) -> tuple[str, list[str], list[str]]:
    """Model, prompts and states of the run, which is worked off and must then be done."""
    run_id = read(sessions, run_id_of, "faces")
    assert run_id is not None
    states = scenario.states(sessions, run_id)
    scenario.work_off(sessions, run_id, 0.9)
    run = read(sessions, run_view, run_id)
    assert run is not None
    assert run.state == "done"
    return run.frozen.model, [run.prompts[one] for one in run.every_image], states


def test_a_wrong_model_and_prompt_are_corrected_by_the_same_name_and_said(sessions: Sessions, faces: Path) -> None:
    first = load(sessions, CsvSource(faces))
    again = load(sessions, CsvSource(faces), RIGHT)
    assert (again.run_id, again.new_rows) == (first.run_id, 0)
    assert again.corrected == "run faces had no results yet: model tiny -> facebook/sam3; prompt person -> dog"
    assert load(sessions, CsvSource(faces), RIGHT).corrected == ""
    assert served(sessions) == ("facebook/sam3", ["dog"], ["pending"] * 3)


def test_what_failed_or_rests_under_the_wrong_settings_is_tried_again_at_once(sessions: Sessions, faces: Path) -> None:
    run_id = load(sessions, CsvSource(faces)).run_id
    one, other = scenario.claim(sessions, run_id, worker_id=1), scenario.claim(sessions, run_id, worker_id=2)
    scenario.commit(sessions, one, [scenario.failed(image, "prompt") for image in one.images])
    write(sessions, claims.fail_attempt, other, "the wrong model")
    load(sessions, CsvSource(faces), RIGHT)
    assert served(sessions) == ("facebook/sam3", ["dog"], ["pending"] * 3)


def test_a_run_that_failed_as_a_whole_or_was_cancelled_is_taken_up_again(sessions: Sessions, faces: Path) -> None:
    run_id = load(sessions, CsvSource(faces)).run_id
    while (held := scenario.try_claim(sessions, run_id)) is not None:
        scenario.commit(sessions, held, [scenario.failed(image, "missing") for image in held.images])
    load(sessions, CsvSource(faces), RIGHT)
    cancel(sessions, run_id)
    load(sessions, CsvSource(faces))
    assert served(sessions) == ("tiny", ["person"], ["pending"] * 3)


def test_another_column_or_root_is_read_anew(sessions: Sessions, faces: Path, tmp_path: Path) -> None:
    load(sessions, CsvSource(faces, ReadOptions(image_column="label")))
    by_column = load(sessions, CsvSource(faces))
    assert by_column.new_rows == 3
    assert by_column.corrected == "run faces had no results yet: image-column label -> path"
    by_root = load(sessions, CsvSource(faces, ReadOptions(root=tmp_path / "images")))
    assert by_root.corrected == f"run faces had no results yet: image-root none -> {tmp_path}/images"
    by_row = load(
        sessions,
        CsvSource(faces, ReadOptions(needs_prompt=True, prompt_column="what")),
        replace(REQUEST, prompts=()),
    )
    assert by_row.corrected.startswith(
        "run faces had no results yet: prompt person -> none; prompt-column none -> what"
    )
    assert scenario.states(sessions, by_row.run_id) == ["pending", "rejected", "pending"]
    by_box = load(sessions, CsvSource(faces, ReadOptions(box_column="label")))
    assert by_box.corrected.endswith("prompt-column what -> none; box-column none -> label")
    with_both = load(sessions, CsvSource(faces, ReadOptions(prompt_column="what")))
    assert scenario.states(sessions, with_both.run_id) == ["pending"] * 3
    assert [image.path for image in scenario.images(sessions, with_both.run_id)] == ["a.jpg", "b.jpg", "c.jpg"]


def test_a_wrong_root_does_not_cost_the_run_that_is_there(sessions: Sessions, faces: Path, tmp_path: Path) -> None:
    def nothing_there(paths: object) -> None:
        raise UsageError("none is there")

    first = load(sessions, CsvSource(faces))
    with pytest.raises(UsageError, match="none is there"):
        load(sessions, CsvSource(faces, ReadOptions(root=tmp_path / "no")), replace(REQUEST, check=nothing_there))
    assert scenario.states(sessions, first.run_id) == ["pending"] * 3
    assert load(sessions, CsvSource(faces)).corrected == ""


def test_prompts_in_another_order_are_no_other_prompts(sessions: Sessions, faces: Path) -> None:
    run_id = load(sessions, CsvSource(faces), replace(REQUEST, prompts=("person", "dog"))).run_id
    scenario.work_off(sessions, run_id, 0.9)
    assert load(sessions, CsvSource(faces), replace(REQUEST, prompts=("dog", "person"))).new_rows == 0


def test_a_load_that_was_killed_is_corrected_too(
    sessions: Sessions, faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("producer.runs.load._mark_duplicates", killed)
    with pytest.raises(KeyboardInterrupt):
        load(sessions, CsvSource(faces))
    monkeypatch.undo()
    assert load(sessions, CsvSource(faces), RIGHT).corrected
    assert served(sessions) == ("facebook/sam3", ["dog"], ["pending"] * 3)


def test_a_correction_that_was_killed_is_finished_by_the_same_command(
    sessions: Sessions, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    load(sessions, CsvSource(faces))
    monkeypatch.setattr("producer.runs.corrections.delete", killed)
    right = CsvSource(faces, ReadOptions(root=tmp_path))
    with pytest.raises(KeyboardInterrupt):
        load(sessions, right, RIGHT)
    monkeypatch.undo()
    assert load(sessions, right, RIGHT).new_rows == 3
    assert served(sessions) == ("facebook/sam3", ["dog"], ["pending"] * 3)
