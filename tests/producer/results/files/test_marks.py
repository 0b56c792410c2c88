"""What our exports write is recognised, whatever the format: else the same export again would be refused."""

from pathlib import Path

import pytest
from PIL import Image

from producer.results.exports.coco import export_coco
from producer.results.exports.csv_file import export_csv
from producer.results.exports.mask_folder import MANIFEST
from producer.results.exports.png import export_png
from producer.results.files.marks import made_by_export
from producer.results.preview import write_preview
from tests.producer.results.conftest import MakeRequest
from tests.producer.results.finished import Finished
from workers.errors import UsageError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def is_ours(path: Path) -> bool:
    with path.open("rb") as file:
        return made_by_export(file)


def test_every_format_is_recognised_and_written_again(run: Finished, request_for: MakeRequest) -> None:
    table, coco, masks = request_for("a.csv"), request_for("a.json"), request_for("masks")
    for _ in range(2):
        export_csv(table, run.images(table), lambda count: None)
        export_coco(coco, run.images(coco), lambda count: None)
        export_png(masks, run.images(masks), lambda count: None)
        assert write_preview(run.view, run.sessions, table.out.with_name("preview.jpg"))
    written = [path for path in table.out.parent.rglob("*") if path.is_file() and path.name != MANIFEST]
    assert len(written) == 5
    assert all(map(is_ours, written))


def test_a_picture_of_the_users_where_a_mask_belongs_is_kept(run: Finished, request_for: MakeRequest) -> None:
    request = request_for("masks")
    theirs = request.out / "person" / "a.jpg.png"
    theirs.parent.mkdir(parents=True)
    Image.new("L", (4, 4)).save(theirs)
    before = theirs.read_bytes()
    with pytest.raises(
        UsageError, match=r"person/a\.jpg\.png was not made by an export of ours, so it is not replaced"
    ):
        export_png(request, run.images(request), lambda count: None)
    assert theirs.read_bytes() == before
