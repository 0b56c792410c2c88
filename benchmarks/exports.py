"""What each export format costs: seconds of processor an image and memory, all on one run in SQLite.

Run as `python -m benchmarks.exports [--images N] [--masks N] [--format NAME ...] [--nms IOU]`. Images have 1.5
instances on average, with masks of 480 x 640 pixels. Each format is written by a process of its own, which alone is
measured, with the helper processes that it starts. Formats that write a file for each image write to the folder of
temporary files, and only for `--masks` images, as they take a hundred times as long; PNG is written by one process and
by two. No image file exists, so cut-outs are not measured.
"""

import resource
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import numpy as np
from sqlalchemy import text

from benchmarks.enqueue import FROZEN, alone
from benchmarks.timing import Row, as_rows, table
from db.migrate import ensure_schema
from db.runs import run_id_of
from db.session import Sessions, connect, read
from db.views import run_views
from producer.garbage import rarely_collected
from producer.results.choice import Choice
from producer.results.common import ExportRequest, read_images
from producer.results.files.targets import Targets
from producer.results.format_names import MODULES
from producer.results.formats import file_of, format_named
from producer.results.tally import tallies
from producer.runs.load import record
from producer.runs.request import RunRequest
from producer.sources.text.csv_source import CsvSource
from workers.inference.shapes.masks import encode

Work = Callable[[str, Path], tuple[float, float]]  # seconds of processor, and MB

SIZE = (480, 640)
NOT_MEASURED = ("cutout",)
ONE_FILE = ("csv", "coco", "jsonl", "parquet")
MASKS = 2_000  # images of formats that write a file for each
PNG_JOBS = (1, 2)  # numbers of processes
DONE = (
    f"UPDATE image SET state = 'done', width = {SIZE[1]}, height = {SIZE[0]}",
    "UPDATE chunk SET state = 'done', segmented = images",
    "UPDATE run SET state = 'done', finished_at = created_at",
    "INSERT INTO result (image_id, prompt_id, fence, presence, instances, capped)"
    " SELECT id, 1, 1, 0.9, 1 + id % 2, false FROM image",
)
FOUND = (
    "INSERT INTO instance (image_id, prompt_id, rank, score, x1, y1, x2, y2, area, rle)"
    " SELECT image_id, prompt_id, :rank, 0.9 - :rank * 0.1, 20, 30, 400, 300, :area, :rle FROM result"
    " WHERE instances > :rank"
)


@dataclass(frozen=True)
class Cost:
    """Of one format."""

    format: str  # and what else was asked of it
    images: int
    microseconds_an_image: float  # of processor
    times_csv: float
    peak_mb: float  # of the process that reads and writes, without its helpers


@click.command()
@click.option("--images", default=100_000, show_default=True)
@click.option("--masks", default=MASKS, show_default=True, help="Images of formats that write a file for each.")
@click.option("--format", "formats", multiple=True, help="Default: all.")
@click.option("--nms", type=float, help="Also with --nms and --contain, and the count of sam3-status --at.")
def main(images: int, masks: int, formats: tuple[str, ...], nms: float | None) -> None:
    names = formats or tuple(name for name in MODULES if name not in NOT_MEASURED)
    print(table(rows(measure(images, names, masks, nms))))


def measure(
    images: int, formats: Sequence[str] = (*ONE_FILE, "png"), masks: int = MASKS, nms: float | None = None
) -> list[Cost]:
    """The costs of CSV, and of these formats."""
    plain = dict.fromkeys(("csv", *formats))
    files = [name for name in plain if not format_named(name).folder]
    works: dict[str, Work] = {name: partial(write, name=name) for name in files}
    if nms is not None:
        works |= {f"{name} --nms {nms}": partial(write, name=name, nms=nms) for name in files}
        works |= {"--at": count, f"--at --nms {nms}": partial(count, nms=nms)}
    drawn: dict[str, Work] = {}
    for name in (name for name in plain if name not in files):
        jobs = PNG_JOBS if name == "png" else (None,)
        drawn |= {f"{name} --jobs {one}" if one else name: partial(write, name=name, jobs=one) for one in jobs}
    costs: list[Cost] = []
    for some, count_of in ((works, images), (drawn, masks)):
        costs += _measured(some, count_of, costs)
    return costs


def _measured(works: Mapping[str, Work], images: int, before: Sequence[Cost]) -> list[Cost]:
    """The costs of these works on a run of so many images. The first of all costs is that of CSV."""
    costs: list[Cost] = []
    with tempfile.TemporaryDirectory() as folder:
        url = make_run(Path(folder), images) if works else ""
        for name, work in works.items():
            seconds, peak = alone(work, url, Path(folder))
            each = seconds / images * 1e6
            base = (*before, *costs)[0].microseconds_an_image if before or costs else each
            costs.append(Cost(name, images, round(each, 1), round(each / base, 2), round(peak)))
    return costs


def rows(costs: Sequence[Cost]) -> list[Row]:
    """The rows of a table."""
    return [{name.replace("microseconds", "µs"): value for name, value in row.items()} for row in as_rows(costs)]


def make_run(folder: Path, images: int) -> str:
    """A finished run; returns the URL of its database."""
    source = folder / "large.csv"
    source.write_text("path,id\n" + "".join(f"{n // 1000:04}/{n:08}.jpg,{n}\n" for n in range(images)))
    url = f"sqlite:///{folder / 'sam3.db'}"
    sessions = connect(url)
    ensure_schema(sessions)
    request = RunRequest("large", ("person",), FROZEN, chunk_size=256)
    record(sessions, CsvSource(source), request, lambda done, total: None)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    with sessions.begin() as session:
        for statement in DONE:
            session.execute(text(statement))
        for rank, radius in enumerate((150, 60)):
            mask = ((x - 210) / 1.2) ** 2 + (y - 200 + 20 * np.sin(x / 17)) ** 2 < radius**2
            given = {"rank": rank, "area": int(mask.sum()), "rle": encode(mask.astype(np.uint8))}
            session.execute(text(FOUND), given)
    return url


def write(url: str, folder: Path, name: str, nms: float | None = None, jobs: int | None = None) -> tuple[float, float]:
    """Seconds of processor of this process and its helpers, and the most memory of this one, in MB."""
    sessions, view = opened(url)
    out = file_of(folder / f"out-{nms}-{jobs}", name)
    request = ExportRequest(view, chosen(view, nms), out, targets=Targets(out), jobs=jobs)
    wanted = format_named(name)
    before = time.process_time()
    with rarely_collected():
        wanted.write(request, read_images(sessions, request), lambda done: None)
    return spent_since(before)


def count(url: str, folder: Path, nms: float | None = None) -> tuple[float, float]:
    """What `sam3-status --at` costs, as `write` has it."""
    sessions, view = opened(url)
    before = time.process_time()
    tallies(sessions, view, [chosen(view, nms)], lambda done: None)
    return spent_since(before)


def opened(url: str) -> tuple[Sessions, run_views.RunView]:
    sessions: Sessions = connect(url)
    run_id = read(sessions, run_id_of, "large")
    view = None if run_id is None else read(sessions, run_views.run_view, run_id)
    assert view is not None
    return sessions, view


def chosen(view: run_views.RunView, nms: float | None) -> Choice:
    return Choice.made(view, {}, nms=nms, contain=None if nms is None else 0.9)


def spent_since(before: float) -> tuple[float, float]:
    helpers = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = time.process_time() - before + helpers.ru_utime + helpers.ru_stime
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
