"""Formats that fill a folder fill a part of a bucket with the same files, by the same rules, and never twice."""

import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from db.session import Sessions
from producer.results.common import ExportRequest, Summary
from producer.results.files.bucket_output import BucketOutput
from producer.results.files.folder_writer import FolderWriter
from producer.results.files.inputs import Inputs
from producer.results.formats import format_named
from tests import buckets as door
from tests.buckets import SECRET, Bucket
from tests.producer.results.conftest import SIZE, MakeRequest
from tests.producer.results.finished import Done, Finished, Input, finish
from workers.errors import UsageError
from workers.places import buckets

# pycocotools' compiled decode does not follow numpy 2's protocol yet; the masks are right.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

FORMATS = ("png", "cutout", "labelme", "yolo-seg", "webdataset", "coco")
OWN: dict[str, dict[str, object]] = {"coco": {"shard_images": 1}}
PART = "results/x"

To = Callable[..., ExportRequest]


@pytest.fixture(autouse=True)
def _no_retries(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "RETRIES", 0)


@pytest.fixture(autouse=True)
def _photos(run: Finished, tmp_path: Path) -> None:
    """All images of the run in which something may be found."""
    pixels = np.random.default_rng(1).integers(1, 255, (*SIZE[::-1], 3), dtype=np.uint8)
    for name in ("in/a.jpg", "in/sub/b.jpg", "outside/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(pixels).save(tmp_path / name, format="PNG")


@pytest.fixture
def to_bucket(request_for: MakeRequest, bucket: Bucket) -> To:
    """Make a request for a format whose files go below `PART` of the bucket."""

    def make(name: str, *, force: bool = False, inputs: Inputs | None = None, **given: object) -> ExportRequest:
        targets = BucketOutput(f"{bucket.url}/{PART}", inputs, force=force)
        request = request_for("any", **OWN.get(name, {}) | given)
        return replace(request, out=targets.named, targets=targets, jobs=2)

    return make


def export(run: Finished, name: str, request: ExportRequest) -> Summary:
    return format_named(name).write(request, run.images(request), lambda count: None)


def objects(bucket: Bucket) -> dict[str, bytes]:
    found = {}
    for path, _, _ in buckets.objects(f"{bucket.url}/{PART}"):
        content = bucket.get(f"{PART}/{path}")
        assert content is not None
        found[path] = content
    return found


def files(folder: Path) -> dict[str, bytes]:
    names = [path for path in folder.rglob("*") if path.is_file() and path.name != ".sam3-files"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in names}


def members(tar: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=BytesIO(tar)) as opened:
        return {one.name: opened.extractfile(one).read() for one in opened}  # type: ignore[union-attr]


def puts(bucket: Bucket) -> int:
    return sum(count for (method, _), count in bucket.asked.items() if method in ("PUT", "POST", "DELETE"))


@pytest.mark.parametrize("name", FORMATS)
def test_a_part_of_a_bucket_gets_the_files_of_a_folder_once(
    run: Finished, request_for: MakeRequest, to_bucket: To, bucket: Bucket, name: str
) -> None:
    here = request_for("here", **OWN.get(name, {}))
    written = export(run, name, here)
    summary = export(run, name, to_bucket(name))
    assert (summary.images, summary.instances) == (written.images, written.instances)
    there, local = objects(bucket), files(here.out)
    assert there.keys() == local.keys()
    for path, content in local.items():
        if name == "webdataset" and path.endswith(".tar"):
            assert members(there[path]) == members(content)
        elif name == "labelme" and not path.startswith("."):
            assert Path(json.loads(there[path])["imagePath"]).is_file()  # no way leads from a bucket to a disk
        else:
            assert there[path] == content

    for record in {".sam3-masks.json", ".sam3-export.json"} & there.keys():
        assert json.loads(there[record])["origin"].items() >= {"run": "list", "model": "tiny", "min_score": 0.5}.items()

    before = puts(bucket)
    again = export(run, name, to_bucket(name))
    assert objects(bucket).keys() == there.keys()
    if name not in ("webdataset", "coco"):  # these are few large files, which are written again, as in a folder
        assert (again.kept, puts(bucket) - before) == (summary.files, 1 if name == "yolo-seg" else 0)


def test_what_a_killed_export_left_is_recognised_and_finished(
    run: Finished, to_bucket: To, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as killed:
        killed.setattr(FolderWriter, "finish", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            export(run, "png", to_bucket("png"))
    left = objects(bucket)
    assert json.loads(left[".sam3-masks.json"])["complete"] is False
    summary = export(run, "png", to_bucket("png"))
    assert summary.files == 2
    assert json.loads(objects(bucket)[".sam3-masks.json"])["complete"] is True
    assert bucket.asked["PUT", f"{PART}/person/a.jpg.png"] == 1


def test_masks_of_another_choice_replace_and_remove_the_old_ones(run: Finished, to_bucket: To, bucket: Bucket) -> None:
    export(run, "png", to_bucket("png"))
    old = objects(bucket)
    export(run, "png", to_bucket("png", min_score=0.8))
    new = objects(bucket)
    assert old.keys() - new.keys() == {path for path in old if path.startswith("red_hat/")} != set()
    assert new["person/a.jpg.png"] != old["person/a.jpg.png"]


@pytest.mark.parametrize(
    ("name", "key"), [("png", "person/a.jpg.png"), ("labelme", "a.json"), ("yolo-seg", "data.yaml")]
)
def test_an_object_that_is_not_ours_or_was_changed_is_refused_and_replaced_by_force(
    run: Finished, to_bucket: To, bucket: Bucket, name: str, key: str
) -> None:
    bucket.put(f"{PART}/{key}", b"mine")
    refused = f"s3://{bucket.name}/{PART}/{key} was not made by an export of ours, so it is not replaced"
    with pytest.raises(UsageError, match=refused):
        export(run, name, to_bucket(name))
    assert bucket.get(f"{PART}/{key}") == b"mine"
    export(run, name, to_bucket(name, force=True))
    assert bucket.get(f"{PART}/{key}") != b"mine"
    bucket.put(f"{PART}/{key}", b"corrected by hand")
    with pytest.raises(UsageError, match=refused):
        export(run, name, to_bucket(name))
    assert bucket.get(f"{PART}/{key}") == b"corrected by hand"


def test_masks_that_were_copied_there_are_ours_by_their_own_mark(
    run: Finished, request_for: MakeRequest, to_bucket: To, bucket: Bucket
) -> None:
    here = request_for("here")
    export(run, "png", here)
    for path, content in files(here.out).items():
        bucket.put(f"{PART}/{path}", content)
    assert export(run, "png", to_bucket("png")).files == 2


@pytest.mark.parametrize(
    ("first", "then", "said"),
    [
        ("png", "cutout", "holds masks: choose another -o for cutout"),
        ("labelme", "cutout", "holds files of the format labelme: choose another -o for cutout"),
        ("cutout", "png", "holds files of the format cutout: choose another -o for png"),
    ],
)
def test_a_part_that_holds_another_format_or_run_is_refused_by_its_url(
    run: Finished, to_bucket: To, bucket: Bucket, first: str, then: str, said: str
) -> None:
    export(run, first, to_bucket(first))
    with pytest.raises(UsageError, match=f"s3://{bucket.name}/{PART} {said}"):
        export(run, then, to_bucket(then))
    other = replace(to_bucket(first), view=replace(run.view, name="other", uid="f" * 32))
    with pytest.raises(UsageError, match=f"s3://{bucket.name}/{PART} holds .* of run list"):
        export(run, first, other)


def test_an_input_of_a_run_is_never_replaced_though_an_export_of_ours_made_it(
    run: Finished, to_bucket: To, bucket: Bucket, tmp_path: Path
) -> None:
    export(run, "png", to_bucket("png"))
    reads_masks(run.sessions, tmp_path, f"{bucket.url}/{PART}")
    with pytest.raises(UsageError, match=r"/person/a\.jpg\.png is an image of run masks, so it is not replaced"):
        export(run, "png", to_bucket("png", inputs=Inputs(run.sessions), min_score=0.8))
    export(run, "png", to_bucket("png", inputs=Inputs(run.sessions)))  # nothing changes


def reads_masks(sessions: Sessions, folder: Path, root: str) -> None:
    """A second run in the same database, whose images are the masks of the first."""
    from db import intake
    from db.intake import NewRow
    from db.values import Frozen, Source

    source = Source(root, "path", ("path",), root, False, False)
    with sessions.begin() as session:
        id = intake.create_run(session, "masks", source, Frozen("tiny", 0.5, 0.5, 0.3, "library", "exif"), ("a",), 10)
        intake.add_rows(session, id, 0, [NewRow("person/a.jpg.png")])
        intake.finish_load(session, id, None)


def test_images_of_a_bucket_are_copied_into_a_dataset_and_those_that_changed_are_left_out(
    to_bucket: To, bucket: Bucket, tmp_path: Path
) -> None:
    (tmp_path / "b").mkdir()
    from db.intake import NewRow

    bucket.put("photos/a.png", b"one")
    bucket.put("photos/b.png", b"two")
    given = Input(tmp_path, [NewRow(f"{bucket.url}/photos/{name}.png") for name in "ab"])
    of_bucket = finish(tmp_path / "b", given, {row.path: Done({}, SIZE) for row in given.rows})
    bucket.delete("photos/b.png")
    request = replace(to_bucket("yolo-seg"), view=of_bucket.view)
    summary = export(of_bucket, "yolo-seg", request)
    assert "1 not made, as their images cannot be read as they were" in summary.told
    assert [content for path, content in objects(bucket).items() if path.startswith("images/")] == [b"one"]


@pytest.mark.parametrize("fault", [door.FORBIDDEN, door.BROKEN])
@pytest.mark.parametrize("name", FORMATS)
def test_what_keeps_files_from_being_written_is_said_in_one_line(
    run: Finished, to_bucket: To, bucket: Bucket, name: str, fault: str
) -> None:
    bucket.faults[""] = fault
    with pytest.raises(UsageError, match=f"cannot write: the server says {fault}") as refused:
        export(run, name, to_bucket(name))
    assert str(refused.value).startswith(f"s3://{bucket.name}/{PART}")
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("name", FORMATS)
def test_a_bucket_that_is_not_there_is_told_before_anything_is_made(run: Finished, to_bucket: To, name: str) -> None:
    targets = BucketOutput("s3://no-such-bucket-of-ours/x")
    request = replace(to_bucket(name), out=targets.named, targets=targets)
    with pytest.raises(UsageError, match=r"s3://no-such-bucket-of-ours/x.*: the server says 404 Not Found"):
        format_named(name).write(request, iter(pytest.fail("rows were read") for _ in "1"), lambda count: None)
