"""The CSV keeps the input and adds what was found."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from db.intake import NewRow
from producer.results.choice import Choice
from producer.results.common import ExportRequest, Summary
from producer.results.exports.csv_file import export_csv
from producer.results.exports.mask_folder import MANIFEST
from producer.results.exports.png import export_png
from tests.producer.results.conftest import LARGE, SIZE, SMALL, MakeRequest
from tests.producer.results.finished import Done, Finished, Input, finish
from workers.errors import UsageError

# pycocotools' compiled decode does not follow numpy 2's protocol yet; the masks are right.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def export(run: Finished, request: ExportRequest) -> tuple[Summary, list[dict[str, str]]]:
    summary = export_csv(request, run.images(request), lambda count: None)
    with request.out.open(encoding="utf-8", newline="") as file:
        return summary, list(csv.DictReader(file))


def export_masks(run: Finished, request: ExportRequest) -> Path:
    """The masks that go with a table: at the same score, and where it looks for them."""
    assert request.masks is not None
    masks = replace(request, out=request.masks)
    export_png(masks, run.images(masks), lambda count: None)
    return request.masks


def column(rows: list[dict[str, str]], name: str) -> list[str]:
    return [row[name] for row in rows]


def test_the_input_comes_back_unchanged_and_in_order(run: Finished, request_for: MakeRequest, tmp_path: Path) -> None:
    _, rows = export(run, request_for("r.csv"))
    assert list(rows[0])[:6] == ["path", "label", "sam3_status", "sam3_error", "sam3_width", "sam3_height"]
    outside = str(tmp_path / "outside" / "c.png")
    assert column(rows, "path") == ["a.jpg", "sub/b.jpg", outside, "broken.jpg", "late.jpg", "./a.jpg", "short.jpg"]
    assert column(rows, "label") == ['x, "y"\r', "", "far", "4", "5", "again", ""]


def test_every_row_has_its_status_and_its_error(run: Finished, request_for: MakeRequest) -> None:
    _, rows = export(run, request_for("r.csv"))
    assert column(rows, "sam3_status") == [
        "segmented",
        "empty",
        "segmented",
        "failed",
        "pending",
        "duplicate",
        "rejected",
    ]
    errors = ["", "", "", "truncated: ends after 100 bytes of 2000", "", "", "bad_row: 1 cell instead of 2"]
    assert column(rows, "sam3_error") == errors
    assert column(rows, "sam3_width") == ["64", "64", "64", "", "", "64", ""]
    assert column(rows, "sam3_height") == ["48", "48", "48", "", "", "48", ""]


def test_every_prompt_has_its_columns(run: Finished, request_for: MakeRequest, tmp_path: Path) -> None:
    request = request_for("r.csv", masks="masks")
    export_masks(run, request)
    summary, rows = export(run, request)
    assert column(rows, "person_instances") == ["2", "0", "0", "", "", "2", ""]
    assert column(rows, "person_score") == ["0.900000", "", "", "", "", "0.900000", ""]
    assert column(rows, "person_presence") == ["0.250000"] * 3 + ["", "", "0.250000", ""]
    assert column(rows, "person_mask") == ["masks/person/a.jpg.png", "", "", "", "", "masks/person/a.jpg.png", ""]
    assert column(rows, "red_hat_mask")[2] == f"masks/red_hat/_absolute{tmp_path}/outside/c.png.png"
    assert summary == Summary(images=7, instances=3, files=1, path=tmp_path / "out" / "r.csv")


def test_masks_elsewhere_have_absolute_paths_and_masks_not_exported_none(
    run: Finished, request_for: MakeRequest, tmp_path: Path
) -> None:
    request = request_for("deep/r.csv", masks="masks")
    export_masks(run, request)
    _, rows = export(run, request)
    assert rows[0]["person_mask"] == str(tmp_path / "out" / "masks" / "person" / "a.jpg.png")
    _, rows = export(run, request_for("r.csv"))
    assert set(column(rows, "person_mask")) == {""}


@pytest.mark.parametrize(("min_score", "people", "hats"), [(0.3, "3", "1"), (0.5, "2", "0"), (0.95, "0", "0")])
def test_another_score_changes_the_counts_but_not_the_status(
    run: Finished, request_for: MakeRequest, min_score: float, people: str, hats: str
) -> None:
    request = request_for("r.csv", min_score=min_score, masks="m")
    export_masks(run, request)
    _, rows = export(run, request)
    assert (rows[0]["person_instances"], rows[0]["red_hat_instances"]) == (people, hats)
    assert (rows[0]["sam3_status"], rows[1]["sam3_status"]) == ("segmented", "empty")
    assert bool(rows[0]["person_mask"]) == (people != "0")


def test_the_same_export_gives_the_same_bytes_and_reports_its_progress(run: Finished, request_for: MakeRequest) -> None:
    request, seen = request_for("r.csv"), list[int]()
    export_csv(request, run.images(request), seen.append)
    first = request.out.read_bytes()
    export_csv(request, run.images(request), seen.append)
    assert request.out.read_bytes() == first
    assert seen == [1, 2, 3, 4, 5, 6, 7] * 2
    assert first.count(b"\n") == 8
    assert b"\r\n" not in first


def test_columns_that_the_input_has_already_are_numbered(tmp_path: Path) -> None:
    rows = [NewRow("a.jpg", {"person_mask": "mine"})]
    given = Input(tmp_path, rows, ("person",), ("path", "person_mask"))
    run = finish(tmp_path, given, {"a.jpg": Done({"person": [(0.9, SMALL)]}, SIZE)})
    request = ExportRequest(run.view, Choice(0.5), tmp_path / "r.csv", masks=tmp_path / "masks")
    export_masks(run, request)
    _, [row] = export(run, request)
    assert row["person_mask"] == "mine"
    assert row["person_2_mask"] == "masks/person/a.jpg.png"
    assert row["person_2_instances"] == "1"


def test_rows_with_their_own_prompts_share_their_columns(tmp_path: Path) -> None:
    rows = [NewRow("a.jpg", {"what": "dog|Cat"}, ("dog", "Cat")), NewRow("b.jpg", {"what": "dog"}, ("dog",))]
    ends = {
        "a.jpg": Done({"Cat": [(0.9, SMALL), (0.8, LARGE)], "dog": []}, SIZE),
        "b.jpg": Done({"dog": [(0.75, SMALL)]}, SIZE),
    }
    run = finish(tmp_path, Input(tmp_path, rows, (), ("path", "what")), ends)
    request = ExportRequest(run.view, Choice(0.5), tmp_path / "r.csv", masks=tmp_path / "m")
    export_masks(run, request)
    _, [both, one] = export(run, request)
    assert sorted(both["prompt_instances"].split("|")) == ["0", "2"]
    assert sorted(both["prompt_mask"].split("|")) == ["", "m/cat/a.jpg.png"]
    assert one["prompt_score"] == "0.750000"
    assert one["prompt_mask"] == "m/dog/b.jpg.png"


def test_a_count_that_may_be_too_low_is_capped(tmp_path: Path) -> None:
    rows = [NewRow("a.jpg"), NewRow("b.jpg", prompts=("cat", "person")), NewRow("late.jpg")]
    ends = {
        "a.jpg": Done({"person": [(0.9, SMALL)]}, SIZE, capped=["person"]),
        "b.jpg": Done({"person": [(0.9, SMALL)]}, SIZE, capped=["cat"]),
    }
    run = finish(tmp_path, Input(tmp_path, rows), ends)
    _, [capped, other, pending] = export(run, ExportRequest(run.view, Choice(0.5), tmp_path / "r.csv", partial=True))

    assert (capped["person_capped"], capped["prompt_capped"]) == ("true", "true")
    assert (other["person_capped"], other["prompt_capped"]) == ("false", "true|false")
    assert (pending["person_capped"], pending["prompt_capped"]) == ("", "")


def test_a_folder_as_target_is_refused(run: Finished, request_for: MakeRequest) -> None:
    request = request_for("folder")
    request.out.mkdir(parents=True)
    with pytest.raises(UsageError, match="is a folder"):
        export_csv(request, [], lambda count: None)


def test_a_mask_that_is_missing_or_was_made_from_other_instances_is_blank(
    run: Finished, request_for: MakeRequest
) -> None:
    low = request_for("low.csv", min_score=0.3, masks="masks")  # finds three masks
    summary, rows = export(run, low)
    assert (summary.blank_masks, column(rows, "person_mask")[0]) == (5, ""), "the duplicate's are blank too"

    export_masks(run, low)
    summary, rows = export(run, low)
    assert (summary.blank_masks, column(rows, "person_mask")[0]) == (0, "masks/person/a.jpg.png")

    summary, rows = export(run, request_for("r.csv", masks="masks"))  # the first has one instance less from 0.5
    assert summary.blank_masks == 2
    assert column(rows, "person_mask") == [""] * 7
    assert column(rows, "red_hat_mask")[2].endswith("c.png.png"), "of the same instance at both scores"

    (low.out.parent / "masks" / "person" / "a.jpg.png").unlink()
    summary, rows = export(run, low)
    assert (summary.blank_masks, column(rows, "person_mask")[0]) == (2, "")
    assert column(rows, "red_hat_mask")[0] == "masks/red_hat/a.jpg.png"


def test_the_masks_say_themselves_how_they_were_selected(run: Finished, request_for: MakeRequest) -> None:
    export_masks(run, request_for("r.csv", masks="masks", select="best"))
    summary, rows = export(run, request_for("r.csv", masks="masks"))
    assert (summary.blank_masks, column(rows, "person_mask")[0]) == (0, "masks/person/a.jpg.png")


def test_masks_of_another_run_or_of_nobody_are_not_named(run: Finished, request_for: MakeRequest) -> None:
    request = request_for("r.csv", masks="masks")
    folder = export_masks(run, request)
    other = replace(request, view=replace(run.view, uid="f" * 32, name="other"))
    assert export(run, other)[0].blank_masks == 3
    (folder / MANIFEST).write_text('{"by": "somebody else"}')
    assert export(run, request)[0].blank_masks == 3


def test_an_image_computed_again_has_no_mask_until_it_is_exported_again(
    run: Finished, request_for: MakeRequest
) -> None:
    request = request_for("r.csv", masks="masks")
    export_masks(run, request)
    [first, *others] = run.images(request)
    [person, hat] = first.results
    less = replace(first, results=(replace(person, instances=person.instances[:1]), hat))
    summary = export_csv(request, [less, *others], lambda count: None)
    assert summary.blank_masks == 1
