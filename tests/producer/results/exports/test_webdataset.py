"""Shards hold images and annotations, as the library webdataset reads them."""

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from PIL import Image
from pycocotools import mask as coco_mask
from sqlalchemy import update

from db.intake import NewRow
from db.models import Image as Row
from producer.results.choice import Choice
from producer.results.common import ExportRequest, Summary
from producer.results.exports.webdataset import export_webdataset
from producer.results.files.marks import made_by_export
from tests.producer.results.conftest import LARGE, SIZE, SMALL
from tests.producer.results.finished import Done, Finished, Input, finish
from workers.errors import UsageError

pytestmark = [
    # pycocotools' compiled decode does not follow numpy 2's protocol yet; the masks are right.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),  # webdataset leaves tar files open
]

NAMES = ("a.b/1.jpg", "a.b/2.png", "1.jpg", "x.y.jpeg", "gone.jpg")


@pytest.fixture
def photos(tmp_path: Path) -> Finished:
    """Images of two kinds, among them two of one name, and one that has gone since."""
    folder = tmp_path / "in"
    for number, name in enumerate(NAMES[:-1]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE, (number, 0, 0)).save(folder / name)
    ends = {name: Done({"person": [(0.9, SMALL), (0.6, LARGE)]}, SIZE) for name in NAMES}
    ends["1.jpg"] = Done({}, SIZE)
    return finish(tmp_path, Input(folder, [NewRow(name, {}) for name in NAMES]), ends)


def export(run: Finished, request: ExportRequest) -> Summary:
    return export_webdataset(request, run.images(request), lambda count: None)


def samples(folder: Path, kind: str) -> list[dict[str, Any]]:
    shards = sorted(str(path) for path in folder.glob(f"{kind}-*.tar"))
    return list(webdataset.WebDataset(shards, shardshuffle=False, empty_check=False).decode("rgb8"))


def test_webdataset_reads_images_and_annotations_of_one_kind_a_shard_list(photos: Finished, tmp_path: Path) -> None:
    request = ExportRequest(photos.view, Choice(0.5), tmp_path / "shards", own={"shard_images": 2})
    summary = export(photos, request)
    assert (summary.images, summary.instances, summary.files) == (4, 6, 3)
    assert summary.told == ("1 left out, as their images cannot be read as they were",)
    assert [path.name for path in sorted(request.out.glob("*.tar"))] == [
        "jpg-000000.tar", "jpg-000001.tar", "png-000000.tar"
    ]  # fmt: skip

    read = samples(request.out, "jpg")
    assert [(one["__key__"], one["json"]["path"]) for one in read] == [
        ("000000001", "a.b/1.jpg"), ("000000003", "1.jpg"), ("000000004", "x.y.jpeg")
    ]  # fmt: skip
    assert read[0]["jpg"].shape == (*SIZE[::-1], 3)
    assert [len(one["json"]["annotations"]) for one in read] == [2, 0, 2]
    masks = [coco_mask.decode(found["segmentation"]) for found in read[0]["json"]["annotations"]]
    assert np.array_equal(masks[0], SMALL)
    assert np.array_equal(masks[1], LARGE)
    [png] = samples(request.out, "png")
    assert png["png"][0, 0].tolist() == [1, 0, 0]


def test_shards_of_a_kind_that_is_exported_no_more_are_removed(photos: Finished, tmp_path: Path) -> None:
    request = ExportRequest(photos.view, Choice(0.5), tmp_path / "shards")
    export(photos, request)
    (request.out / "png-000001.tar").write_text("mine")
    only = [image for image in photos.images(request) if image.path.endswith(".jpg")]
    export_webdataset(request, only, lambda count: None)
    assert sorted(path.name for path in request.out.glob("*.tar")) == ["jpg-000000.tar", "png-000001.tar"]


def test_an_image_that_was_replaced_is_in_no_shard(photos: Finished, tmp_path: Path) -> None:
    sizes = {name: (tmp_path / "in" / name).stat().st_size for name in NAMES[:-1]}
    with photos.sessions.begin() as session:
        for name, size in sizes.items():
            session.execute(update(Row).where(Row.path == name).values(file_size=size))
    Image.effect_noise(SIZE, 99).save(tmp_path / "in" / "1.jpg")
    request = ExportRequest(photos.view, Choice(0.5), tmp_path / "shards")
    assert export(photos, request).images == 3
    assert "1.jpg" not in [one["json"]["path"] for one in samples(request.out, "jpg")]


def test_the_same_export_gives_the_same_bytes_and_larger_shards_replace_the_smaller_ones(
    photos: Finished, tmp_path: Path
) -> None:
    request = ExportRequest(photos.view, Choice(0.5), tmp_path / "shards", own={"shard_images": 1})
    export(photos, request)
    before = {path.name: path.read_bytes() for path in request.out.glob("*.tar")}
    assert len(before) == 4
    export(photos, request)
    assert {path.name: path.read_bytes() for path in request.out.glob("*.tar")} == before

    export(photos, ExportRequest(photos.view, Choice(0.5), tmp_path / "shards"))
    assert sorted(path.name for path in request.out.glob("*.tar")) == ["jpg-000000.tar", "png-000000.tar"]
    for path in request.out.glob("*.tar"):
        with path.open("rb") as file:
            assert made_by_export(file)


def test_a_tar_of_somebody_else_is_neither_replaced_nor_removed(photos: Finished, tmp_path: Path) -> None:
    request = ExportRequest(photos.view, Choice(0.5), tmp_path / "shards")
    request.out.mkdir()
    theirs = request.out / "jpg-000001.tar"
    with tarfile.open(theirs, "w"):
        pass
    (request.out / "jpg-000001.tar").write_bytes(b"mine" * 1000)
    export(photos, request)
    assert theirs.read_bytes() == b"mine" * 1000
    with pytest.raises(UsageError, match=r"jpg-000001\.tar was not made by an export of ours"):
        export(photos, ExportRequest(photos.view, Choice(0.5), request.out, own={"shard_images": 1}))
    assert theirs.read_bytes() == b"mine" * 1000
