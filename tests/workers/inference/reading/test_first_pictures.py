"""Which picture of a TIFF is meant: the first, unless the file itself says that this one is something else."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from skimage import data

from workers.errors import ErrorClass
from workers.inference.reading.images import ReadRules, UnreadableImage, read_image
from workers.inference.reading.tiff import Directories

RULES = ReadRules()
CAT = data.chelsea()  # 451 x 300
SMALL = np.ascontiguousarray(CAT[::5, ::5])  # 91 x 60
REDUCED, PAGE, MASK = 1, 2, 4  # NewSubfileType
SENSOR, LINEAR_RAW = 32803, 34892  # photometric

Page = tuple[npt.NDArray[Any], dict[str, Any]]
MASK_PAGE: Page = (CAT[..., 0] > 100, {"subfiletype": MASK, "photometric": "mask"})


def written(path: Path, *pages: Page, own: tuple[Page, ...] = (), **how: Any) -> str:
    """A TIFF with these pages; the pictures `own` are named by the first as its own (SubIFDs)."""
    with tifffile.TiffWriter(path, **how) as file:
        for number, (pixels, tags) in enumerate(pages):
            plain: dict[str, Any] = {"photometric": "rgb" if pixels.ndim == 3 else "minisblack", "metadata": None}
            file.write(pixels, subifds=len(own) if number == 0 else 0, **plain | tags)
            for sub, more in own if number == 0 else ():
                file.write(sub, **plain | more)
    return str(path)


def refusal(path: str) -> str:
    with pytest.raises(UnreadableImage) as refused:
        read_image(path, RULES)
    assert refused.value.error_class == ErrorClass.UNSUPPORTED
    assert "\n" not in refused.value.message
    return refused.value.message


LAYOUTS: list[dict[str, Any]] = [
    {},
    {"byteorder": ">"},
    {"bigtiff": True},
]


@pytest.mark.parametrize("how", LAYOUTS, ids=["little-endian", "big-endian", "BigTIFF"])
def test_a_first_picture_that_is_marked_as_reduced_is_refused_and_the_larger_one_named(
    tmp_path: Path, how: dict[str, Any]
) -> None:
    path = written(tmp_path / "a.tif", (SMALL, {"subfiletype": REDUCED}), (CAT, {}), **how)
    assert refusal(path) == (
        "the file's first picture (91 x 60) is marked as a reduced one, "
        "the largest is 451 x 300; save that one as a file of its own"
    )


def test_the_thumbnail_of_a_tiff_ep_file_is_refused(tmp_path: Path) -> None:
    """As Nikon and others write it: the picture is named by the thumbnail."""
    path = written(tmp_path / "a.tif", (SMALL, {"subfiletype": REDUCED}), own=((CAT, {}),))
    assert "91 x 60) is marked as a reduced one, the largest is 451 x 300" in refusal(path)


def test_the_old_tag_for_a_reduced_picture_counts_too(tmp_path: Path) -> None:
    old = {"extratags": [(255, "H", 1, 2, True)]}
    assert "marked as a reduced one" in refusal(written(tmp_path / "a.tif", (SMALL, old), (CAT, {})))
    full = {"extratags": [(255, "H", 1, 1, True)]}
    assert read_image(written(tmp_path / "b.tif", (SMALL, full), (CAT, {})), RULES).pixels.shape == SMALL.shape


def test_an_unmarked_first_picture_that_names_a_larger_one_as_its_own_is_refused(tmp_path: Path) -> None:
    assert "is a smaller version of another, the largest is 451 x 300" in refusal(
        written(tmp_path / "a.tif", (SMALL, {}), own=((CAT, {}),))
    )


@pytest.mark.parametrize("photometric", [SENSOR, LINEAR_RAW])
def test_what_a_sensor_saw_is_camera_raw_wherever_it_lies_in_the_file(tmp_path: Path, photometric: int) -> None:
    seen = ((CAT[..., 0] if photometric == SENSOR else CAT).astype(np.uint16), {"photometric": photometric})
    said = "camera raw is not opened, and its preview is not the picture; develop it to JPEG or TIFF"
    assert refusal(written(tmp_path / "a.tif", (SMALL, {}), own=(seen,))) == said
    assert refusal(written(tmp_path / "b.tif", (SMALL, {}), seen)) == said
    assert refusal(written(tmp_path / "c.tif", seen)) == said


def test_a_dng_is_camera_raw_however_large_its_first_picture_is(tmp_path: Path) -> None:
    version = {"extratags": [(50706, "B", 4, (1, 4, 0, 0), True)]}
    assert refusal(written(tmp_path / "a.tif", (CAT, version))).startswith("camera raw is not opened")


@pytest.mark.parametrize("magic", [b"CR\2\0", b"IIIITwaR"], ids=["Canon", "Phase One"])
def test_camera_raw_that_tells_itself_by_its_header_is_refused(tmp_path: Path, magic: bytes) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"II*\0\x20\0\0\0" + magic + bytes(3000))
    assert refusal(str(path)) == "camera raw is not opened; convert to one of JPEG, PNG, WEBP, TIFF, BMP, GIF, AVIF"


@pytest.mark.parametrize(
    "description",
    [
        "Aperio Image Library v11.2.1\r\nlabel 387x463",
        "Aperio Image Library v11.2.1\nmacro 1280x431\n",
        "Label Image",
        "Label_Image",
        "Thumbnail",
        "Slide label",
    ],
)
def test_what_a_slide_scanner_puts_beside_its_picture_is_refused(tmp_path: Path, description: str) -> None:
    path = written(tmp_path / "a.tif", (SMALL, {"description": description}), (CAT, {}))
    assert "the file's first picture (91 x 60) is a slide's " in refusal(path)


def test_a_first_picture_that_is_a_mask_is_refused(tmp_path: Path) -> None:
    assert "is marked as a mask" in refusal(written(tmp_path / "a.tif", MASK_PAGE, (CAT, {})))
    assert "is marked as a mask" in refusal(written(tmp_path / "b.tif", MASK_PAGE))


# What is in use, and goes on working


def small_and_large(**tags: Any) -> tuple[Page, Page]:
    return (SMALL, tags), (CAT, {})


PICTURES: dict[str, tuple[tuple[Page, ...], tuple[Page, ...]]] = {
    "one page": (((SMALL, {}),), ()),
    "a scan whose second page is larger": (small_and_large(), ()),
    "pages that are marked as pages": (((SMALL, {"subfiletype": PAGE}), (CAT, {"subfiletype": PAGE})), ()),
    "a pyramid in further pages": (((CAT, {}), (SMALL, {"subfiletype": REDUCED})), ()),
    "a pyramid of its own": (((CAT, {}),), ((SMALL, {"subfiletype": REDUCED}),)),
    "a picture with its mask behind it": (((SMALL, {}), MASK_PAGE), ()),
    "a slide whose label comes last": (((CAT, {}), (SMALL, {"description": "Label Image"})), ()),
    "one picture, called a label by chance": (((SMALL, {"description": "Label Image"}),), ()),
    "a description about labels": (small_and_large(description="label 5 of the third box"), ()),
    "one picture, marked as reduced of nothing": (((SMALL, {"subfiletype": REDUCED}),), ()),
}


@pytest.mark.parametrize(("pages", "own"), PICTURES.values(), ids=PICTURES)
@pytest.mark.parametrize("how", LAYOUTS[:2], ids=["little-endian", "big-endian"])
def test_the_first_picture_is_taken_where_the_file_does_not_say_otherwise(
    tmp_path: Path, pages: tuple[Page, ...], own: tuple[Page, ...], how: dict[str, Any]
) -> None:
    path = written(tmp_path / "a.tif", *pages, own=own, **how)
    assert np.array_equal(read_image(path, RULES).pixels, pages[0][0])


def test_directories_that_go_round_in_circles_or_out_of_the_file_are_left_to_the_decoder(tmp_path: Path) -> None:
    whole = Path(written(tmp_path / "a.tif", (SMALL, {"subfiletype": REDUCED}), (CAT, {}))).read_bytes()
    rng = np.random.default_rng(7)
    for _ in range(300):
        damaged = bytearray(whole[: int(rng.integers(8, len(whole)))])
        for _ in range(int(rng.integers(1, 20))):
            damaged[int(rng.integers(4, min(len(damaged), 400)))] = int(rng.integers(256))
        found = Directories(bytes(damaged))
        assert len(found.pages) <= 64
    first = int.from_bytes(whole[4:8], "little")
    entries = int.from_bytes(whole[first : first + 2], "little")
    follower = first + 2 + 12 * entries
    circle = whole[:follower] + whole[4:8] + whole[follower + 4 :]
    assert len(Directories(circle).pages) == 64
