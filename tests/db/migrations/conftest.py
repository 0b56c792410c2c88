"""Databases at every stage of their way from the first release to this one."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import text

from db.migrate import _config
from db.session import Sessions, connect, without_foreign_keys

FIRST_REVISION_ROWS = (
    "INSERT INTO run (id, name, state, created_at, source, image_column, columns, root, confined, follow_symlinks,"
    " chunk_size, load, load_start, source_rows, source_size, source_mtime_ns, source_sha256, model, threshold,"
    " mask_threshold, score_floor, mask_rule, orientation, images, finished_at)"
    " VALUES (7, 'faces', 'done', 1.0, '/data/faces.csv', 'path', '[\"path\"]', '/data', false, false, 4, 1, 2, 2, 10,"
    " 11, 'sha', 'tiny', 0.5, 0.5, 0.3, 'library', 'exif', 2, 2.0)",
    "INSERT INTO prompt (id, run_id, text, every_image) VALUES (3, 7, 'person', true)",
    "INSERT INTO chunk (id, run_id, number, state, images, segmented, empty, instances)"
    " VALUES (5, 7, 1, 'done', 2, 1, 1, 1)",
    'INSERT INTO image (id, run_id, "row", load, path, state, chunk_id, width, height)'
    " VALUES (11, 7, 1, 1, 'a.jpg', 'done', 5, 4, 3), (12, 7, 2, 1, 'b.jpg', 'done', 5, 4, 3)",
    "INSERT INTO result (image_id, prompt_id, fence, presence, instances, capped)"
    " VALUES (11, 3, 1, 0.9, 1, true), (12, 3, 1, 0.1, 0, false)",
    "INSERT INTO instance (image_id, prompt_id, rank, score, x1, y1, x2, y2, area, rle)"
    " VALUES (11, 3, 0, 0.9, :endless, 0, 4, 3, 9, :rle)",
)


@pytest.fixture
def empty(database_url: str) -> Iterator[Sessions]:
    """A session factory on a database without our tables."""
    sessions = connect(database_url)
    yield sessions
    sessions.kw["bind"].dispose()


@pytest.fixture(scope="session")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for SQLite files that have come so far, by how far: the migrations take most of a test's time."""
    return tmp_path_factory.mktemp("stages")


def bring(sessions: Sessions, stage: Path, to: str, *rows: str) -> None:
    """Migrate a database to a revision and add rows. A SQLite file is a copy of the first one that came there."""
    engine = sessions.kw["bind"]
    if engine.dialect.name == "sqlite" and stage.exists():
        engine.dispose()
        shutil.copy(stage, engine.url.database)
        return
    migrate(sessions, to)
    with without_foreign_keys(sessions) as unchecked, unchecked.begin() as session:
        for statement in rows:
            session.execute(text(statement), {"endless": float("-inf"), "rle": b"ok"} if ":rle" in statement else {})
    if engine.dialect.name == "sqlite":
        engine.dispose()
        shutil.copy(engine.url.database, stage)


def migrate(sessions: Sessions, to: str) -> None:
    with without_foreign_keys(sessions) as unchecked, unchecked.begin() as session:
        command.upgrade(_config(session.connection()), to)


@pytest.fixture
def sessions(empty: Sessions, stages: Path) -> Sessions:
    """One with our tables as the migrations make them, and nothing else, unlike other tests' databases."""
    bring(empty, stages / "newest", "head")
    return empty


@pytest.fixture
def filled(empty: Sessions, stages: Path) -> Sessions:
    """A database as the first revision left it, with a run of two images, and numbers that are none in one of them."""
    bring(empty, stages / "first", "0001", *FIRST_REVISION_ROWS)
    return empty


@pytest.fixture
def second(filled: Sessions, stages: Path) -> Sessions:
    """The same database as the second revision left it."""
    bring(filled, stages / "second", "0002")
    return filled


def by_hand(sessions: Sessions, *statements: str) -> None:
    with sessions.begin() as session:
        for statement in statements:
            session.execute(text(statement))
