"""A few rows of a long input, picked while all of them pass by. Knows nothing of rows."""

import math
import random
import sys
from collections import deque
from collections.abc import Iterable
from itertools import count, islice
from typing import TypeVar

Row = TypeVar("Row")


def sampled(rows: Iterable[Row], first: int, others: int) -> tuple[int, list[tuple[int, Row]]]:
    """How many rows there are, and some with their numbers from 0: the `first` ones, and `others` at random.

    Each later row has the same chance, whatever their number is, and only those that are picked cost more than passing
    by ("Algorithm L" of Kim-Hung Li, 1994).
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
    return next(counter), beginning + sorted(picked, key=lambda one: one[0])
