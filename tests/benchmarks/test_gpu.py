"""The benchmark for people with a GPU, here with the bundled model on the CPU: that it runs, not how fast."""

import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks import gpu
from workers.inference.sam3_model import Sam3Segmenter
from workers.tiny.files import CHECKPOINT


@pytest.mark.long
def test_on_a_cpu_it_shows_parity_first_and_what_only_a_gpu_has_as_not_available() -> None:
    parity, speeds = gpu.measure("tiny", [1, 2], "cpu", images=4)
    assert len(parity) == 4
    assert all(row["instances compared"] == gpu.COMPARED and row["least IoU"] > 0.999 for row in parity)
    assert [(row[""], row["batch size"]) for row in speeds] == [
        ("plain loop, fp32", 1), ("ours, fp32", 1), ("plain loop, fp32", 2), ("ours, fp32", 2)
    ]  # fmt: skip
    for row in speeds:
        assert row["seconds an image"] > 0
        assert {row[name] for name in ("GPU memory, GB", "GPU utilisation, %", "of the counted floor")} == {"n/a"}


def test_what_is_measured_runs_in_the_thread_that_was_warmed_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[int, set[threading.Thread]] = {}
    real = Sam3Segmenter.predict

    def predict(self: Sam3Segmenter, *arguments: Any) -> Any:
        seen.setdefault(id(self), set()).add(threading.current_thread())
        return real(self, *arguments)

    monkeypatch.setattr(Sam3Segmenter, "predict", predict)
    work = gpu._load_ours(CHECKPOINT, "cpu", "fp32")
    paths = gpu._photographs(tmp_path, 2)
    for _ in range(3):
        work(paths, 1)
    [threads] = seen.values()
    assert len(threads) == 1


def test_without_parity_there_are_no_speeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gpu.LEAST_IOU, "fp32", 1.1)
    run = CliRunner().invoke(gpu.main, "--model tiny --device cpu --batch-size 1 --images 4")
    assert run.exit_code == 1
    assert "least IoU" in run.output
    assert "seconds an image" not in run.output
    assert "speeds would mean nothing" in run.output


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("Tesla T4", None),
    ],
)
def test_the_peak_is_that_of_the_gpu_whose_whole_name_is_known(name: str, peak: float | None) -> None:
    assert gpu.peak_tflops(name) == peak
