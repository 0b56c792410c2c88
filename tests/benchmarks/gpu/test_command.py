"""`python -m benchmarks.gpu`, here with the bundled model on the CPU: that it runs and goes on, not how fast."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from benchmarks import photographs
from benchmarks.gpu import __main__ as command
from benchmarks.gpu import ours, parity, speed
from benchmarks.gpu.card import Card
from workers.inference.kept_kernels import CACHE_FOLDER
from workers.inference.models.sam3_model import Sam3Segmenter
from workers.tiny.files import CHECKPOINT


def run(output: Path, *given: str) -> Result:
    small = ("--model", "tiny", "--device", "cpu", "--images", "2", "--output", str(output))
    return CliRunner().invoke(command.main, [*small, *given])


class Compilers:
    """In the place of `torch.compile`: each part runs as it is, or as `wrong` makes it with one of the backends. That
    a compiled part gives the same is tested where it is made."""

    def __init__(self) -> None:
        self.used: list[Any] = []
        self.wrong: tuple[Any, Callable[[Any], Any]] | None = None

    def __call__(self, part: Callable[..., Any], *, backend: Any, **given: Any) -> Callable[..., Any]:
        self.used.append(backend)
        if self.wrong is not None and backend == self.wrong[0]:
            spoil = self.wrong[1]
            return lambda *args: spoil(part(*args))
        return part


@pytest.fixture
def compilers(monkeypatch: pytest.MonkeyPatch) -> Compilers:
    instead = Compilers()
    monkeypatch.delenv(CACHE_FOLDER, raising=False)
    monkeypatch.setattr(torch, "compile", instead)
    return instead


@pytest.mark.long
def test_on_a_cpu_it_measures_everything_and_what_only_a_gpu_has_is_not_available(
    tmp_path: Path, compilers: Compilers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "REPEATS", 1)
    given = ("--batch-size", "1,2", "--run-images", "4", "--compiled")
    ended = run(tmp_path, *given)
    assert ended.exit_code == 0, ended.output
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    kinds = ["ours, fp32", "ours, fp32, compiled", "ours, fp32, CUDA graphs"]
    assert list(parts["parity"]) == kinds
    for row in parts["parity"].values():
        assert row["instances compared"] == 2 * parity.COMPARED
        assert row["least IoU"] > 0.999
        assert row["median difference of a box, px of 1920"] < 0.01
    assert list(parts["speed"]) == [
        f"{kind}, batch {size}" for kind in ("plain loop, fp32", *kinds[:2]) for size in (1, 2)
    ]
    assert list(parts["CUDA graphs"]) == [f"{kinds[2]}, batch {size}" for size in (1, 2)]
    assert all(row["seconds an image"] > 0 for row in parts["speed"].values())
    for row in (*parts["speed"].values(), *parts["CUDA graphs"].values()):
        assert row["forward, ms a batch"] > 0
        assert {row[name] for name in ("GPU memory, GB", "kernels a batch", "longest gap, us")} == {"n/a"}
    assert compilers.used == 6 * ["inductor"] + 6 * [ours.with_graphs]  # two parts for parity and for each size
    assert parts["run"][""]["images"] == 4
    page = (tmp_path / "gpu.md").read_text()
    assert page in ended.output
    assert page.count("### ") == 7
    assert "hours for 10,000" in page

    known = (tmp_path / "gpu.json").read_bytes()
    again = run(tmp_path, *given)
    assert (again.exit_code, (tmp_path / "gpu.json").read_bytes()) == (0, known)


@pytest.mark.long
def test_kernels_that_find_something_else_get_no_speeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compilers: Compilers
) -> None:
    def mirrored(answers: Any) -> Any:  # features and masks; not the numbers
        return tuple(answer.flip(-1) if answer.dim() == 4 else answer for answer in answers)

    compilers.wrong = (ours.with_graphs, mirrored)
    measured: list[str] = []
    monkeypatch.setattr(speed, "measure_ours", lambda report, subject, kernels, sizes: measured.append(kernels))
    monkeypatch.setattr(speed, "measure_library", lambda *_: None)
    ended = run(tmp_path, "--batch-size", "1", "--run-images", "0", "--compiled")
    assert ended.exit_code == 1
    assert "speeds would mean nothing" in ended.output
    assert measured == [ours.PLAIN, ours.COMPILED]


def test_without_parity_there_are_no_speeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(parity.NEAREST_IOU, "fp32", 1.1)
    ended = run(tmp_path, "--batch-size", "1")
    assert ended.exit_code == 1
    assert "least IoU" in ended.output
    assert "seconds an image" not in ended.output
    assert "speeds would mean nothing" in ended.output


def test_without_time_it_says_what_is_left_and_ends_with_1(tmp_path: Path) -> None:
    ended = run(tmp_path, "--batch-size", "1", "--minutes", "0")
    assert ended.exit_code == 1
    assert "Not measured: parity: ours, fp32 (no time was left)." in ended.output
    assert "the same command again takes what is left" in ended.output
    assert "differ from the library's" not in ended.output
    assert not (tmp_path / "gpu.json").exists()


def test_without_a_gpu_it_says_how_it_runs_without_one(tmp_path: Path) -> None:
    ended = CliRunner().invoke(command.main, ["--output", str(tmp_path / "report")])
    assert ended.exit_code == 1
    assert "no GPU here that torch can use; to try this program out: --device cpu --model tiny" in ended.output
    assert not (tmp_path / "report").exists()


def test_figures_of_another_model_are_not_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "measure", lambda *_: True)
    (tmp_path / "gpu.json").write_text(json.dumps({"facts": {"model": "facebook/sam3"}, "parts": {}}))
    ended = run(tmp_path)
    assert ended.exit_code == 1
    assert "holds figures of another card" in ended.output
    assert "model facebook/sam3" in ended.output
    assert "name another folder with --output" in ended.output


def test_what_is_measured_runs_in_the_thread_that_was_warmed_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[int, set[threading.Thread]] = {}
    real = Sam3Segmenter.predict

    def predict(self: Sam3Segmenter, *arguments: Any) -> Any:
        seen.setdefault(id(self), set()).add(threading.current_thread())
        return real(self, *arguments)

    monkeypatch.setattr(Sam3Segmenter, "predict", predict)
    paths = photographs.write(photographs.FULL_HD, tmp_path / "seen", 2)
    way = speed._load_ours(ours.Subject(Card("cpu"), CHECKPOINT, "fp32", paths), ours.PLAIN)
    assert way.work is not None
    for _ in range(3):
        way.work(paths, 1)
    [threads] = seen.values()
    assert len(threads) == 1
