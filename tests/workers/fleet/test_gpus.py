"""Which slots a machine offers. What torch says is played by a small program: there is no GPU here."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from workers.errors import UsageError
from workers.fleet.gpus import Slot, choose_slots

Say = Callable[..., None]


@pytest.fixture
def torch_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Say:
    """Replace the Python that is asked by a program that prints an answer."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("workers.fleet.gpus._has_driver", lambda: True)

    def say(names: list[str] | None = None, error: str | None = None, raw: str | None = None) -> None:
        answer = raw if raw is not None else json.dumps({"names": names or [], "error": error, "built": "12.8"})
        program = tmp_path / "python"
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{answer}\nEND\n")
        program.chmod(0o755)
        monkeypatch.setattr("workers.fleet.gpus.sys", SimpleNamespace(executable=str(program), platform="linux"))

    return say


def refusal(gpus: str, count: int | None = None) -> str:
    with pytest.raises(UsageError) as refused:
        choose_slots(gpus, count)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def names(gpus: str, count: int | None = None) -> list[str]:
    return [slot.name for slot in choose_slots(gpus, count)]


def test_cpu_slots_need_no_torch_and_are_numbered() -> None:
    assert choose_slots("cpu", None) == [Slot("cpu0", None)]
    assert names("cpu", 3) == ["cpu0", "cpu1", "cpu2"]
    assert choose_slots("cpu", None)[0].device == "cpu"


def test_all_gpus_get_a_slot_each_that_sees_only_its_own(torch_says: Say) -> None:
    torch_says(["A100", "A100", "T4"])
    slots = choose_slots("all", None)
    assert slots == [Slot("gpu0", "0"), Slot("gpu1", "1"), Slot("gpu2", "2")]
    assert {slot.device for slot in slots} == {"cuda"}


def test_some_gpus_are_chosen_by_number_or_count(torch_says: Say) -> None:
    torch_says(["A100"] * 4)
    assert names("0,2") == ["gpu0", "gpu2"]
    assert names("3, 1") == ["gpu3", "gpu1"]
    assert names("all", 2) == ["gpu0", "gpu1"]


def test_gpus_that_a_scheduler_chose_keep_the_machines_numbers(
    torch_says: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch_says(["A100", "A100"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,7")
    assert choose_slots("all", None) == [Slot("gpu6", "6"), Slot("gpu7", "7")]
    assert choose_slots("1", None) == [Slot("gpu7", "7")]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1f2e, GPU-3d4c")
    assert [slot.visible for slot in choose_slots("all", None)] == ["GPU-1f2e", "GPU-3d4c"]


@pytest.mark.parametrize("gpus", ["", "some", "0;1", "0,", "-1", "0,0", "1.5"])
def test_a_wrong_choice_names_the_flag(torch_says: Say, gpus: str) -> None:
    torch_says(["A100", "A100"])
    assert refusal(gpus).startswith(f"--gpus {gpus}: give ")


def test_a_gpu_that_is_not_there_says_which_ones_are(torch_says: Say) -> None:
    torch_says(["A100", "A100"])
    assert refusal("0,2") == "--gpus 0,2: there is no GPU 2; this machine has 0 to 1"
    assert refusal("all", 3) == "--num-gpus 3: only 2 GPUs to use"
    torch_says(["A100"])
    assert refusal("all", 2) == "--num-gpus 2: only 1 GPU to use"


def test_a_machine_without_a_gpu_is_pointed_to_the_cpu(torch_says: Say) -> None:
    torch_says([])
    assert refusal("all") == "no GPU found (torch is built for CUDA 12.8); use --gpus cpu"


def test_a_gpu_that_torch_cannot_use_is_explained_in_torchs_words(torch_says: Say) -> None:
    torch_says(error="The NVIDIA driver on your system is too old (found version 11040).")
    assert refusal("all") == (
        "no GPU that torch can use: The NVIDIA driver on your system is too old (found version 11040).; use --gpus cpu"
    )


def test_a_python_that_dies_while_asked_is_one_line(torch_says: Say) -> None:
    torch_says(raw="Segmentation fault")
    assert refusal("all").endswith("use --gpus cpu")


def test_the_torch_of_this_machine_is_really_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # it sees no GPU, wherever this runs
    monkeypatch.setattr("workers.fleet.gpus._has_driver", lambda: True)
    assert refusal("all").startswith("no GPU found (torch is built ")


def test_where_no_driver_is_installed_torch_is_not_waited_for(torch_says: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    torch_says(["A100"])
    monkeypatch.setattr("workers.fleet.gpus._has_driver", lambda: False)
    assert refusal("all") == "no GPU found (no driver of one is installed here); use --gpus cpu"
