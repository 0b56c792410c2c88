"""Which files the runs of a database read: their sources and their images. Changes nothing and opens no file."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.bulk import named_at_once
from db.models import Image, Run

MOST_RUNS, MOST_PATHS = 200, 2000  # of one statement; longer lists are asked for in parts


@dataclass(frozen=True)
class RunInput:
    """Where one run's rows come from, and where its relative paths start."""

    id: int
    name: str
    source: str  # absolute path of the file or folder, or a pattern of paths
    root: str


def run_inputs(session: Session) -> list[RunInput]:
    """The inputs of all runs, the oldest run first."""
    rows = session.execute(select(Run.id, Run.name, Run.source, Run.root).order_by(Run.id))
    return [RunInput(*row) for row in rows]


def recorded_paths(session: Session, runs: Sequence[int], paths: Sequence[str]) -> set[tuple[int, str]]:
    """Which of `paths` are images of which of `runs`, as (run id, path). Paths are compared as text."""
    found: set[tuple[int, str]] = set()
    for some_runs in named_at_once(runs, MOST_RUNS):
        for some_paths in named_at_once(paths, MOST_PATHS):
            rows = select(Image.run_id, Image.path).where(Image.run_id.in_(some_runs), Image.path.in_(some_paths))
            found.update((run_id, path) for run_id, path in session.execute(rows))
    return found
