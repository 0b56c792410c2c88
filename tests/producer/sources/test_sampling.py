"""A sample of rows that pass by: the first ones always, the others with equal chances, and all are counted."""

from statistics import mean

import pytest

from producer.sources.sampling import sampled


@pytest.mark.parametrize("rows", [0, 1, 4, 5, 6, 9, 10, 11, 1000])
def test_all_rows_are_counted_and_the_first_are_in_the_sample(rows: int) -> None:
    count, sample = sampled(iter(range(rows)), first=5, others=5)
    assert count == rows
    assert len(sample) == min(rows, 10)
    assert sample[:5] == [(number, number) for number in range(min(rows, 5))]
    assert sample == sorted(set(sample))


def test_the_others_come_from_everywhere() -> None:
    numbers = [number for _ in range(400) for number, _ in sampled(range(10_000), first=10, others=10)[1][10:]]
    assert 4500 < mean(numbers) < 5500  # 4,000 numbers of equal chances: their mean strays by 46
    assert min(numbers) < 500
    assert max(numbers) > 9500
