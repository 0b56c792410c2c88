"""Cut-outs show the image where something was found, and nothing of the rest."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sqlalchemy import update

from db.models import Image as Row
from producer.results.common import ExportRequest, Summary
from producer.results.exports.cutout import export_cutouts
from producer.results.exports.png import export_png
from producer.results.files.marks import made_by_export
from tests.producer.results.conftest import LARGE, SIZE, SMALL, MakeRequest
from tests.producer.results.finished import Finished
from workers.errors import UsageError

# pycocotools' compiled decode does not follow numpy 2's protocol yet; the masks are right.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

FOUND = (SMALL | LARGE) > 0


@pytest.fixture(autouse=True)
def photo(run: Finished, tmp_path: Path) -> NDArray[np.uint8]:
    """The image a.jpg, written without loss; the other one in which something was found is not there."""
    pixels = np.random.default_rng(1).integers(1, 255, (*SIZE[::-1], 3), dtype=np.uint8)
    (tmp_path / "in").mkdir(exist_ok=True)
    Image.fromarray(pixels).save(tmp_path / "in/a.jpg", format="PNG")
    return pixels


def export(run: Finished, request: ExportRequest) -> Summary:
    return export_cutouts(request, run.images(request), lambda count: None)


def cut(folder: Path, name: str = "person/a.jpg.png") -> NDArray[np.uint8]:
    with Image.open(folder / name) as image:
        return np.array(image)


def test_alpha_is_the_mask_and_colours_are_those_of_the_image(
    run: Finished, request_for: MakeRequest, photo: NDArray[np.uint8]
) -> None:
    request = request_for("cuts")
    summary = export(run, request)
    picture = cut(request.out)
    assert np.array_equal(picture[..., 3], FOUND * 255)
    assert np.array_equal(picture[FOUND][:, :3], photo[FOUND])
    assert not picture[~FOUND].any()  # nothing of the rest is hidden in it
    assert (summary.images, summary.files) == (3, 1)
    assert summary.told == ("1 not made, as their images cannot be read as they were",)
    assert export(run, request).kept == 1


def test_a_soft_edge_has_the_colour_of_the_image_and_not_a_darker_one(
    run: Finished, request_for: MakeRequest, photo: NDArray[np.uint8]
) -> None:
    """Straight alpha: who multiplies by alpha does it once."""
    request = request_for("cuts", feather=3)
    export(run, request)
    picture = cut(request.out)
    soft = (picture[..., 3] > 0) & (picture[..., 3] < 255)
    assert soft.sum() > 50
    assert np.array_equal(picture[soft][:, :3], photo[soft])


def test_crop_leaves_the_box_around_the_mask(run: Finished, request_for: MakeRequest, photo: NDArray[np.uint8]) -> None:
    request = request_for("cuts", crop=True, each=True)
    export(run, request)
    y, x = np.nonzero(SMALL)
    box = slice(y.min(), y.max() + 1), slice(x.min(), x.max() + 1)
    picture = cut(request.out, "person/a.jpg_1.png")
    assert np.array_equal(picture[..., 3], SMALL[box] * 255)
    assert np.array_equal(picture[..., :3], photo[box] * SMALL[box][..., None])


def test_a_background_is_a_colour_or_the_blurred_image(
    run: Finished, request_for: MakeRequest, photo: NDArray[np.uint8]
) -> None:
    green, blur = request_for("green", background="#00ff00"), request_for("blur", background="blur")
    for request in (green, blur):
        export(run, request)
        assert np.array_equal(cut(request.out)[FOUND], photo[FOUND])
    assert (cut(green.out)[~FOUND] == (0, 255, 0)).all()
    assert cut(blur.out)[~FOUND].std() < photo[~FOUND].std() / 2


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"background": "greenish"}, "give blur, a name such as white"),
        ({"background": "#00ff0080"}, "leave it out for a transparent one"),
        ({"name": "x.png"}, "it needs {stem} or {name}"),
    ],
)
def test_flags_that_do_not_fit_are_refused_before_anything_is_written(
    run: Finished, request_for: MakeRequest, own: dict[str, object], said: str
) -> None:
    request = request_for("cuts", **own)
    with pytest.raises(UsageError) as error:
        export(run, request)
    assert said in str(error.value)
    assert not request.out.exists()


def test_an_image_that_was_replaced_is_left_out(run: Finished, request_for: MakeRequest, tmp_path: Path) -> None:
    with run.sessions.begin() as session:
        session.execute(update(Row).values(file_size=(tmp_path / "in/a.jpg").stat().st_size))
    assert export(run, request_for("cuts")).files == 1
    Image.new("RGB", SIZE).save(tmp_path / "in/a.jpg")  # as large as the one before, in pixels
    assert export(run, request_for("again")).files == 0
    with run.sessions.begin() as session:
        session.execute(update(Row).values(file_size=None))
    assert export(run, request_for("unknown")).files == 1
    Image.new("RGB", (9, 9)).save(tmp_path / "in/a.jpg")
    assert export(run, request_for("small")).files == 0


def test_cut_outs_are_ours_and_have_a_folder_of_their_own(run: Finished, request_for: MakeRequest) -> None:
    request = request_for("cuts")
    export(run, request)
    with (request.out / "person/a.jpg.png").open("rb") as file:
        assert made_by_export(file)
    with pytest.raises(UsageError, match="holds files of the format cutout: choose another -o for png"):
        export_png(request, run.images(request), lambda count: None)
    with pytest.raises(UsageError, match="holds cut-outs of other names"):
        export(run, request_for("cuts", each=True))
