"""What tests of a stream share: time runs out only for what hangs, however busy the machine is."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.terminals import PATIENCE
from workers.inference.stream import readahead

Hurry = Callable[[Callable[[Any], bool]], None]


@pytest.fixture
def hurry_only(monkeypatch: pytest.MonkeyPatch) -> Hurry:
    """Have threads that read ahead get the time that they are given for the items that `hangs` says hang, and all the
    time that they need for others."""
    real = readahead._Task.result

    def judge(hangs: Callable[[Any], bool]) -> None:
        def result(task: readahead._Task[Any, Any], seconds: float) -> Any:
            return real(task, seconds if hangs(task.item) else PATIENCE)

        monkeypatch.setattr(readahead._Task, "result", result)

    return judge
