"""By which rules the images of a run are read: what its workers and its exports have in common. Opens no file."""

from typing import Literal, cast

from db.views.run_views import RunView
from workers.inference.reading.rules import ReadRules


def read_rules(run: RunView) -> ReadRules:
    """Which images of the run may be opened, and how they are turned and converted."""
    source, frozen = run.source, run.frozen
    return ReadRules(
        orientation=cast(Literal["exif", "raw"], frozen.orientation),
        stretch=frozen.stretch,
        root=source.root if source.confined else None,
        follow_symlinks=source.follow_symlinks,
        digests=frozen.dedupe,
    )
