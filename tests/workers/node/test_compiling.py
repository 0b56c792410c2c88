"""When a run is computed with compiled kernels, and which worker may go on with it."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from db.session import Sessions
from tests.db import scenario
from tests.fakes import FakeSegmenter
from tests.workers import runs
from tests.workers.node.conftest import Start, answering
from workers.inference.answers import Found, Instance
from workers.inference.protocol import Options, OutOfMemory, Pixels
from workers.node.compiling import PAYS_FROM, disagreement, is_wanted
from workers.node.refusals import Declined
from workers.settings import Settings

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


class Compiling(FakeSegmenter):
    """A fake that compiles, or fails to; `room` images fit, and compiled kernels give presence `compiled`."""

    def __init__(self, *, works: bool = True, room: int = 99, compiled: float = 0.9) -> None:
        super().__init__()
        self.facts = replace(self.facts, compiles=True)
        self.tried: list[int] = []  # images of each compiled batch
        self._works, self._room, self._compiled = works, room, compiled

    def predict(self, batch: Sequence[Pixels], prompts: Sequence[tuple[str, ...]], options: Options) -> Any:
        if options.compiled:
            self.tried.append(len(batch))
            self.facts = replace(self.facts, compiles=self._works)
            if len(batch) > self._room:
                raise OutOfMemory
        return super().predict(batch, prompts, options)

    def postprocess(self, raw: Any, rows: range, options: Options) -> list[tuple[Found, ...]]:
        presence = self._compiled if options.compiled else 0.9
        return [(Found(presence, (Instance(0.8, (0.0, 0.0, 9.0, 9.0), 9, b"1"),)),) for _ in rows]


@pytest.fixture
def run_id(sessions: Sessions) -> int:
    return scenario.load(sessions, scenario.numbered(4))


@pytest.mark.parametrize(
    ("device", "images", "workers", "expected"),
    [
        ("cuda", PAYS_FROM, 1, True),
        ("cuda", PAYS_FROM, 0, True),
        ("cuda", PAYS_FROM - 1, 1, False),
        ("cuda", PAYS_FROM, 2, False),
        ("cuda", 2 * PAYS_FROM, 2, True),
        ("cpu", 100 * PAYS_FROM, 1, False),
    ],
)
def test_auto_compiles_on_a_gpu_once_each_worker_has_enough_images_to_gain_by_it(
    sessions: Sessions, run_id: int, device: Any, images: int, workers: int, expected: bool
) -> None:
    run = replace(runs.view(sessions, run_id), images=images)
    assert is_wanted(run, Settings(device=device), workers) is expected
    for compiled in (True, False, None):  # None: a run of an earlier release
        begun = replace(run, weights_sha256="0" * 64, compiled=compiled)
        assert is_wanted(begun, Settings(device=device), workers) is bool(compiled)
    assert is_wanted(run, Settings(device=device, compile="on"), workers)
    assert not is_wanted(run, Settings(device=device, compile="off"), workers)


@pytest.mark.usefixtures("database_url")
def test_a_worker_that_was_told_otherwise_may_not_serve_a_run_and_one_that_cannot_compile_may() -> None:
    may = {
        (asked, mine, runs): disagreement(Settings(compile=asked), mine, runs) is None
        for asked in ("auto", "on", "off")
        for mine in (True, False)
        for runs in (True, False)
        if not (asked == "off" and mine)
    }
    assert [case for case, serves in may.items() if not serves] == [
        ("on", True, False),
        ("off", False, True),
    ]


def test_the_first_worker_tries_compiled_kernels_with_a_whole_batch_and_freezes_them_into_the_run(
    start: Start, sessions: Sessions, run_id: int
) -> None:
    segmenter = Compiling()
    node = start(segmenter, compile="on", batch_size=6)
    for _ in range(2):
        node.model.segmenter_for(runs.view(sessions, run_id))
        assert node.model.compiled
    assert segmenter.tried == [6]
    assert runs.view(sessions, run_id).compiled is True


def test_a_worker_follows_what_the_run_began_with(start: Start, sessions: Sessions, run_id: int) -> None:
    start(Compiling(), compile="on").model.segmenter_for(runs.view(sessions, run_id))
    second = start(Compiling(), node="cpu1")
    second.model.segmenter_for(runs.view(sessions, run_id))
    assert second.model.compiled
    other = scenario.load(sessions, scenario.numbered(4), name="short")
    second.model.segmenter_for(runs.view(sessions, other))
    assert not second.model.compiled
    assert runs.view(sessions, other).compiled is False


@pytest.mark.parametrize(("first", "second", "said"), [("on", "off", "it began with compiled"),
                                                       ("off", "on", "it began without compiled")])  # fmt: skip
def test_a_worker_that_was_told_otherwise_declines_the_run_and_says_what_to_do(
    start: Start, sessions: Sessions, run_id: int, first: str, second: str, said: str
) -> None:
    start(Compiling(), compile=first).model.segmenter_for(runs.view(sessions, run_id))
    node = start(Compiling(), node="cpu1", compile=second)
    run = runs.view(sessions, run_id)
    with answering(node, run, 1), pytest.raises(Declined, match=f"{said}.*--compile {second}; leave that out"):
        node.model.segmenter_for(run)


@pytest.mark.parametrize("segmenter", [Compiling(works=False), Compiling(compiled=0.1), FakeSegmenter()])
def test_a_run_whose_first_worker_cannot_compile_is_computed_without(
    start: Start, sessions: Sessions, run_id: int, segmenter: FakeSegmenter
) -> None:
    node = start(segmenter, compile="on")
    for _ in range(2):
        node.model.segmenter_for(runs.view(sessions, run_id))
        assert not node.model.compiled
    assert runs.view(sessions, run_id).compiled is False


def test_kernels_that_answer_otherwise_are_said_in_one_line(
    start: Start, sessions: Sessions, run_id: int, caplog: pytest.LogCaptureFixture
) -> None:
    node = start(Compiling(compiled=0.1), compile="on")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            node.model.segmenter_for(runs.view(sessions, run_id))
    assert caplog.messages == [
        "the compiled model's self-test failed: its answer is 89% from the uncompiled one's, so it runs uncompiled"
    ]


def test_a_compiled_run_is_served_by_a_worker_that_cannot_compile(
    start: Start, sessions: Sessions, run_id: int
) -> None:
    """Else a run whose machine was repaired with another release of torch would never end."""
    start(Compiling(), compile="on").model.segmenter_for(runs.view(sessions, run_id))
    for asked in ("auto", "on"):
        start(Compiling(works=False), node="cpu1", compile=asked).model.segmenter_for(runs.view(sessions, run_id))


def test_what_fits_is_halved_until_compiled_kernels_fit(start: Start, sessions: Sessions, run_id: int) -> None:
    segmenter = Compiling(room=3)
    node = start(segmenter, compile="on", batch_size=8)
    node.model.segmenter_for(runs.view(sessions, run_id))
    assert segmenter.tried == [8, 4, 2]
    assert node.model.caps.forward.most == 2
    assert node.model.compiled
