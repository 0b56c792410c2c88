"""Checks on states, leases, counters and thresholds, so that the database refuses rows that make no sense."""

import sqlalchemy as sa
from alembic import op

from db.refusals import DatabaseUnusable

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

LIVE = "state IN ('pending', 'queued', 'running')"
COUNTERS = (
    "segmented >= 0 AND empty >= 0 AND failed >= 0 AND cancelled >= 0 AND instances >= 0"
    " AND segmented + empty + failed + cancelled <= images"
    " AND capped BETWEEN 0 AND segmented + empty AND warned BETWEEN 0 AND segmented + empty"
)
OVER = f"{LIVE} OR segmented + empty + failed + cancelled = images"
RUN_COUNTERS = "duplicates >= 0 AND rejected >= 0 AND duplicates + rejected <= images"
CHECKS = {
    "run": {
        "ck_run_state": "state IN ('loading', 'active', 'done', 'cancelling', 'cancelled', 'deleting')",
        "ck_run_thresholds": (
            "threshold BETWEEN 0 AND 1 AND mask_threshold BETWEEN 0 AND 1 AND score_floor BETWEEN 0 AND 1"
        ),
        "ck_run_counters": RUN_COUNTERS,
    },
    "chunk": {
        "ck_chunk_state": "state IN ('pending', 'queued', 'running', 'done', 'failed', 'cancelled')",
        "ck_chunk_lease": "(state = 'running') = (lease_until IS NOT NULL)",
        "ck_chunk_counters": COUNTERS,
        "ck_chunk_over": OVER,
    },
    "image": {
        "ck_image_state": "state IN ('pending', 'done', 'failed', 'cancelled', 'duplicate', 'rejected')",
    },
}
MENDED = ("ck_run_counters", "ck_chunk_lease", "ck_chunk_counters", "ck_chunk_over")


def upgrade() -> None:
    for table, checks in CHECKS.items():
        for name, condition in checks.items():
            if name not in MENDED:
                _refuse(table, condition)
    _mend_leases()
    _count_again()
    _take_up_what_is_left()
    if op.get_bind().dialect.name == "sqlite":
        _rebuild()
    else:
        for table, checks in CHECKS.items():
            for name, condition in checks.items():
                op.create_check_constraint(name, table, condition)


def _refuse(table: str, condition: str) -> None:
    """Stop the upgrade if a row breaks the condition. No release ever wrote such a row: a person must correct it."""
    broken = op.get_bind().execute(sa.text(f"SELECT id FROM {table} WHERE NOT ({condition}) LIMIT 1")).scalar()
    if broken is not None:
        raise DatabaseUnusable(
            f"the row {broken} of table {table} was changed by hand and is not valid: "
            f"correct it so that {condition}, then try again"
        )


def _mend_leases() -> None:
    """Give a running chunk without a lease one that is over, so that the reconciler takes the chunk back."""
    op.execute("UPDATE chunk SET lease_until = 0 WHERE state = 'running' AND lease_until IS NULL")
    op.execute("UPDATE chunk SET lease_until = NULL WHERE state <> 'running'")


def _count_again() -> None:
    """Count the rows again where the counters cannot be true."""
    images = "FROM image WHERE image.chunk_id = chunk.id"
    results = f"FROM image JOIN result ON result.image_id = image.id {images.removeprefix('FROM image ')}"
    found = "EXISTS (SELECT 1 FROM result WHERE result.image_id = image.id AND result.instances > 0)"
    done = "AND image.state = 'done'"
    counted = {
        "images": f"SELECT count(*) {images}",
        "segmented": f"SELECT count(*) {images} {done} AND {found}",
        "empty": f"SELECT count(*) {images} {done} AND NOT {found}",
        "failed": f"SELECT count(*) {images} AND image.state = 'failed'",
        "cancelled": f"SELECT count(*) {images} AND image.state = 'cancelled'",
        "instances": f"SELECT coalesce(sum(result.instances), 0) {results} {done}",
        "capped": f"SELECT count(DISTINCT image.id) {results} {done} AND result.capped",
        "warned": f"SELECT count(*) {images} {done} AND image.warning IS NOT NULL",
    }
    values = ", ".join(f"{name} = ({query})" for name, query in counted.items())
    op.execute(f"UPDATE chunk SET {values} WHERE NOT ({COUNTERS}) OR NOT ({OVER})")
    rows = "SELECT count(*) FROM image WHERE image.run_id = run.id"
    values = (
        f"images = ({rows}), duplicates = ({rows} AND image.state = 'duplicate'),"
        f" rejected = ({rows} AND image.state = 'rejected')"
    )
    op.execute(f"UPDATE run SET {values} WHERE NOT ({RUN_COUNTERS})")


def _take_up_what_is_left() -> None:
    """Make a chunk pending again if it is over but has pending images, and its run active or cancelling."""
    left = f"SELECT run_id FROM chunk WHERE NOT ({OVER})"
    op.execute(f"UPDATE run SET state = 'active', finished_at = NULL WHERE state = 'done' AND id IN ({left})")
    op.execute(f"UPDATE run SET state = 'cancelling', finished_at = NULL WHERE state = 'cancelled' AND id IN ({left})")
    op.execute(f"UPDATE chunk SET state = 'pending', not_before = NULL, error = NULL WHERE NOT ({OVER})")


def _rebuild() -> None:
    """Replace tables by new copies: SQLite can add a check only when it makes a table."""
    connection = op.get_bind()
    last = {row.name: row.seq for row in connection.execute(sa.text("SELECT name, seq FROM sqlite_sequence"))}
    for table, checks in CHECKS.items():
        with op.batch_alter_table(table, recreate="always", table_kwargs={"sqlite_autoincrement": True}) as batch:
            for name, condition in checks.items():
                batch.create_check_constraint(name, condition)
        # The copy would continue from the highest id that it holds. Ids of deleted rows must not be used again either.
        connection.execute(sa.text("DELETE FROM sqlite_sequence WHERE name = :table"), {"table": table})
        if table in last:
            insert = sa.text("INSERT INTO sqlite_sequence (name, seq) VALUES (:table, :last)")
            connection.execute(insert, {"table": table, "last": last[table]})


def downgrade() -> None:
    raise NotImplementedError("what the upgrade put right cannot be told from the rest: restore a backup")
