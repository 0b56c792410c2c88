"""Small runs of real image files for the tests of workers, and what became of them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from celery import Celery
from PIL import Image as Picture
from sqlalchemy import func, select

from db import doorbells, intake
from db.doorbells import RungChunk, identity
from db.intake import NewRow
from db.models import Result
from db.session import Sessions, read, reading, write
from db.views.run_views import RunView, run_view
from db.views.status import WorkerLine, workers
from tests.db import scenario
from workers.broker.app import create_app
from workers.broker.contract import Doorbell, queue_name
from workers.settings import Settings


def pictures(folder: Path, count: int) -> list[NewRow]:
    """Bright images in `folder`, and the rows that name them."""
    folder.mkdir(exist_ok=True, parents=True)
    for number in range(count):
        Picture.new("RGB", (40 + number, 30), "white").save(folder / f"{number:04}.png")
    return scenario.rows(*(f"{number:04}.png" for number in range(count)))


def load(
    sessions: Sessions,
    folder: Path,
    rows: Sequence[NewRow],
    name: str = "faces",
    chunk_size: int = 4,
    **frozen: Any,
) -> int:
    """An active run of these rows, whose paths start from `folder`; `frozen` are its settings."""
    source = replace(scenario.SOURCE, root=str(folder))
    settings = replace(scenario.FROZEN, **({"model": "fake"} | frozen))
    run_id = write(sessions, intake.create_run, name, source, settings, ("person",), chunk_size)
    write(sessions, intake.begin_reading, run_id, 1, 1, ["path"])
    scenario.add(sessions, run_id, rows)
    scenario.finish(sessions, run_id)
    return run_id


def ring(sessions: Sessions, run_id: int, count: int = 1000) -> list[RungChunk]:
    """pending -> queued, without a message."""
    return write(sessions, doorbells.ring_pending, run_id, count)


def message(rung: RungChunk) -> dict[str, int | str]:
    return Doorbell(rung.database, rung.run_id, rung.chunk_id, rung.ring).to_message()


def app(sessions: Sessions, broker_url: str, **settings: Any) -> Celery:
    """The application of those who serve this database."""
    return create_app(Settings(broker_url=broker_url, identity=read(sessions, identity), **settings))


def queue(sessions: Sessions) -> str:
    return queue_name(read(sessions, identity))


def results(sessions: Sessions) -> int:
    with reading(sessions) as session:
        return session.execute(select(func.count()).select_from(Result)).scalar_one()


def view(sessions: Sessions, run_id: int) -> RunView:
    """A run as a worker reads it."""
    found = read(sessions, run_view, run_id)
    assert found is not None
    return found


def reported(sessions: Sessions) -> WorkerLine:
    """What the only worker says in its row."""
    [line] = read(sessions, workers)
    return line
