"""The benchmarks of threads and cores: that they do the work of which they tell."""

import threading

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import cores, photographs, threads


def test_a_played_launch_is_as_many_operations_as_sam3s_forward_pass() -> None:
    class Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            self.count += 1
            return func(*args, **(kwargs or {}))

    launch = threads._launch()
    with Counting() as counting:  # type: ignore[no-untyped-call]
        launch()
    assert counting.count >= 2_000


def test_two_works_beside_each_other_have_a_thread_each() -> None:
    of_work, of_other = set[int](), set[int]()
    rates = threads._together(lambda: of_work.add(threading.get_ident()), lambda: of_other.add(threading.get_ident()))
    assert min(rates) > 0
    assert len(of_work) == len(of_other) == 1
    assert not of_work & of_other


@pytest.mark.long
def test_every_size_is_measured_alone_and_beside() -> None:
    rows = threads.masks_beside_launches(rounds=1)
    assert [row["image"] for row in rows] == list(threads.SIZES)
    for row in rows:
        assert row["images a second with 20"] == pytest.approx(row["beside launches"] / 20)
    reading = threads.reading_beside_launches(rounds=1)
    assert [row["read"] for row in reading] == [kind.name for kind in photographs.KINDS]
    assert all(value > 0 for row in (*rows, *reading) for value in row.values() if not isinstance(value, str))


@pytest.mark.long
def test_cores_are_the_sum_of_all_that_an_image_costs() -> None:
    rows = cores.measure(trials=1)
    assert [row["image"] for row in rows] == [kind.name for kind in photographs.KINDS]
    for row in rows:
        spent = sum(value for name, value in row.items() if name.endswith(", ms"))
        assert row["cores at 60 a second"] == pytest.approx(0.06 * spent)
