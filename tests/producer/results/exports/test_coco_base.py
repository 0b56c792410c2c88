"""A COCO file of somebody gets our categories and loses nothing; a large export is several files."""

import json
from pathlib import Path
from typing import Any

import pytest
from pycocotools.coco import COCO

from producer.results.common import ExportRequest, Summary
from producer.results.exports.coco import export_coco
from tests.producer.results.conftest import MakeRequest
from tests.producer.results.finished import Finished
from workers.errors import UsageError

# pycocotools' compiled decode does not follow numpy 2's protocol yet; the masks are right.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

THEIRS: dict[str, Any] = {
    "info": {"contributor": "Ü", "version": 1.0},
    "images": [
        {"id": 70, "file_name": "sub/../a.jpg", "width": 64, "height": 48, "mine": [None, 1e-7]},
        {"id": 71, "file_name": "sub/b.jpg", "width": 9, "height": 9},
        {"id": 5, "file_name": "elsewhere.jpg"},
    ],
    "categories": [{"id": 3, "name": "person", "supercategory": ""}],
    "annotations": [{"id": 900, "image_id": 70, "category_id": 3, "segmentation": [[1, 1, 5, 1, 5, 5]]}],
    "their own": {"reviewed": True},
}  # fmt: skip


def export(run: Finished, request: ExportRequest) -> Summary:
    return export_coco(request, run.images(request), lambda count: None)


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    file = tmp_path / "theirs.json"
    file.write_text(json.dumps(THEIRS))
    return file


def test_all_of_a_file_stays_and_a_category_that_it_has_gets_nothing_of_ours(
    run: Finished, request_for: MakeRequest, theirs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = theirs.read_bytes()
    request = request_for("c.json", merge=str(theirs), min_score=0.4)
    summary = export(run, request)
    assert theirs.read_bytes() == before
    merged = json.loads(request.out.read_text("utf-8"))
    for name in ("images", "categories", "annotations"):
        assert merged[name][: len(THEIRS[name])] == THEIRS[name]
    assert {key: merged[key] for key in ("info", "their own")} == {key: THEIRS[key] for key in ("info", "their own")}

    [added] = merged["categories"][1:]
    assert (added["id"], added["name"]) == (4, "Red hat")
    [outside] = merged["images"][3:]
    assert outside["id"] == 72
    hats = merged["annotations"][1:]
    assert [(one["id"], one["image_id"], one["category_id"]) for one in hats] == [(901, 70, 4), (902, 72, 4)]
    assert summary.told == ("1 left out, as they have another size in --merge",)
    assert len(COCO(str(request.out)).anns) == 3
    assert merged["sam3_merged"][0]["run"] == "list"


def test_whatever_somebody_has_written_into_the_file_stays(
    run: Finished, request_for: MakeRequest, theirs: Path
) -> None:
    """Names that are no text, sizes that are null, half a character, which JSON can spell and UTF-8 cannot."""
    images = [{"id": 1, "file_name": "a.jpg", "width": None, "height": None}, {"id": 2, "file_name": ["x"]}]
    odd = {"images": images, "categories": [{"id": 1, "name": ["x"]}], "annotations": [], "note": "\ud800"}
    theirs.write_text(json.dumps(odd))
    request = request_for("c.json", merge=str(theirs))
    assert export(run, request).told == ()
    merged = json.loads(request.out.read_text("utf-8"))
    assert merged["note"] == "\ud800"
    assert merged["images"][:2] == images
    assert merged["categories"][0] == odd["categories"][0]
    assert merged["annotations"][0]["image_id"] == 1


def test_a_merged_file_is_ours_until_somebody_saves_it(run: Finished, request_for: MakeRequest, theirs: Path) -> None:
    request = request_for("c.json", merge=str(theirs))
    export(run, request)
    before = request.out.read_bytes()
    export(run, request)
    assert request.out.read_bytes() == before
    again = request_for("d.json", merge=str(request.out))
    with pytest.raises(UsageError, match="has a category for each class already, so there is nothing to add"):
        export(run, again)
    request.out.write_text(json.dumps(json.loads(before)))
    with pytest.raises(UsageError, match="was not made by an export of ours"):
        export(run, request)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is no JSON"),
        ("[]", "it needs a list images"),
        ('{"images": [], "categories": []}', "it needs a list annotations"),
        ('{"images": [{"id": "a"}], "categories": [], "annotations": []}', "it needs a list images"),
        ('{"images": [], "categories": [], "annotations": [{"id": 1, "area": NaN}]}', "it has NaN"),
        ('{"images": [], "categories": [], "annotations": [], "sam3_merged": "x"}', "its sam3_merged is no list"),
    ],
)
def test_what_is_no_coco_file_is_refused_before_anything_is_written(
    run: Finished, request_for: MakeRequest, theirs: Path, content: str, said: str
) -> None:
    theirs.write_text(content)
    request = request_for("c.json", merge=str(theirs))
    with pytest.raises(UsageError, match=said):
        export(run, request)
    assert not request.out.exists()


def test_the_file_itself_is_no_place_for_the_result(run: Finished, request_for: MakeRequest, theirs: Path) -> None:
    request = request_for("../theirs.json", merge=str(theirs))
    (theirs.parent / "out").mkdir()
    with pytest.raises(UsageError, match="which is never changed: name a new file"):
        export(run, request)


def test_several_files_hold_together_what_one_holds(run: Finished, request_for: MakeRequest) -> None:
    one, parts = request_for("one.json"), request_for("parts", shard_images=2)
    export(run, one)
    summary = export(run, parts)
    files = sorted(parts.out.iterdir())
    assert [file.name for file in files] == ["coco-000000.json", "coco-000001.json"]
    assert (summary.images, summary.instances, summary.files) == (3, 3, 2)
    whole, read = json.loads(one.out.read_text()), [json.loads(file.read_text()) for file in files]
    for name in ("images", "annotations"):
        assert [entry for part in read for entry in part[name]] == whole[name]
    assert all(part["categories"] == whole["categories"] for part in read)
    assert sum(len(COCO(str(file)).anns) for file in files) == 3

    foreign = parts.out / "coco-000002.json"
    foreign.write_text("mine")
    export(run, request_for("parts", shard_images=5))
    assert [file.name for file in sorted(parts.out.iterdir())] == [
        "coco-000000.json", "coco-000002.json"
    ]  # fmt: skip


def test_several_files_go_with_no_merge(run: Finished, request_for: MakeRequest, theirs: Path) -> None:
    with pytest.raises(UsageError, match="several files go with neither --merge nor standard output"):
        export(run, request_for("c.json", shard_images=5, merge=str(theirs)))
