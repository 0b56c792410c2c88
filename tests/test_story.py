"""The product in one story, with a real broker, real workers and real signals, on both databases.

Only the model is a stand-in: what masks are right is told elsewhere.
"""

import csv
from pathlib import Path

import pytest
from PIL import Image
from skimage import data
from sqlalchemy import func, select

from db.models import Result
from db.session import Sessions, reading
from tests.terminals import Terminal, wait_until

IMAGES = 60


@pytest.fixture
def portraits(terminal: Terminal) -> Path:
    """A CSV of 60 photographs, cut from one portrait; one file is broken off in the middle."""
    folder = terminal.home / "portraits"
    folder.mkdir()
    photograph = Image.fromarray(data.astronaut())
    with (terminal.home / "faces.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["name", "path"])
        for number in range(IMAGES):
            left, top = 5 * (number % 10), 8 * (number // 10)
            path = folder / f"{number:03}.jpg"
            photograph.crop((left, top, left + 200 + number, top + 200)).save(path)
            rows.writerow([f"person {number}", f"portraits/{path.name}"])
    broken = folder / "017.jpg"
    broken.write_bytes(broken.read_bytes()[:2000])
    return broken


@pytest.fixture
def here(terminal: Terminal, database_url: str, broker_url: str) -> Terminal:
    terminal.environment |= {
        "SAM3_DATABASE_URL": database_url,
        "SAM3_BROKER_URL": broker_url,
        "SAM3_CHUNK_SIZE": "16",
        "SAM3_BATCH_SIZE": "4",
        "SAM3_RECONCILE_SECONDS": "1",
    }
    return terminal


def done(sessions: Sessions) -> int:
    """Images with a result, as the database says while others write."""
    with reading(sessions) as session:
        return session.execute(select(func.count()).select_from(Result)).scalar_one()


@pytest.mark.parametrize("database_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.long)], indirect=True)
def test_a_killed_worker_loses_nothing_and_a_mended_image_is_retried(
    here: Terminal, portraits: Path, sessions: Sessions
) -> None:
    enqueued = here.json("sam3-enqueue", "--csv", "faces.csv", "--prompt", "person")
    assert enqueued == {
        "schema": 1,
        "run": "faces",
        "images": IMAGES,
        "chunks": 4,
        "queued": 2,
        "already_done": 0,
        "duplicates": 0,
        "rejected": 0,
        "cancelled": 0,
        "gone": 0,
        "changed": 0,
        "missing": 0,
        "adding": 0,
        "redone": 0,
    }

    worker = here.start("sam3-worker", "--gpus", "cpu", FAKE_SECONDS_PER_IMAGE="0.2")
    wait_until(lambda: done(sessions) >= 4, "the first batch")
    worker.kill_group()
    before = here.json("sam3-status", "faces")["images"]
    assert 0 < before["pending"] < IMAGES

    here.start("sam3-worker", "--gpus", "cpu", "--until-empty").wait()
    status = here.json("sam3-status", "faces", code=1)
    assert status["state"] == "done"
    assert status["images"] == {
        "total": IMAGES,
        "pending": 0,
        "segmented": IMAGES - 1,
        "empty": 0,
        "failed": 1,
        "cancelled": 0,
        "duplicate": 0,
        "rejected": 0,
        "gone": 0,
    }
    assert status["errors"] == [{"error_class": "truncated", "count": 1, "example": "portraits/017.jpg"}]

    portraits.write_bytes((here.home / "portraits" / "018.jpg").read_bytes())
    assert here.json("sam3-retry", "faces")["images"] == 1
    here.start("sam3-worker", "--gpus", "cpu", "--until-empty").wait()
    assert done(sessions) == IMAGES

    here.run("sam3-export", "faces", "--format", "csv", "-o", "results.csv")
    with (here.home / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [f"person {number}" for number in range(IMAGES)]
    assert {row["sam3_status"] for row in rows} == {"segmented"}


@pytest.mark.long
def test_ctrl_c_finishes_the_batch_in_hand_and_leaves_the_rest_for_the_next_worker(
    here: Terminal, portraits: Path, sessions: Sessions
) -> None:
    here.run("sam3-enqueue", "--csv", "faces.csv", "--prompt", "person")
    worker = here.start("sam3-worker", "--gpus", "cpu", FAKE_SECONDS_PER_IMAGE="0.2")
    wait_until(lambda: done(sessions) >= 4, "the first batch")

    worker.interrupt()
    said = worker.wait(code=130)
    assert "stopped; what was in hand is committed or back in the queue" in said
    status = here.json("sam3-status", "faces")
    assert status["chunks"]["running"] == 0
    assert 0 < status["images"]["pending"] < IMAGES
    assert status["workers"] == []

    here.start("sam3-worker", "--gpus", "cpu", "--until-empty").wait()
    assert done(sessions) == IMAGES - 1
