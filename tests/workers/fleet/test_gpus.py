"""Which slots a machine offers. Its GPUs are played by stand-ins for torch and for the driver's library."""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.workers.fleet.conftest import Machine, gpu, mig_slice
from workers.errors import UsageError
from workers.fleet import gpu_memory
from workers.fleet import gpus as module
from workers.fleet.gpus import Slot, choose_slots

Tried = Callable[[], list[str]]
FULL = "CUDA out of memory. Tried to allocate 2.00 MiB. GPU 0 has a total capacity of 79.14 GiB"
BUSY = "CUDA error: CUDA-capable device(s) is/are busy or unavailable\nSearch for `cudaErrorDevicesUnavailable' in"
OLD = "The NVIDIA driver on your system is too old (found version 11040)."


def refusal(gpus: str, count: int | None = None) -> str:
    with pytest.raises(UsageError) as refused:
        choose_slots(gpus, count, print)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def names(gpus: str, count: int | None = None) -> list[str]:
    return [slot.name for slot in choose_slots(gpus, count, print)]


def uuid(digit: str, kind: str = "GPU") -> str:
    return f"{kind}-{digit * 8}-aaaa-bbbb-cccc-dddddddddddd"


def test_cpu_slots_need_no_torch_and_are_numbered() -> None:
    assert choose_slots("cpu", None, print) == [Slot("cpu0", None)]
    assert names("cpu", 3) == ["cpu0", "cpu1", "cpu2"]
    assert choose_slots("cpu", None, print)[0].device == "cpu"


def test_all_gpus_get_a_slot_each_that_sees_only_its_own_by_its_uuid(machine: Machine) -> None:
    machine(gpu("1"), gpu("2"), gpu("3"))
    slots = choose_slots("all", None, print)
    assert slots == [Slot(f"gpu{at}", uuid(digit), uuid(digit)) for at, digit in enumerate("123")]
    assert {slot.device for slot in slots} == {"cuda"}


def test_some_gpus_are_chosen_by_number_or_count_and_no_other_one_is_used(machine: Machine, tried: Tried) -> None:
    machine(*map(gpu, "0123"))
    assert names("3, 1") == ["gpu3", "gpu1"]
    assert tried() == [uuid("1"), uuid("3")]
    assert names("all", 1) == ["gpu0"]
    assert tried() == [uuid("0"), uuid("1"), uuid("3")]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (gpu("3", error=FULL), FULL),
        (gpu("3", error=BUSY), BUSY.splitlines()[0]),  # of another process, where the GPU's mode is exclusive
        (gpu("3", nvml_error=15), "GPU is lost"),
        (gpu("3", mig=1), "it is in MIG mode and has no slices"),
    ],
    ids=["full", "busy", "lost", "no slices"],
)
def test_a_bad_gpu_is_named_and_left_out_of_all_and_refused_where_it_was_named(
    machine: Machine, capsys: pytest.CaptureFixture[str], bad: dict[str, object], reason: str
) -> None:
    machine(bad, gpu("1"), gpu("2"))
    assert names("all") == ["gpu1", "gpu2"]
    assert capsys.readouterr().out == f"gpu0 is left out: {reason}\n"
    assert names("1,2") == ["gpu1", "gpu2"]
    assert names("all", 2) == ["gpu1", "gpu2"]
    assert refusal("1,0") == f"--gpus 1,0: gpu0 cannot be used ({reason}); mend that, or name other GPUs"
    assert refusal("all", 3) == "--num-gpus 3: only 2 GPUs to use"


def test_a_gpu_whose_memory_cannot_grow_in_place_is_used_without_that(machine: Machine) -> None:
    machine(gpu("1"), gpu("2", fixed=True))
    assert choose_slots("all", None, print) == [
        Slot("gpu0", uuid("1"), uuid("1")), Slot("gpu1", uuid("2"), uuid("2"), grows=False)
    ]  # fmt: skip


def test_how_the_user_allocates_memory_is_how_a_gpu_is_tried(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    machine(gpu("1", fixed=True))
    assert refusal("all") == "no GPU that torch can use: CUDA driver error: operation not supported; use --gpus cpu"


def test_under_wsl_memory_does_not_grow_in_place(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu_memory.growing() == {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
    wsl = SimpleNamespace(release="5.15.167.4-microsoft-standard-WSL2")
    monkeypatch.setattr(os, "uname", lambda: wsl)
    assert gpu_memory.growing() == {}


def test_a_gpu_for_which_torch_has_no_kernels_is_told_with_those_that_it_has(machine: Machine) -> None:
    machine(gpu("1", error="CUDA error: no kernel image is available for execution on the device\nmore"))
    assert refusal("all") == (
        "no GPU that torch can use: CUDA error: no kernel image is available for execution on the device: it is an "
        "sm_70, and torch 2.14.1 has sm_75 sm_80; use --gpus cpu"
    )


def test_a_gpu_that_hangs_is_given_up(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TRY_SECONDS", 0.5)
    machine(gpu("1", hangs=True))
    assert refusal("0") == "--gpus 0: gpu0 cannot be used (no answer within 0.5 s); mend that, or name other GPUs"
    assert refusal("all") == "no GPU that torch can use: no answer within 0.5 s; use --gpus cpu"


def test_a_gpu_that_hangs_keeps_nobody_from_the_others(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = module._ask

    def impatient(question: str, seconds: float, environment: dict[str, str] | None = None) -> dict[str, object]:
        hangs = (environment or {}).get("CUDA_VISIBLE_DEVICES") == uuid("2")
        return ask(question, 0.5 if hangs else seconds, environment)

    monkeypatch.setattr(module, "_ask", impatient)
    machine(gpu("1"), gpu("2", hangs=True), gpu("3"))
    assert names("all") == ["gpu0", "gpu2"]
    assert capsys.readouterr().out == "gpu1 is left out: no answer within 0.5 s\n"


def test_where_the_driver_does_not_say_which_gpus_there_are_those_that_are_named_are_tried(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LIST_SECONDS", 0.5)
    machine(gpu("1"), gpu("2", fast=True), nvml="hangs")
    assert choose_slots("0", None, print) == [Slot("gpu0", uuid("1"), uuid("1"))]
    assert refusal("all") == "no GPU that torch can use: no answer within 0.5 s; use --gpus cpu"


def test_numbers_are_those_of_nvidia_smi_and_not_of_cuda_which_begins_with_the_fastest(machine: Machine) -> None:
    machine(gpu("1"), gpu("2", fast=True))
    assert [slot.visible for slot in choose_slots("0,1", None, print)] == [uuid("1"), uuid("2")]


def test_what_somebody_says_to_cuda_means_what_cuda_takes_it_for(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(gpu("1"), gpu("2", fast=True))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert choose_slots("all", None, print) == [Slot("gpu0", uuid("2"), uuid("2"))]


def test_gpus_that_a_scheduler_chose_keep_the_machines_numbers(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(*map(gpu, "01234567"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,7")
    assert [(slot.name, slot.card) for slot in choose_slots("all", None, print)] == [
        ("gpu6", uuid("6")), ("gpu7", uuid("7"))
    ]  # fmt: skip
    assert names("1") == ["gpu7"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-6666, GPU-7777")
    assert [(slot.name, slot.visible) for slot in choose_slots("all", None, print)] == [
        ("gpu0", uuid("6")), ("gpu1", uuid("7"))
    ]  # fmt: skip


def test_one_gpu_by_two_names_is_one_slot(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine(gpu("1"), gpu("2"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,GPU-2222")
    assert choose_slots("all", None, print) == [Slot("gpu1", uuid("2"), uuid("2"))]
    assert capsys.readouterr().out == "gpu1 is left out: it is gpu1 by another name\n"


@pytest.mark.parametrize("given", ["", "-1", ",0"])
def test_who_shows_no_gpu_to_cuda_gets_none(machine: Machine, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    machine(gpu("1"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert refusal("all") == "no GPU found (CUDA_VISIBLE_DEVICES names none); use --gpus cpu"


def test_what_another_cgroup_has_is_neither_a_gpu_of_ours_nor_a_bad_one(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine(gpu("1", hidden=True), gpu("2"))
    assert choose_slots("all", None, print) == [Slot("gpu0", uuid("2"), uuid("2"))]
    assert capsys.readouterr().out == ""


def test_each_slice_of_a_gpu_is_a_slot_beside_whole_gpus(machine: Machine) -> None:
    machine(gpu("1", mig=1, slices=[mig_slice("4"), mig_slice("5", error=FULL), mig_slice("6")]), gpu("2", mig=0))
    assert choose_slots("all", None, print) == [
        Slot("gpu0", uuid("4", "MIG"), uuid("4", "MIG")),
        Slot("gpu2", uuid("6", "MIG"), uuid("6", "MIG")),
        Slot("gpu3", uuid("2"), uuid("2")),
    ]


def test_slices_by_their_old_names_are_slots_of_plain_names(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    old = [f"MIG-{uuid('1')}/{number}/0" for number in (7, 8)]
    machine(gpu("1", mig=1, slices=[mig_slice("4", old=old[0]), mig_slice("5", old=old[1])]))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(old))
    assert choose_slots("all", None, print) == [Slot(f"gpu{at}", name, name) for at, name in enumerate(old)]


def test_without_the_drivers_library_torch_counts_the_gpus(machine: Machine) -> None:
    machine(gpu("1"), gpu("2", fast=True), nvml="missing")
    assert [slot.visible for slot in choose_slots("all", None, print)] == [uuid("1"), uuid("2")]


def test_a_gpu_of_amd_is_shown_by_its_number(machine: Machine) -> None:
    machine(gpu("1"), nvml="missing", hip="7.0")
    assert choose_slots("all", None, print) == [Slot("gpu0", "0", uuid("1"))]


def test_gpus_of_amd_that_somebody_chose_by_their_own_variable_get_a_slot_each(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(*map(gpu, "0123"), nvml="missing", hip="7.0")
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "2,3")
    assert choose_slots("all", None, print) == [Slot("gpu2", "2", uuid("2")), Slot("gpu3", "3", uuid("3"))]
    assert module.showing("2") == {"CUDA_VISIBLE_DEVICES": "2", "HIP_VISIBLE_DEVICES": "2"}


@pytest.mark.parametrize("gpus", ["", "some", "0;1", "0,", "-1", "0,0", "1.5"])
def test_a_wrong_choice_names_the_flag(machine: Machine, gpus: str) -> None:
    machine(gpu("1"), gpu("2"))
    assert refusal(gpus).startswith(f"--gpus {gpus}: give ")


def test_a_gpu_that_is_not_there_says_which_ones_are(machine: Machine) -> None:
    machine(gpu("1"), gpu("2"))
    assert refusal("0,2") == "--gpus 0,2: there is no GPU 2; this machine has 0 to 1"
    assert refusal("all", 3) == "--num-gpus 3: only 2 GPUs to use"
    assert refusal("0", 2) == "--num-gpus 2: only 1 GPU to use"


def test_a_machine_without_a_gpu_is_pointed_to_the_cpu(machine: Machine) -> None:
    machine()
    assert refusal("all") == "no GPU found (the driver knows none); use --gpus cpu"
    machine(nvml="missing")
    assert refusal("all") == "no GPU found (torch is built for CUDA 12.8); use --gpus cpu"


def test_a_torch_without_cuda_is_told(machine: Machine) -> None:
    machine(gpu("1"), gpu("2"), torch_error="Torch not compiled with CUDA enabled", built=None)
    assert refusal("all") == "no GPU that torch can use: torch is built without CUDA; use --gpus cpu"


def test_a_driver_that_is_too_old_is_told_in_torchs_words_whatever_torch_warns_of(machine: Machine) -> None:
    machine(gpu("1"), gpu("2"), torch_error=OLD)
    assert refusal("all") == f"no GPU that torch can use: {OLD}; use --gpus cpu"


def test_gpus_that_are_bad_for_different_reasons_are_told_one_by_one(machine: Machine) -> None:
    machine(gpu("1", error=FULL), gpu("2", nvml_error=15))
    assert refusal("all") == (
        f"no GPU that torch can use: gpu0 cannot be used ({FULL}), gpu1 cannot be used (GPU is lost); use --gpus cpu"
    )


def test_a_python_that_dies_while_asked_is_one_line(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho first >&2\necho 'Segmentation fault' >&2\nexit 139\n")
    program.chmod(0o755)
    monkeypatch.setattr("workers.fleet.gpus.sys.executable", str(program))
    assert refusal("all") == "no GPU that torch can use: Segmentation fault; use --gpus cpu"


def test_the_torch_of_this_machine_is_really_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "no such GPU")
    monkeypatch.setattr("workers.fleet.gpus._has_driver", lambda: True)
    assert refusal("0").startswith("--gpus 0: gpu0 cannot be used (")


def test_where_no_driver_is_installed_nobody_is_asked(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(gpu("1"))
    monkeypatch.setattr("workers.fleet.gpus._has_driver", lambda: False)
    assert refusal("all") == "no GPU found (no driver of one is installed here); use --gpus cpu"
