"""PNG masks mirror the input tree and are exactly the masks that were found."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from producer.exports.common import Request, Summary
from producer.exports.png import export_png
from producer.layout import MASK_HEAD_BYTES, is_mask
from tests.producer.exports.conftest import FAINT, LARGE, SMALL, MakeRequest
from tests.producer.exports.finished import Finished, Mask
from workers.errors import UsageError

# pycocotools' compiled decode does not follow numpy 2's protocol yet; the masks are right.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def export(run: Finished, request: Request) -> Summary:
    return export_png(request, run.images(request), lambda count: None)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(("select", "expected"), [("union", SMALL | LARGE), ("best", SMALL), ("largest", LARGE)])
def test_a_mask_is_0_and_255_at_the_images_size(
    run: Finished, request_for: MakeRequest, select: str, expected: Mask
) -> None:
    request = request_for("masks", select=select)
    export(run, request)
    with Image.open(request.out / "person" / "a.jpg.png") as mask:
        assert (mask.mode, mask.size) == ("L", (64, 48))
        assert np.array_equal(np.asarray(mask), expected * 255)


def test_a_mask_is_known_as_ours_by_its_first_bytes(run: Finished, request_for: MakeRequest) -> None:
    request = request_for("masks")
    export(run, request)
    assert is_mask((request.out / "person" / "a.jpg.png").read_bytes()[:MASK_HEAD_BYTES])


def test_masks_mirror_the_tree_without_files_for_empty_results(
    run: Finished, request_for: MakeRequest, tmp_path: Path
) -> None:
    request = request_for("masks")
    summary = export(run, request)
    assert files(request.out) == ["person/a.jpg.png", f"red_hat/_absolute{tmp_path}/outside/c.png.png"]
    assert summary == Summary(images=3, instances=3, files=2, path=request.out)


def test_a_lower_score_lets_more_in(run: Finished, request_for: MakeRequest) -> None:
    request = request_for("masks", min_score=0.3)
    assert export(run, request).files == 3
    with Image.open(request.out / "person" / "a.jpg.png") as mask:
        assert np.array_equal(np.asarray(mask) > 0, (SMALL | LARGE | FAINT) > 0)


def test_a_higher_score_removes_our_own_masks_and_nobody_elses(run: Finished, request_for: MakeRequest) -> None:
    request = request_for("masks", min_score=0.3)
    export(run, request)
    foreign = request.out / "person" / "sub" / "b.jpg.png"
    foreign.parent.mkdir()
    foreign.write_bytes(b"a file of the user where a mask would stand")
    export(run, request_for("masks", min_score=0.8))
    assert files(request.out) == ["person/a.jpg.png", "person/sub/b.jpg.png"]


def test_the_same_export_gives_the_same_bytes(run: Finished, request_for: MakeRequest) -> None:
    request, seen = request_for("masks"), list[int]()
    contents = []
    for _ in range(2):
        export_png(request, run.images(request), seen.append)
        contents.append({name: (request.out / name).read_bytes() for name in files(request.out)})
    assert contents[0] == contents[1]
    assert seen == [1, 2, 3, 4, 5, 6, 7] * 2


def test_a_file_as_target_and_an_unknown_selection_are_refused(run: Finished, request_for: MakeRequest) -> None:
    request = request_for("masks")
    request.out.parent.mkdir()
    request.out.write_text("")
    with pytest.raises(UsageError, match="masks need a folder"):
        export(run, request)
    with pytest.raises(UsageError, match="choose one of union, best, largest"):
        export(run, request_for("other", select="most"))
