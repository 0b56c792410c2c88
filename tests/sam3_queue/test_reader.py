"""`import sam3_queue`: what another program reads of a run, while it goes on and after it is over."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import update
from torch.utils.data import DataLoader

import sam3_queue
from db.intake import NewRow
from db.migrate import ensure_schema
from db.models import Image, Run
from db.runs import begin_delete
from db.session import Sessions, connect, write
from tests.db import scenario
from tests.producer.results.finished import Done, Ends, Failed, Input, ellipse, finish
from tests.terminals import Terminal
from tests.workers import runs
from workers.errors import NoSuchRun, Unreachable, UsageError

SIZE = (64, 48)
SMALL, LARGE, FAINT = (ellipse(SIZE, *shape) for shape in (((20, 20), (6, 9)), ((40, 24), (20, 15)), ((5, 40), (3, 3))))
Open = Callable[..., sam3_queue.Run]


@pytest.fixture
def opened(sessions: Sessions, database_url: str, tmp_path: Path) -> Open:
    """Opens a run with a row of each kind; one of them is still pending."""
    rows = [
        NewRow("a.jpg", {"label": "first"}),
        NewRow("b.jpg", {"label": ""}),
        NewRow("broken.jpg", {"label": "3"}),
        NewRow("late.jpg", {"label": "4"}),
        NewRow("a.jpg", {"path": "./a.jpg", "label": "again"}),
        NewRow("short.jpg", {}, rejected=("bad_row", "1 cell instead of 2")),
    ]
    ends: Ends = {
        "a.jpg": Done({"person": [(0.9, SMALL), (0.6, LARGE), (0.35, FAINT)]}, SIZE),
        "b.jpg": Done({}, SIZE),
        "broken.jpg": Failed("truncated", "ends after 100 bytes"),
    }
    finish(tmp_path, Input(tmp_path / "in", rows, ("person", "Red hat"), ("path", "label")), ends, sessions)
    return lambda **given: sam3_queue.open_run("list", database_url=database_url, **given)


def test_rows_have_their_cells_their_status_and_their_masks(opened: Open, tmp_path: Path) -> None:
    run = opened()
    assert (run.name, run.prompts, run.columns, len(run), run.is_over) == (
        "list", ["person", "Red hat"], ["path", "label"], 6, False
    )  # fmt: skip
    rows = list(run)
    states = ["segmented", "empty", "failed", "pending", "duplicate", "rejected"]
    assert [row.status for row in rows] == states
    first, _, broken, _, again, _ = rows
    assert (first.number, first.path, first.place) == (1, "a.jpg", str(tmp_path / "in" / "a.jpg"))
    assert (first.cells, again.cells) == ({"path": "a.jpg", "label": "first"}, {"path": "./a.jpg", "label": "again"})
    assert (broken.error_class, broken.error, broken.results) == ("truncated", "ends after 100 bytes", ())
    person = first["person"]
    assert [instance.score for instance in person.instances] == pytest.approx([0.9, 0.6])
    for instance, mask in zip(person.instances, (SMALL, LARGE), strict=True):
        assert instance.mask.dtype == bool
        assert np.array_equal(instance.mask, mask)
        assert instance.area == mask.sum()
    assert person.mask is not None
    assert np.array_equal(person.mask, SMALL | LARGE)
    assert first["Red hat"].mask is None
    assert again.results == first.results
    with pytest.raises(KeyError, match="a cat"):
        first["a cat"]


def test_another_choice_changes_the_instances_and_not_the_status(opened: Open) -> None:
    low, high = next(iter(opened(threshold=0.3))), next(iter(opened(threshold=0.95)))
    assert [len(row["person"].instances) for row in (low, high)] == [3, 0]
    assert [row.status for row in (low, high)] == ["segmented", "segmented"]
    first = next(iter(opened(threshold=0.3, min_area=100, max_instances=1)))
    assert [instance.score for instance in first["person"].instances] == pytest.approx([0.9])
    assert [instance.area for instance in next(iter(opened(min_area=SMALL.sum() + 1)))["person"].instances] == [
        LARGE.sum()
    ]
    alike = next(iter(opened(threshold={"person": 0.3, "Red hat": 0.9}, nms=0.5, contain=0.5, nms_across=True)))
    assert [one.score for one in alike["person"].instances] == pytest.approx([0.9, 0.6, 0.35])
    few = next(iter(opened(threshold={"person": 0.8})))
    assert [len(result.instances) for result in few.results] == [1, 0]
    assert opened().classes == ["person", "Red hat"]
    with pytest.raises(UsageError, match=r"threshold a cat=0\.5: the run has no class a cat; it has person, Red hat"):
        opened(threshold={"a cat": 0.5})
    with pytest.raises(UsageError, match=r"nms 1\.5: a share above 0 and up to 1"):
        opened(nms=1.5)
    with pytest.raises(UsageError, match=r"threshold 0\.2: the run keeps instances from 0\.3 to 1"):
        opened(threshold=0.2)
    for choice in ({"min_area": -1}, {"max_instances": 0}):
        with pytest.raises(UsageError, match="min_area is 0 or more"):
            opened(**choice)


def test_any_row_can_be_read_alone(opened: Open) -> None:
    run = opened()
    assert run.row(5) == list(run)[4]
    with pytest.raises(IndexError, match="run list has no row 7"):
        run.row(7)


def area(row: sam3_queue.Row) -> tuple[int, int]:
    return row.number, sum(instance.area for result in row.results for instance in result.instances)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes:UserWarning")
def test_a_data_loader_reads_every_row_once_with_four_processes(opened: Open) -> None:
    dataset = opened().dataset(area)
    assert (len(dataset), dataset[0]) == (6, (1, SMALL.sum() + LARGE.sum()))
    again: Any = pickle.loads(pickle.dumps(dataset))
    loader: Any = DataLoader(again, batch_size=None, num_workers=4)
    assert [tuple(one) for one in loader] == [dataset[index] for index in range(6)]


def test_a_data_frame_has_a_row_an_image_or_a_row_an_instance(opened: Open) -> None:
    images, instances = opened().to_pandas(), opened().to_pandas(flat=True)
    assert isinstance(images, pd.DataFrame)
    assert list(images["sam3_status"])[:2] == ["segmented", "empty"]
    assert list(instances["sam3_score"]) == [0.9, 0.6]
    assert len(opened(threshold=0.95).to_pandas(flat=True).columns) == len(instances.columns)


@pytest.mark.parametrize("read", [list, lambda run: [run.row(1)], lambda run: run.to_pandas().to_dict("records")])
def test_a_run_that_is_open_shows_the_prompts_that_were_added_since(
    opened: Open, sessions: Sessions, read: Callable[[sam3_queue.Run], list[Any]]
) -> None:
    run = opened()
    scenario.change_prompts(sessions, 1, add=["cat"])
    scenario.work_off(sessions, 1, 0.9)

    first = read(run)[0]

    found = first["sam3_results"] if isinstance(first, dict) else first.results
    assert [one["class"] if isinstance(one, dict) else one.class_name for one in found] == ["person", "Red hat", "cat"]
    assert run.prompts == ["person", "Red hat", "cat"]


def test_rows_of_an_edited_source_come_in_its_order(opened: Open, sessions: Sessions) -> None:
    with sessions.begin() as session:
        # The source is read again, and row 4 now comes first.
        session.execute(update(Run).values(load=2, source_ended=False))
        session.execute(update(Image).where(Image.row == 4).values(load=2, position=1))
    run = opened()
    numbers = run.dataset(lambda row: row.number)
    assert [row.number for row in run] == [numbers[index] for index in range(6)] == [4, 1, 2, 3, 5, 6]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_reading_changes_nothing(opened: Open, tmp_path: Path) -> None:
    before = (tmp_path / "sam3.db").read_bytes()
    list(opened())
    opened().to_pandas()
    assert (tmp_path / "sam3.db").read_bytes() == before


def test_what_is_not_there_is_one_line(opened: Open, database_url: str, tmp_path: Path) -> None:
    with pytest.raises(NoSuchRun, match=r"no run called nope, and no folder with a run\.yaml of that name"):
        sam3_queue.open_run("nope", database_url=database_url)
    with pytest.raises(Unreachable, match="; database_url names it: correct that"):
        sam3_queue.open_run("list", database_url=f"sqlite:///{tmp_path / 'nowhere.db'}")
    assert not (tmp_path / "nowhere.db").exists()
    with pytest.raises(UsageError, match="only sqlite and postgresql are supported"):
        sam3_queue.open_run("list", database_url="mysql://somewhere/sam3")


def test_a_run_that_is_being_deleted_is_refused_and_never_read_in_part(opened: Open, sessions: Sessions) -> None:
    run, begun = opened(), iter(opened())
    next(begun)
    write(sessions, begin_delete, 1)
    with pytest.raises(NoSuchRun, match="run list is being deleted"):
        opened()
    for look in (lambda: run.row(1), lambda: list(run), lambda: list(begun), run.to_pandas, lambda: run.dataset(area)):
        with pytest.raises(NoSuchRun, match="the run was deleted meanwhile"):
            look()


def test_a_text_that_is_a_folder_and_a_run_is_refused(
    opened: Open, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAM3_DATABASE_URL", database_url)
    Path("list", ".sam3").mkdir(parents=True)
    Path("list", "run.yaml").write_text("source: in\noutput: list\nrun: list\n")
    in_folder = connect("sqlite:///list/.sam3/sam3.db")
    ensure_schema(in_folder)
    finish(tmp_path, Input(tmp_path / "in", [NewRow("only.jpg")]), {}, in_folder)
    in_folder.kw["bind"].dispose()

    with pytest.raises(UsageError, match=r"write \./list for the folder's, run:list for the database's"):
        sam3_queue.open_run("list")
    assert [len(sam3_queue.open_run(run)) for run in ("./list", Path("list"), tmp_path / "list")] == [1, 1, 1]
    assert [len(run) for run in (sam3_queue.open_run("run:list"), opened())] == [6, 6]


@pytest.mark.long
def test_the_folder_of_a_sam3_run_is_read_from_wherever_it_is_moved(terminal: Terminal) -> None:
    runs.pictures(terminal.home / "in", 3)
    terminal.run("sam3-run", "in", "--prompt", "person", "--model", "any/model", "--gpus", "cpu", "-o", "out")
    (terminal.home / "out").rename(terminal.home / "moved")
    run = sam3_queue.open_run(terminal.home / "moved")
    assert run.is_over
    assert [row["person"].instances[0].mask.any() for row in run] == [True, True, True]


def test_it_has_the_version_of_the_package() -> None:
    assert sam3_queue.__version__[0].isdigit()
