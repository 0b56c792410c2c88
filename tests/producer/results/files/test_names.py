"""Names of prompts and masks: readable, and never the same for two."""

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producer.results.files.names import folds_names, mask_path

ROOT = "/data/in"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.jpg", "person/a.jpg.png"),
        ("faces/b.tar.jpg", "person/faces/b.tar.jpg.png"),
        ("./faces//b.jpg", "person/faces/b.jpg.png"),
        ("/data/in/faces/b.jpg", "person/faces/b.jpg.png"),
        ("/elsewhere/b.jpg", "person/_absolute/elsewhere/b.jpg.png"),
        ("//elsewhere/b.jpg", "person/_absolute/elsewhere/b.jpg.png"),
        ("/data/inside/b.jpg", "person/_absolute/data/inside/b.jpg.png"),
        ("../images/b.jpg", "person/_up/images/b.jpg.png"),
        ("../../../../etc/passwd", "person/_up/_up/_up/_up/etc/passwd.png"),
        ("x/../b.jpg", "person/b.jpg.png"),
        ("_absolute/elsewhere/b.jpg", "person/__absolute/elsewhere/b.jpg.png"),
        ("__absolute/b.jpg", "person/___absolute/b.jpg.png"),
        ("../_up/b.jpg", "person/_up/__up/b.jpg.png"),
        ("faces/_up/b.jpg", "person/faces/_up/b.jpg.png"),
        ("x.png", "person/x.png.png"),
        ("x.png.png/b.jpg", "person/x.png.png_/b.jpg.png"),
        ("x.png_/b.jpg", "person/x.png__/b.jpg.png"),
        ("...", "person/....png"),
    ],
)
def test_masks_mirror_the_input_tree(path: str, expected: str) -> None:
    assert mask_path("person", path, ROOT) == PurePosixPath(expected)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("faces/b_1.jpg", "person/faces/b_1.jpg.png"),
        ("Faces/b.jpg", "person/Faces~57ba00ce7687b33e/b.jpg.png"),
        ("faces/B.JPG", "person/faces/B.JPG~0bf993eb2646e843.png"),
        ("/elsewhere/b.jpg", "person/_absolute/elsewhere/b.jpg.png"),
    ],
)
def test_where_case_is_folded_only_names_that_have_twins_get_a_checksum(path: str, expected: str) -> None:
    assert mask_path("person", path, ROOT, folded=True) == PurePosixPath(expected)


@pytest.mark.parametrize("path", ["a.jpg", "x.png/y_/b.jpg", "y" * 255])
def test_a_mask_may_be_called_exactly_like_its_image(path: str) -> None:
    assert mask_path("person", path, ROOT, template="{name}") == PurePosixPath("person", path)


def test_names_too_long_for_a_mask_are_shortened_and_stay_different(tmp_path: Path) -> None:
    one, other = (mask_path("person", "é" * 120 + end + ".jpg") for end in ("aaaaaaaa", "bbbbbbbb"))
    assert one != other
    (tmp_path / one.name).write_text("fits")
    assert mask_path("person", "y" * 251).name == "y" * 251 + ".png"
    folder = mask_path("person", "y" * 251 + ".png/a.jpg").parent  # 255 bytes, and one more would be too many
    (tmp_path / folder.name).mkdir()


def looks_shortened(name: str) -> str:
    """What the mask of `name` is called where it gets a checksum, as the name of an image."""
    return mask_path("p", name, folded=True).name.removesuffix(".png")


# What could be confused with each other: reserved names and their escapes, masks of others, cases, composed letters.
CONFUSING = (
    *("a", "A", "a.png", "A.png", "a.PNG", "a.png.png", "a.png_", "a.png__", "a.", "a ", "a~1", "data", "in"),
    *("_absolute", "__absolute", "_Absolute", "_up", "__up"),
    *("e\u0301", "\u00e9", "\u00c9", "\u212a", "k", "\u00df", "ss"),
    *("y" * 251, "y" * 252, "Y" * 252, "y" * 251 + ".png"),
)
plain_names = st.sampled_from(CONFUSING)
names = st.one_of(plain_names, plain_names.map(looks_shortened), st.just(".."))
paths = st.builds(
    lambda start, parts: os.path.normpath(start + "/".join(parts)),
    st.sampled_from(["", "/", f"{ROOT}/"]),
    st.lists(names, min_size=1, max_size=4),
)


def image(path: str) -> str:
    """Which image a path means: below the root a relative and an absolute spelling mean the same one."""
    return os.path.relpath(path, ROOT) if f"{path}/".startswith(f"{ROOT}/") else path


def as_is(name: str) -> str:
    return name


def in_any_case(name: str) -> str:
    """More than any file system folds: letters' case and form, and dots and blanks at the end."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return "/".join(part.rstrip(". ") for part in folded.split("/"))


@pytest.mark.parametrize("same", [as_is, in_any_case])
@settings(deadline=None, max_examples=300)
@given(several=st.lists(paths, min_size=2, max_size=6))
def test_two_images_never_share_a_mask_nor_does_one_stand_in_the_others_way(
    same: Callable[[str], str], several: list[str]
) -> None:
    images = {image(path) for path in several}
    masks = {same(str(mask_path("p", path, ROOT, folded=same is in_any_case))) for path in several}
    assert len(masks) == len(images)
    folders = {str(parent) for mask in masks for parent in PurePosixPath(mask).parents}
    assert not masks & folders
    assert all(len(part.encode()) <= 255 for mask in masks for part in mask.split("/"))


def test_whether_names_are_folded_is_asked_of_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not folds_names(tmp_path)
    monkeypatch.setattr("os.path.lexists", lambda path: in_any_case(str(path)) in map(in_any_case, there(tmp_path)))
    assert folds_names(tmp_path)
    assert not list(tmp_path.iterdir())


def there(folder: Path) -> list[str]:
    return [str(path) for path in folder.iterdir()]
