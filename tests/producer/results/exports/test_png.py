"""PNG masks mirror the input tree and are exactly the masks that were found."""

import csv
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from db.intake import NewRow
from producer.layout import MASK_HEAD_BYTES, is_mask
from producer.results.choice import Choice
from producer.results.common import ExportRequest, Summary
from producer.results.exports.csv_file import export_csv
from producer.results.exports.mask_folder import MANIFEST, digest, read_mask_folder, texts
from producer.results.exports.pixels.drawing import draw
from producer.results.exports.png import MaskWriter, export_png
from producer.results.files.helpers import HelperEnded, Helpers, processes
from tests.producer.results.conftest import FAINT, LARGE, SIZE, SMALL, MakeRequest
from tests.producer.results.finished import Done, Finished, Input, Mask, finish
from tests.terminals import wait_until
from workers.errors import UsageError
from workers.inference.shapes.masks import encode

# pycocotools' compiled decode does not follow numpy 2's protocol yet; the masks are right.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def export(run: Finished, request: ExportRequest) -> Summary:
    return export_png(request, run.images(request), lambda count: None)


def files(folder: Path) -> list[str]:
    """All but what says how they were made."""
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() if path.name != MANIFEST
    )


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


def inodes(folder: Path) -> dict[str, int]:
    """Changes with every file that is written anew."""
    return {name: (folder / name).stat().st_ino for name in files(folder)}


def test_masks_that_are_there_and_right_stay_and_nothing_is_drawn(
    run: Finished, request_for: MakeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_for("masks")
    assert export(run, request).kept == 0
    before = {path: path.stat() for path in request.out.rglob("*")}
    monkeypatch.setattr("producer.results.exports.pixels.drawing.draw", lambda *given: pytest.fail("a mask was drawn"))
    monkeypatch.setattr("producer.results.files.folder_writer.FEW", 1000)
    assert export(run, request) == Summary(images=3, instances=3, files=2, path=request.out, kept=2)
    assert {path: path.stat() for path in request.out.rglob("*")}.keys() == before.keys()
    assert all(path.stat().st_mtime_ns == before[path].st_mtime_ns for path in before if path.is_file())


def emptied(mask: Path) -> None:
    mask.write_bytes(bytes(mask.stat().st_size))


def cut(mask: Path) -> None:
    mask.write_bytes(mask.read_bytes()[:-20])


def of_an_earlier_result(mask: Path) -> None:
    """As if the image had been computed again since."""
    mask.write_bytes(draw(48, 64, [encode(LARGE)], texts("faces", digest(48, 64, []))))


@pytest.mark.parametrize("harm", [Path.unlink, emptied, cut, of_an_earlier_result])
def test_only_what_is_missing_or_wrong_is_written_again(
    run: Finished, request_for: MakeRequest, harm: Callable[[Path], None]
) -> None:
    request = request_for("masks", min_score=0.3)
    export(run, request)
    before, mask = inodes(request.out), request.out / "person" / "a.jpg.png"
    good = mask.read_bytes()
    other = mask.with_name("other")  # so that its inode is not given again
    os.link(mask, other)
    harm(mask)
    assert export(run, request).kept == 2
    other.unlink()
    assert mask.read_bytes() == good
    after = inodes(request.out)
    assert {name for name in before if after[name] != before[name]} <= {"person/a.jpg.png"}


def test_another_selection_writes_only_masks_that_look_different(run: Finished, request_for: MakeRequest) -> None:
    export(run, request_for("masks"))
    assert export(run, request_for("masks", select="best")).kept == 1  # the other result has one instance only
    with Image.open(request_for("masks").out / "person" / "a.jpg.png") as mask:
        assert np.array_equal(np.asarray(mask), SMALL * 255)


def test_an_interrupted_export_goes_on_where_it_stopped(
    run: Finished, request_for: MakeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_for("masks")

    def interrupt(count: int) -> None:
        wait_until(lambda: files(request.out), "the first mask")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_png(request, run.images(request), interrupt)
    assert files(request.out) == ["person/a.jpg.png"]
    there = read_mask_folder(request.out)
    assert there is not None
    assert not there.complete
    assert export(run, request).kept == 1
    assert read_mask_folder(request.out) == replace(there, complete=True)


def test_many_masks_are_drawn_in_several_processes_and_are_the_same(
    run: Finished, request_for: MakeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = request_for("one"), request_for("other")
    [image, *_] = run.images(one)
    images = [replace(image, path=f"{number}.jpg") for number in range(40)]
    export_png(one, images, lambda count: None)
    monkeypatch.setattr("producer.results.files.folder_writer.FEW", 1000)
    assert export_png(other, images, lambda count: None).files == 40
    assert {(one.out / name).read_bytes() for name in files(one.out)} == {
        (other.out / name).read_bytes() for name in files(other.out)
    }


def test_images_wait_outside_while_many_are_in_hand(
    run: Finished, request_for: MakeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_for("masks")
    [image, *_] = run.images(request)
    in_hand: list[int] = []
    with MaskWriter(request) as masks:

        def drawn(*given: object) -> bytes:
            in_hand.append(len(masks.in_hand))
            return b""

        monkeypatch.setattr("producer.results.files.folder_writer.FEW", 0)
        monkeypatch.setattr(Helpers, "call", drawn)
        for number in range(200):
            masks.add(replace(image, path=f"{number}.jpg"))
        masks.finish()
    assert len(in_hand) == 200
    assert max(in_hand) <= 4 * processes()


def test_two_rows_with_one_mask_between_them_do_not_disturb_each_other(tmp_path: Path) -> None:
    rows = [NewRow("a.jpg", {}, ("dog", *(f"{number}" for number in range(last)))) for last in range(8)]
    run = finish(tmp_path, Input(tmp_path, rows, ()), {"a.jpg": Done({"dog": [(0.9, SMALL)]}, SIZE)})
    request = ExportRequest(run.view, Choice(0.5), tmp_path / "masks")
    assert export(run, request).files == 8
    assert files(request.out) == ["dog/a.jpg.png"]


def test_rows_of_one_image_with_other_boxes_have_masks_of_their_own_and_each_line_names_its_own(tmp_path: Path) -> None:
    one, two = ((1.0, 2.0, 3.0, 4.0, True),), ((1.0, 2.0, 3.0, 4.0, False),)
    absolute = str(tmp_path / "b.jpg")
    rows = [
        NewRow("", rejected=("bad_path", "the cell is empty")),
        NewRow("a.jpg", boxes=one),
        NewRow("a.jpg", boxes=two),
        NewRow("b.jpg", boxes=two),
        NewRow("a.jpg"),
        NewRow("a.jpg", boxes=two),
        NewRow(absolute, boxes=one),
    ]
    found, other = (Done({"person": [(0.9, mask)]}, SIZE) for mask in (LARGE, SMALL))
    ends = {"a.jpg": found, "b.jpg": found, absolute: other}
    run = finish(tmp_path, Input(tmp_path, rows, box_column="boxes"), ends)
    request = ExportRequest(run.view, Choice.of_run(run.view), tmp_path / "masks")
    export(run, request)
    there = files(request.out)
    assert len(there) == 5
    assert {"person/a.jpg.png", "person/b.jpg.png"} < set(there)

    table = replace(request, out=tmp_path / "out.csv", masks=request.out)
    export_csv(table, run.images(table), lambda count: None)
    with table.out.open(newline="") as file:
        named = [row["person_mask"] for row in csv.DictReader(file)]
    assert named[0] == ""
    assert [named[1], named[3]] == ["masks/person/a.jpg.png", "masks/person/b.jpg.png"]
    assert named[5] == named[2]  # a duplicate
    assert {f"masks/{name}" for name in there} == set(named[1:])


def test_a_folder_belongs_to_one_run(run: Finished, request_for: MakeRequest) -> None:
    request = request_for("masks")
    export(run, request)
    before = inodes(request.out)
    again = replace(run.view, uid="f" * 32)  # deleted and enqueued again
    elsewhere = replace(again.source, path="/elsewhere/faces.csv")
    for view in (replace(again, name="other"), replace(again, source=elsewhere)):
        with pytest.raises(UsageError, match=r"masks holds the masks of run \w+.*: choose another folder for those of"):
            export(run, replace(request, view=view))
    assert inodes(request.out) == before
    assert export(run, replace(request, view=again)).kept == 2


def test_where_case_is_folded_table_and_masks_agree_on_other_names(
    run: Finished, request_for: MakeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producer.results.files.targets.folds_names", lambda folder: True)
    request = request_for("masks")
    [image, *_] = run.images(request)
    images = [replace(image, path=path) for path in ("a.jpg", "A.jpg", "A/b.jpg", "a/b.jpg")]
    assert export_png(request, images, lambda count: None).files == 4
    written = files(request.out)
    assert len({name.lower() for name in written}) == 4
    table = request_for("r.csv", masks="masks")
    assert export_csv(table, images, lambda count: None).blank_masks == 0
    assert {f"masks/{name}" for name in written} <= set(table.out.read_text().replace("\n", ",").split(","))


def test_a_helper_that_is_killed_is_one_line_and_the_next_export_goes_on(
    run: Finished, request_for: MakeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_for("masks")
    with monkeypatch.context() as patch:
        patch.setattr("producer.results.files.folder_writer.FEW", 0)
        patch.setattr("producer.results.exports.pixels.drawing.draw", die)
        with pytest.raises(HelperEnded, match="the same command again goes on"):
            export(run, request)
    assert export(run, request).files == 2


def die(*given: object) -> bytes:
    os.kill(os.getpid(), signal.SIGKILL)
    return b""
