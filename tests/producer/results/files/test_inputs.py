"""Files that a run of the database reads are found however they are spelled, on both databases."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import event

from db import intake
from db.intake import NewRow
from db.session import Sessions, write
from db.values import Source
from producer.results.files.inputs import Inputs
from producer.results.files.targets import Targets
from tests.db.scenario import FROZEN
from workers.errors import UsageError

OURS = "path,sam3_status,sam3_error,sam3_width,sam3_height\n"


def record(sessions: Sessions, name: str, source: Path, *paths: str, root: Path | None = None) -> None:
    given = Source(str(source), "path", ("path",), str(root or source.parent), False, False)
    run_id = write(sessions, intake.create_run, name, given, FROZEN, ("person",), 4)
    write(sessions, intake.add_rows, run_id, 0, [NewRow(path) for path in paths])
    write(sessions, intake.finish_load, run_id, None)


def ours(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(OURS)
    return path


@pytest.mark.parametrize(
    "spelled",
    [
        lambda home: "masks/a.png",
        lambda home: f"{home}/in/masks/a.png",
        lambda home: "../in/masks/a.png",
        lambda home: f"{home}/link/masks/a.png",
    ],
    ids=["below the root", "absolute", "by a detour", "through a link"],
)
def test_an_image_of_any_run_is_not_replaced(
    sessions: Sessions, tmp_path: Path, spelled: Callable[[Path], str]
) -> None:
    image = ours(tmp_path / "in" / "masks" / "a.png")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    record(sessions, "other", tmp_path / "other.csv")
    record(sessions, "faces", tmp_path / "in" / "faces.csv", "b.png", spelled(tmp_path))
    named = tmp_path / "link" / "masks" if "link" in spelled(tmp_path) else image.parent
    targets = Targets(named, Inputs(sessions))

    for look_first in (False, True):
        if look_first:
            targets.look_up([named / "a.png"])
        with pytest.raises(UsageError, match=r"a\.png is an image of run faces"), targets.replacing(named / "a.png"):
            pytest.fail("it was let in")
    assert image.read_text() == OURS


def test_an_image_below_a_root_that_is_a_link_is_found_by_its_real_path(sessions: Sessions, tmp_path: Path) -> None:
    image = ours(tmp_path / "in" / "a.png")
    (tmp_path / "root").symlink_to(tmp_path / "in")
    record(sessions, "faces", tmp_path / "faces.csv", "a.png", root=tmp_path / "root")

    with pytest.raises(UsageError, match="is an image of run faces"):
        Targets(image, Inputs(sessions)).check(image)


def test_an_image_named_through_a_link_below_the_root_is_not_replaced_by_its_real_path_as_it_is_not_ours(
    sessions: Sessions, tmp_path: Path
) -> None:
    image = tmp_path / "real" / "a.png"
    image.parent.mkdir()
    image.write_bytes(b"\x89PNG of a person")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "real")
    record(sessions, "faces", tmp_path / "in" / "faces.csv", "link/a.png")

    for named in (image, tmp_path / "in" / "link" / "a.png"):
        targets = Targets(named, Inputs(sessions))
        targets.look_up([named])
        with pytest.raises(UsageError, match=r"was not made by an export of ours|is an image of run faces"):
            targets.check(named)
        with pytest.raises(UsageError), targets.replacing(named):
            pytest.fail("it was let in")
    assert image.read_bytes() == b"\x89PNG of a person"


@pytest.mark.parametrize("how", [os.link, os.symlink])
def test_a_source_is_known_by_what_it_is_not_by_its_name(
    sessions: Sessions, tmp_path: Path, how: Callable[[Path, Path], None]
) -> None:
    source, out = ours(tmp_path / "faces.csv"), tmp_path / "out.csv"
    how(source, out)
    record(sessions, "faces", source, "a.png")

    with pytest.raises(UsageError, match=r"out\.csv is the input of run faces, so it is not replaced"):
        Targets(out, Inputs(sessions)).check(out)
    Targets(out, Inputs(sessions), force=True).check(out)


def test_a_page_of_many_masks_is_asked_for_in_one_query(sessions: Sessions, tmp_path: Path) -> None:
    record(sessions, "faces", tmp_path / "faces.csv", "a.png")
    masks = [ours(tmp_path / "masks" / f"{number}.png") for number in range(20)]
    targets = Targets(tmp_path / "masks", Inputs(sessions))
    asked = []
    event.listen(sessions.kw["bind"], "before_cursor_execute", lambda *given: asked.append(given[2]))

    targets.look_up(masks)
    for mask in masks:
        with targets.replacing(mask) as temporary:
            temporary.write_text(OURS)

    assert len([query for query in asked if "FROM image" in query]) == 1
    assert len([query for query in asked if "FROM run" in query]) == 1


def test_new_files_ask_the_database_nothing(tmp_path: Path) -> None:
    inputs = Inputs(None)
    inputs.images_among = inputs.source_of = None  # type: ignore[method-assign,assignment]
    targets = Targets(tmp_path, inputs)
    targets.look_up([tmp_path / "a.png"])
    with targets.replacing(tmp_path / "a.png") as temporary:
        temporary.write_text("new")
