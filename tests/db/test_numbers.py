"""What is no number, or cannot be one, no commit brings into the tables, on SQLite and on PostgreSQL."""

import math
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError

from db.session import Sessions
from db.values import FoundInstance, PromptResult
from tests.db import scenario
from tests.db.scenario import claim, done, load, numbered

GOOD = FoundInstance(0.9, (1.0, 2.0, 3.0, 4.0), 4, b"12")
NO_NUMBERS = (math.nan, math.inf, -math.inf)
WRONG: list[dict[str, Any]] = [
    *({"score": value} for value in (*NO_NUMBERS, -0.01, 1.01)),
    *({"box": (*GOOD.box[:corner], value, *GOOD.box[corner + 1 :])} for corner in range(4) for value in NO_NUMBERS),
    {"area": -1},
]


def test_a_batch_with_a_number_that_is_none_changes_nothing_and_can_be_committed_without_it(sessions: Sessions) -> None:
    run_id = load(sessions, numbered(2))
    held = claim(sessions, run_id)
    wrong = [PromptResult(1, 0.9, False, (replace(GOOD, **what),)) for what in WRONG]
    wrong += [PromptResult(1, presence, False, ()) for presence in (*NO_NUMBERS, -0.01, 1.01)]
    for result in wrong:
        good, bad = (done(image, 0.9) for image in held.images)
        bad = replace(bad, results=(replace(result, prompt_id=bad.results[0].prompt_id),))
        with pytest.raises(DBAPIError):
            scenario.commit(sessions, held, [good, bad])

        assert scenario.states(sessions, run_id) == ["pending", "pending"], result
    assert scenario.commit_all(sessions, held, 0.9)
