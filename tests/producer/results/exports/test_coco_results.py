"""What pycocotools' `loadRes` takes, beside the COCO file of the same run."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from producer.results.common import Summary
from producer.results.exports.coco import export_coco
from producer.results.exports.coco_results import export_coco_results, is_ours
from tests.producer.results.conftest import LARGE, SMALL, MakeRequest
from tests.producer.results.finished import Finished

# pycocotools' compiled decode does not follow numpy 2's protocol yet; the masks are right.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def test_pycocotools_loads_the_results_into_the_coco_file_of_the_run(
    run: Finished, request_for: MakeRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, results = request_for("whole.json"), request_for("results.json")
    export_coco(whole, run.images(whole), lambda count: None)
    summary = export_coco_results(results, run.images(results), lambda count: None)
    assert summary == Summary(images=3, instances=3, files=1, path=tmp_path / "out" / "results.json")
    loaded = COCO(str(whole.out)).loadRes(str(results.out))
    [image] = [image for image in loaded.imgs.values() if image["file_name"] == "a.jpg"]
    found = loaded.loadAnns(loaded.getAnnIds(imgIds=[image["id"]]))
    assert [one["score"] for one in found] == [0.9, 0.6]
    for one, mask in zip(found, (SMALL, LARGE), strict=True):
        assert np.array_equal(loaded.annToMask(one), mask)


def test_a_file_of_ours_is_recognised_also_if_nothing_was_found(run: Finished, request_for: MakeRequest) -> None:
    for min_score, count in ((0.5, 3), (1.0, 0)):
        request = request_for("results.json", min_score=min_score)
        export_coco_results(request, run.images(request), lambda count: None)
        assert len(json.loads(request.out.read_text())) == count
        with request.out.open("rb") as file:
            assert is_ours(file)
        labelled = request.out.read_bytes().replace(b"}", b', "label": 1}')
        assert is_ours(io.BytesIO(labelled)) == (count == 0)
    assert not is_ours(io.BytesIO(b'[\n{"image_id": 1, "category_id": 1, "score": 0.5}\n]\n'))
