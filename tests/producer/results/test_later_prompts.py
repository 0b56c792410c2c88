"""A prompt that is added after a reader has begun: the reader leaves out its results, and does not stumble."""

from dataclasses import replace

import pytest

from db.session import read
from db.views.results import done_results
from db.views.run_views import run_view
from producer.results.choice import Choice
from producer.results.common import read_images
from producer.results.format_names import MODULES
from producer.results.formats import format_named
from producer.results.preview import choose
from producer.results.tally import tallies
from tests.db import scenario
from tests.producer.results.conftest import LARGE, SIZE, MakeRequest
from tests.producer.results.finished import Done, Finished, work

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


@pytest.fixture
def grown(run: Finished) -> Finished:
    """The run as a reader saw it before `zebra` was added and `Red hat` came back, with results of both by now."""
    scenario.change_prompts(run.sessions, run.view.id, drop=["Red hat"])
    seen = read(run.sessions, run_view, run.view.id)
    assert seen is not None
    scenario.change_prompts(run.sessions, run.view.id, add=["zebra", "Red hat"])
    work(run.sessions, run.view.id, {path: Done({"zebra": [(0.8, LARGE)]}, SIZE) for path in ("a.jpg", "sub/b.jpg")})
    first, *_ = done_results(run.sessions, run.view.id, 0.5, masks=False)
    assert [len(result.instances) for result in first[0]] == [2, 0, 1]
    return Finished(run.sessions, seen)


@pytest.mark.parametrize("name", MODULES)
def test_an_export_in_any_format_has_the_prompts_that_it_began_with(
    name: str, grown: Finished, request_for: MakeRequest
) -> None:
    request = replace(request_for(f"new/out{format_named(name).suffix}"), view=grown.view)
    request.out.parent.mkdir(parents=True)

    wrote = format_named(name).write(request, read_images(grown.sessions, request), lambda rows: None)

    written = b"".join(path.read_bytes() for path in request.out.parent.rglob("*") if path.is_file())
    assert b"zebra" not in written
    assert wrote.instances == (0 if name == "webdataset" else 2)  # which writes no image whose file is gone


def test_a_row_is_segmented_by_the_prompts_that_the_export_began_with(
    grown: Finished, request_for: MakeRequest
) -> None:
    request = replace(request_for("out.csv"), view=grown.view)
    shown = [image for image in read_images(grown.sessions, request) if image.state == "done"]
    statuses = ["segmented" if any(result.instances for result in image.results) else "empty" for image in shown]
    assert [image.status for image in shown] == statuses
    assert "empty" in statuses


def test_the_status_and_the_preview_count_the_prompts_that_they_began_with(grown: Finished) -> None:
    [counted] = tallies(grown.sessions, grown.view, [Choice(0.5)], lambda images: None)
    tiles = read(grown.sessions, lambda session: choose(grown.view, session))

    assert [one.name for one in counted.classes] == ["person"]
    assert {len(tile.image.results) for tile in tiles if tile.image.state == "done"} == {1}
