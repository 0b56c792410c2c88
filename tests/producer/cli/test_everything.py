"""`--everything` and `--points-per-side` as they are typed."""

import csv
import json

import pytest
from sqlalchemy import select

from db import claims
from db.models import Prompt, Run
from db.session import reading, write
from db.values import Spent
from producer.cli.enqueue import main as enqueue
from producer.cli.retry import main as retry
from producer.cli.run import main as run
from producer.cli.run_folder import is_run_folder
from tests.db import scenario
from tests.producer.cli.conftest import Shell
from tests.terminals import Terminal
from workers.tiny.demo import write_demo
from workers.tiny.tracker import write_random_tracker

ENQUEUE = ("--csv", "faces.csv", "--model", "any/model")
EVERYTHING = (*ENQUEUE, "--everything")


@pytest.fixture
def rows(shell: Shell) -> Shell:
    (shell.home / "faces.csv").write_text("path,what\na.jpg,hat\nb.jpg,hat\n")
    return shell


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((*EVERYTHING, "--prompt", "hat"), "--everything, which looks for no prompt: leave --prompt out"),
        ((*EVERYTHING, "--prompt-column", "what"), "which looks for no prompt: leave --prompt-column out"),
        ((*EVERYTHING, "--classes", "coco.json"), "--everything, which looks for no prompt: leave --classes out"),
        ((*EVERYTHING, "--tile", "1024"), "--everything, which is not made for tiles: leave --tile out"),
        ((*EVERYTHING, "--points-per-side", "0"), "'--points-per-side': 0 is not in the range 1<=x<=128"),
        ((*ENQUEUE, "--prompt", "hat", "--points-per-side", "8"), "--points-per-side is that of a grid"),
        ((*EVERYTHING, "--model", "tiny"), "tiny, the bundled model, has no tracker; give --model facebook/sam3, or"),
        (ENQUEUE, "nothing to look for: give --prompt TEXT, --prompt-column C, --box-column C or --everything"),
    ],
)  # fmt: skip
def test_what_does_not_go_with_everything_is_refused_in_one_line(
    rows: Shell, flags: tuple[str, ...], said: str
) -> None:
    (rows.home / "coco.json").write_text(json.dumps({"categories": [{"id": 1, "name": "hat"}]}))
    assert said in rows(enqueue, *flags, code=2).error
    assert not rows.sessions().execute(select(Run.id)).all()


@pytest.mark.usefixtures("broker")
def test_the_grid_and_thresholds_are_frozen_with_a_run_that_has_results(rows: Shell) -> None:
    rows(enqueue, *EVERYTHING)
    found = scenario.run(rows.sessions, 1)
    assert (found.points_per_side, found.threshold, found.score_floor) == (32, 0.88, 0.88)
    with reading(rows.sessions) as session:
        assert session.execute(select(Prompt.text, Prompt.class_name)).all() == [("everything", "everything")]
    scenario.worker(rows.sessions)
    scenario.commit_all(rows.sessions, scenario.claim(rows.sessions, 1, 1), 0.9)

    assert "2 already done" in rows(enqueue, *EVERYTHING, "--points-per-side", "32").out
    assert "points-per-side 32 there, 16 here" in rows(enqueue, *EVERYTHING, "--points-per-side", "16", code=2).error
    as_words = rows(enqueue, *ENQUEUE, "--prompt", "everything", code=2).error
    assert "points-per-side 32 there, none here" in as_words


@pytest.mark.usefixtures("broker")
def test_thresholds_that_are_given_count_and_those_of_prompts_stay(rows: Shell) -> None:
    rows(enqueue, *EVERYTHING, "--points-per-side", "8", "--threshold", "0.8", "--score-floor", "0.6")
    rows(enqueue, *ENQUEUE, "--prompt", "hat", "--run", "hats")
    settings = [scenario.run(rows.sessions, number) for number in (1, 2)]
    assert [(one.points_per_side, one.threshold, one.score_floor) for one in settings] == [
        (8, 0.8, 0.6),
        (None, 0.5, 0.3),
    ]


@pytest.mark.usefixtures("broker")
def test_images_of_everything_are_not_cut_into_tiles_later(rows: Shell) -> None:
    rows(enqueue, *EVERYTHING)
    said = rows(retry, "faces", "--capped", "--tile", "1024", code=2).error
    assert "run faces looks for everything, which is not made for tiles: leave --tile out" in said
    assert "no result is capped" in rows(retry, "faces", "--capped").err


@pytest.mark.usefixtures("broker")
def test_cost_is_projected_from_a_run_with_as_many_points(rows: Shell) -> None:
    rows(enqueue, *EVERYTHING)
    scenario.worker(rows.sessions)
    held = scenario.claim(rows.sessions, 1, 1)
    outcomes = [scenario.done(image, 0.9) for image in held.images]
    write(rows.sessions, claims.commit, held, outcomes, 60.0, Spent(waiting=3600.0))
    more = ("--run", "more", "--dry-run")
    assert "1.8e+03 s an image in run faces" in rows(enqueue, *EVERYTHING, *more).out
    assert "an image in run" not in rows(enqueue, *EVERYTHING, *more, "--points-per-side", "64").out
    assert "an image in run" not in rows(enqueue, *ENQUEUE, *more, "--prompt", "hat").out


def test_a_model_without_a_tracker_is_refused_before_anything_is_recorded(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SAM3_STATE_DIR")
    (shell.home / "photos").mkdir()
    (shell.home / "photos" / "a.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    (shell.home / "model").mkdir()
    (shell.home / "model" / "config.json").write_text(json.dumps({"model_type": "sam3"}))

    given = ("photos", "--everything", "--model", "model", "--gpus", "cpu", "-o", "out")
    said = shell(run, *given, code=3).error

    assert "of type sam3; --everything needs a model of type sam2, sam2_video, sam3_tracker, sam3_video" in said
    assert not is_run_folder(shell.home / "out")


@pytest.mark.long
def test_everything_in_pictures_becomes_masks_and_run_yaml_repeats_it(terminal: Terminal) -> None:
    for name in ("SAM3_STATE_DIR", "SAM3_SEGMENTER"):
        del terminal.environment[name]
    write_random_tracker(terminal.home / "tracker")
    write_demo(terminal.home / "photos", count=2, seed=11)

    given = ("--everything", "--threshold", "0.5", "--points-per-side", "8", "--model", "tracker", "--gpus", "cpu")
    told = terminal.run("sam3-run", "photos", *given, "-o", "out")

    assert "\n  2 segmented, 0 empty; " in told.stdout
    with (terminal.home / "out" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(int(row["everything_instances"]) > 1 for row in rows)
    assert all((terminal.home / "out" / row["everything_mask"]).is_file() for row in rows)
    assert terminal.json("sam3-run", "--config", "out/run.yaml")["images"]["segmented"] == 2
    made = json.loads((terminal.home / "out" / "masks" / ".sam3-masks.json").read_text())
    assert "segmented by a grid of points" in str(made)
    higher = terminal.json("sam3-export", "out", "--format", "coco", "-o", "coco.json", "--threshold", "0.7")
    assert 0 < higher["instances"] < sum(int(row["everything_instances"]) for row in rows)
