"""`python -m benchmarks.gpu`, here with the bundled model on the CPU: that it runs and goes on, not how fast."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from benchmarks import photographs
from benchmarks.gpu import __main__ as command
from benchmarks.gpu import parity, speed
from workers.inference.sam3_model import Sam3Segmenter
from workers.tiny.files import CHECKPOINT


def run(output: Path, *given: str) -> Result:
    small = ("--model", "tiny", "--device", "cpu", "--images", "2", "--output", str(output))
    return CliRunner().invoke(command.main, [*small, *given])


@pytest.mark.long
def test_on_a_cpu_it_measures_everything_and_what_only_a_gpu_has_is_not_available(tmp_path: Path) -> None:
    given = ("--batch-size", "1,2", "--run-images", "4")
    ended = run(tmp_path, *given)
    assert ended.exit_code == 0, ended.output
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert parts["parity"]["fp32"]["instances compared"] == 2 * parity.COMPARED
    assert parts["parity"]["fp32"]["least IoU"] > 0.999
    assert list(parts["speed"]) == [
        "plain loop, fp32, batch 1", "plain loop, fp32, batch 2", "ours, fp32, batch 1", "ours, fp32, batch 2"
    ]  # fmt: skip
    assert all(row["seconds an image"] > 0 for row in parts["speed"].values())
    assert {row["GPU memory, GB"] for row in parts["speed"].values()} == {"n/a"}
    assert parts["run"][""]["images"] == 4
    page = (tmp_path / "gpu.md").read_text()
    assert page in ended.output
    assert page.count("### ") == 4
    assert "hours for 10,000" in page

    known = (tmp_path / "gpu.json").read_bytes()
    again = run(tmp_path, *given)
    assert (again.exit_code, (tmp_path / "gpu.json").read_bytes()) == (0, known)


def test_without_parity_there_are_no_speeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(parity.LEAST_IOU, "fp32", 1.1)
    ended = run(tmp_path, "--batch-size", "1")
    assert ended.exit_code == 1
    assert "least IoU" in ended.output
    assert "seconds an image" not in ended.output
    assert "speeds would mean nothing" in ended.output


def test_without_time_it_says_what_is_left_and_ends_with_1(tmp_path: Path) -> None:
    ended = run(tmp_path, "--batch-size", "1", "--minutes", "0")
    assert ended.exit_code == 1
    assert "Not measured: parity: fp32 (no time was left)." in ended.output
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
    way = speed._load_ours(CHECKPOINT, "cpu", "fp32", paths)
    for _ in range(3):
        way.work(paths, 1)
    [threads] = seen.values()
    assert len(threads) == 1
