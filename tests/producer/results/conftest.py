"""One small run with a row of every kind, for all export formats."""

from collections.abc import Callable
from pathlib import Path

import pytest

from db.intake import NewRow
from producer.results.choice import Choice
from producer.results.common import ExportRequest
from tests.producer.results.finished import Done, Ends, Failed, Finished, Input, ellipse, finish

SIZE = (64, 48)
SMALL = ellipse(SIZE, (20, 20), (6, 9))
LARGE = ellipse(SIZE, (40, 24), (20, 15))
FAINT = ellipse(SIZE, (5, 40), (3, 3))

MakeRequest = Callable[..., ExportRequest]


@pytest.fixture
def run(tmp_path: Path) -> Finished:
    """Rows: 1 segmented, 2 empty, 3 outside the root, 4 failed, 5 pending, 6 a duplicate of 1, 7 rejected."""
    outside = str(tmp_path / "outside" / "c.png")
    rows = [
        NewRow("a.jpg", {"label": 'x, "y"\r'}),
        NewRow("sub/b.jpg", {"label": ""}),
        NewRow(outside, {"label": "far"}),
        NewRow("broken.jpg", {"label": "4"}),
        NewRow("late.jpg", {"label": "5"}),
        NewRow("a.jpg", {"path": "./a.jpg", "label": "again"}),
        NewRow("short.jpg", {}, rejected=("bad_row", "1 cell instead of 2")),
    ]
    ends: Ends = {
        "a.jpg": Done({"person": [(0.9, SMALL), (0.6, LARGE), (0.35, FAINT)], "Red hat": [(0.4, FAINT)]}, SIZE),
        "sub/b.jpg": Done({}, SIZE),
        outside: Done({"Red hat": [(0.75, LARGE)]}, SIZE),
        "broken.jpg": Failed("truncated", "ends after 100 bytes\nof 2000"),
    }
    given = Input(tmp_path / "in", rows, ("person", "Red hat"), ("path", "label"))
    return finish(tmp_path, given, ends)


@pytest.fixture
def request_for(run: Finished, tmp_path: Path) -> MakeRequest:
    """Make a request for the run; `out` is a name below a fresh folder."""

    def make(
        out: str,
        *,
        min_score: float = 0.5,
        select: str = "union",
        masks: str | None = None,
        flat: bool = False,
        **own: object,
    ) -> ExportRequest:
        folder = tmp_path / "out"
        masks_folder = None if masks is None else folder / masks
        # A row is pending.
        return ExportRequest(
            run.view, Choice(min_score), folder / out, select, masks_folder, flat=flat, partial=True, own=own
        )

    return make
