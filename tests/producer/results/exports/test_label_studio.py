"""Tasks of Label Studio hold each instance as one brush mask, pixel by pixel."""

import json
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from producer.results.common import ExportRequest, Summary
from producer.results.exports.label_studio import export_label_studio
from producer.results.exports.pixels.brush import brush_rle
from tests.producer.results.conftest import LARGE, SIZE, SMALL, MakeRequest
from tests.producer.results.finished import Finished, Mask, ellipse
from workers.errors import UsageError
from workers.inference.shapes.masks import encode

# pycocotools' compiled decode does not follow numpy 2's protocol yet; the masks are right.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def decode_rle(rle: Sequence[int]) -> NDArray[np.uint8]:
    """`decode_rle` of label_studio_sdk/converter/brush.py 2.1.2, whose package needs more than a test may install."""
    bits, place = "".join(f"{byte:08b}" for byte in rle), 0

    def read(size: int) -> int:
        nonlocal place
        place += size
        return int(bits[place - size : place], 2)

    values, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    out, done = np.zeros(values, np.uint8), 0
    while done < values:
        same, end = read(1), done + 1 + read(sizes[read(2)])
        if same:
            out[done:end] = read(word)
            done = end
        else:
            out[done:end] = [read(word) for _ in range(end - done)]
            done = end
    return out


def pixels(rle: Sequence[int], size: tuple[int, int]) -> NDArray[np.uint8]:
    image = decode_rle(rle).reshape(*size[::-1], 4)
    assert (image == image[..., :1]).all()
    return image[..., 3]


@pytest.mark.parametrize(
    "mask",
    [
        SMALL | LARGE,
        np.zeros((3, 5), np.uint8),
        np.ones((300, 400), np.uint8),
        np.eye(9, dtype=np.uint8),
        ellipse((700, 500), (300, 200), (250, 10)),
        np.repeat([[1], [0]], 64, axis=0).repeat(1024, axis=1).astype(np.uint8),
    ],
)
def test_the_brush_is_the_mask(mask: Mask) -> None:
    height, width = mask.shape[:2]
    assert np.array_equal(pixels(brush_rle(height, width, encode(mask)), (width, height)), mask * 255)


def export(run: Finished, request: ExportRequest) -> Summary:
    return export_label_studio(request, run.images(request), lambda count: None)


def test_a_task_is_an_image_with_a_prediction(run: Finished, request_for: MakeRequest) -> None:
    request = request_for("tasks.json")
    assert export(run, request) == Summary(3, 3, 1, request.out)
    tasks = json.loads(request.out.read_text())
    assert [task["data"]["image"].partition("?d=")[2] for task in tasks][:2] == ["a.jpg", "sub/b.jpg"]
    [prediction] = tasks[0]["predictions"]
    assert (prediction["model_version"], prediction["score"]) == ("tiny", 0.9)
    assert [region["value"]["brushlabels"] for region in prediction["result"]] == [["person"], ["person"]]
    for region, mask in zip(prediction["result"], (SMALL, LARGE), strict=True):
        assert (region["original_width"], region["original_height"]) == SIZE
        assert np.array_equal(pixels(region["value"]["rle"], SIZE), mask * 255)
    assert tasks[1]["predictions"][0]["result"] == []


def test_images_may_have_another_address(run: Finished, request_for: MakeRequest) -> None:
    request = request_for("tasks.json", image_url="https://example.org/photos/")
    export(run, request)
    assert '"image": "https://example.org/photos/sub/b.jpg"' in request.out.read_text()


def test_our_file_is_written_again_and_that_of_somebody_else_stays(run: Finished, request_for: MakeRequest) -> None:
    request = request_for("tasks.json")
    export(run, request)
    before = request.out.read_bytes()
    export(run, request)
    assert request.out.read_bytes() == before
    request.out.write_text('[\n{"data": {"image": "a.jpg"}}\n]')
    with pytest.raises(UsageError, match="was not made by an export of ours"):
        export(run, request)
