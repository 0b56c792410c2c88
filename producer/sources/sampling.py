"""Picks items at random: a few of an iterator of unknown length, or a sample that can be repeated. Knows no items."""

import heapq
import math
import random
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import count, islice
from typing import TypeVar

Row = TypeVar("Row")


def sampled(rows: Iterable[Row], first: int, others: int) -> tuple[int, list[tuple[int, Row]]]:
    """Return the number of rows and a sample of (number from 0, row): the first `first` and `others` random ones.

    Each row after the first ones has the same chance to be in the sample. Rows that are not picked cost next to
    nothing. Source: "Algorithm L" in Kim-Hung Li, Reservoir-Sampling Algorithms of Time Complexity O(n(1+log(N/n))),
    ACM Transactions on Mathematical Software 20 (1994), https://doi.org/10.1145/198429.198435.
    """
    counter = count()
    numbered = zip(rows, counter, strict=False)
    beginning = [(number, row) for row, number in islice(numbered, first)]
    picked = [(number, row) for row, number in islice(numbered, others)]
    weight = 1.0
    while len(picked) == others > 0:
        weight *= math.exp(math.log(1 - random.random()) / others)
        gap = math.log(1 - random.random()) / math.log1p(-weight)
        hit = next(islice(numbered, min(int(gap), sys.maxsize), None), None)
        if hit is None:
            break
        picked[random.randrange(others)] = hit[1], hit[0]
    deque(numbered, maxlen=0)
    return next(counter), beginning + sorted(picked, key=lambda pair: pair[0])


def chosen(rows: int, size: int, seed: int) -> list[int]:
    """The numbers, from 0 and in order, of `size` random rows of `rows`; all of them if there are no more.

    The same seed gives the same rows, and a larger size gives the rows of a smaller one and others. Each row draws a
    number, and the lowest are taken, so more rows at the end of the input change little.
    """
    drawing = random.Random(seed)
    drawn = ((drawing.random(), row) for row in range(rows))
    return sorted(row for _, row in heapq.nsmallest(size, drawn))


def picked(rows: Iterator[Row], numbers: Sequence[int]) -> Iterator[Row]:
    """The rows with these numbers, from 0 and in order."""
    before = 0
    for number in numbers:
        yield from islice(rows, number - before, number - before + 1)
        before = number + 1
