"""`--tile` and `--overlap` as they are typed."""

import pytest
from sqlalchemy import select, update

from db.models import Image, Result, Run
from db.session import reading
from producer.cli.enqueue import main as enqueue
from producer.cli.retry import main as retry
from tests.db import scenario
from tests.producer.cli.conftest import Shell

ENQUEUE = ("--csv", "faces.csv", "--prompt", "person", "--no-check")


@pytest.fixture
def rows(shell: Shell) -> Shell:
    (shell.home / "faces.csv").write_text("path\na.jpg\nb.jpg\n")
    return shell


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--tile", "32"), "'--tile': a tile needs at least 64 pixels a side, not 32"),
        (("--tile", "large"), "'--tile': 'large' is neither auto nor a number of pixels"),
        (("--tile", "1024", "--overlap", "600"), "--overlap: the overlap of tiles of 1024 pixels must be 0 to 512"),
        (("--overlap", "100"), "--overlap is that of tiles: give --tile, too"),
    ],
)
def test_tiles_that_cannot_be_are_refused_in_one_line(rows: Shell, flags: tuple[str, ...], said: str) -> None:
    assert said in rows(enqueue, *ENQUEUE, *flags, code=2).error
    assert not rows.sessions().execute(select(Run.id)).all()


@pytest.mark.usefixtures("broker")
def test_tiles_are_frozen_with_a_run_that_has_results(rows: Shell) -> None:
    rows(enqueue, *ENQUEUE, "--tile", "1024")
    run = scenario.run(rows.sessions, 1)
    assert (run.tile, run.overlap) == ("1024", 128)
    scenario.worker(rows.sessions)
    scenario.commit_all(rows.sessions, scenario.claim(rows.sessions, 1, 1), 0.9)
    assert "tile 1024 there, none here" in rows(enqueue, *ENQUEUE, code=2).error
    assert "overlap 128 there, 64 here" in rows(enqueue, *ENQUEUE, "--tile", "1024", "--overlap", "64", code=2).error


@pytest.mark.usefixtures("broker")
def test_capped_images_are_tried_again_in_tiles(rows: Shell) -> None:
    rows(enqueue, *ENQUEUE)
    scenario.worker(rows.sessions)
    scenario.commit_all(rows.sessions, scenario.claim(rows.sessions, 1, 1), 0.9)
    nothing = rows(retry, "faces", "--capped", "--tile", "1024")
    assert (nothing.out, nothing.err) == ("run faces: 0 images to try again\n", "no result is capped\n")
    with rows.sessions.begin() as session:
        session.execute(update(Result).where(Result.image_id == 2).values(capped=True))
    scenario.change_chunk(rows.sessions, 1, capped=1)

    told = rows(retry, "faces", "--capped", "--tile", "auto", "--overlap", "200")

    assert told.out == "run faces: 1 image to try again\n"
    with reading(rows.sessions) as session:
        found = session.execute(select(Image.state, Image.tiling).order_by(Image.row)).all()
    assert [tuple(image) for image in found] == [("done", None), ("pending", "1024/200/16000000")]


def test_capped_and_failed_images_are_not_asked_for_at_once(rows: Shell) -> None:
    scenario.load(rows.sessions, scenario.rows("a"))
    said = rows(retry, "faces", "--capped", "--chunk", "1", code=2).error
    assert "--capped takes done images, --error-class and --chunk failed ones: give one of them" in said
