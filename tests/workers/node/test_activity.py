"""What both threads of a worker know of each other."""

import pytest

from db.states import WorkerState
from workers.node.activity import RATE_SECONDS, Activity, Counts
from workers.node.refusals import Refusal

REFUSAL = Refusal((), "it began with other weights", None)


def test_a_refusal_is_forgotten_unless_another_doorbell_was_answered_meanwhile() -> None:
    activity = Activity()
    activity.change(run_id=1)
    activity.decline(REFUSAL)
    assert activity.declined() == (1, REFUSAL)
    activity.change(state=WorkerState.LOADING, run_id=2)
    assert activity.declined() is None
    activity.forget(REFUSAL)
    assert (activity.doing.state, activity.doing.run_id) == (WorkerState.LOADING, 2)


def test_a_run_that_is_declined_is_not_in_hand() -> None:
    activity = Activity()
    activity.change(state=WorkerState.LOADING, run_id=1, chunk_id=7)
    activity.decline(REFUSAL)
    doing = activity.doing
    assert (doing.state, doing.chunk_id, doing.message) == (WorkerState.DECLINED, None, REFUSAL.reason)


def test_a_model_that_fails_is_not_loading_any_more() -> None:
    activity = Activity()

    def fail() -> None:
        with activity.loading():
            assert activity.is_loading
            raise RuntimeError("damaged")

    with pytest.raises(RuntimeError, match="damaged"):
        fail()
    assert not activity.is_loading


def test_images_per_second_are_those_of_the_last_minute() -> None:
    counts = Counts().plus(100, now=0.0).plus(8, now=RATE_SECONDS + 1).plus(8, now=RATE_SECONDS + 5)
    assert (counts.images, counts.per_second) == (116, 2.0)
