"""States for unfinished cancels and deletes, images computed again, warnings; ids used once, finite numbers only."""

from uuid import uuid4

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

EDGES = ("x1", "y1", "x2", "y2")
LARGEST_COORDINATE = 1e9
CHECKS = {
    "ck_result_presence": ("result", "presence BETWEEN 0 AND 1"),
    "ck_instance_score": ("instance", "score BETWEEN 0 AND 1"),
    "ck_instance_box": ("instance", " AND ".join(f"abs({edge}) <= {LARGEST_COORDINATE:.0f}" for edge in EDGES)),
    "ck_instance_area": ("instance", "area >= 0"),
}


def upgrade() -> None:
    _name_database()
    _add_columns()
    _take_up_half_done_cancels()
    _replace_what_is_no_number()
    if op.get_bind().dialect.name == "sqlite":
        op.execute("UPDATE run SET uid = lower(hex(randomblob(16)))")
        _rebuild()
    else:
        op.execute("UPDATE run SET uid = replace(gen_random_uuid()::text, '-', '')")
        op.alter_column("run", "uid", nullable=False)
        for name, (table, condition) in CHECKS.items():
            op.create_check_constraint(name, table, condition)


def _name_database() -> None:
    """Give the database a random name that no other database has, so that several databases can share one broker."""
    made = op.create_table("installation", sa.Column("identity", sa.String(length=32), primary_key=True))
    op.bulk_insert(made, [{"identity": uuid4().hex}])


def _add_columns() -> None:
    op.add_column("run", sa.Column("uid", sa.String(length=32), nullable=True))
    for name in ("source_ended", "stretch"):
        op.add_column("run", sa.Column(name, sa.Boolean(), server_default=sa.false(), nullable=False))
    for name in ("capped", "warned"):
        op.add_column("chunk", sa.Column(name, sa.BigInteger(), server_default="0", nullable=False))
    for name in ("position", "file_size", "file_mtime_ns"):
        op.add_column("image", sa.Column(name, sa.BigInteger(), nullable=True))
    op.add_column("image", sa.Column("warning", sa.Text(), nullable=True))
    warned = sa.text("warning IS NOT NULL")
    op.create_index("ix_image_warning", "image", ["run_id"], sqlite_where=warned, postgresql_where=warned)
    capped = "SELECT count(DISTINCT image.id) FROM image JOIN result ON result.image_id = image.id"
    op.execute(f"UPDATE chunk SET capped = ({capped} WHERE image.chunk_id = chunk.id AND result.capped)")
    # A run whose source has a checksum was read to its end. For the other runs the next load sets the column.
    op.execute("UPDATE run SET source_ended = (source_sha256 IS NOT NULL)")


def _take_up_half_done_cancels() -> None:
    """Before this schema a killed cancel left a cancelled run with live chunks. Such runs are cancelled to the end."""
    live = "SELECT 1 FROM chunk WHERE chunk.run_id = run.id AND chunk.state IN ('pending', 'queued', 'running')"
    half = f"state = 'cancelled' AND EXISTS ({live})"
    op.execute(f"UPDATE run SET state = 'cancelling', finished_at = NULL WHERE {half}")


def _replace_what_is_no_number() -> None:
    """Set numbers that the new checks refuse to 0, as they would stop the upgrade. Such numbers were never usable."""
    for edge in EDGES:
        finite = f"abs({edge}) <= {LARGEST_COORDINATE:.0f}"
        op.execute(f"UPDATE instance SET {edge} = 0 WHERE NOT {finite}")
    for table, column in (("instance", "score"), ("result", "presence")):
        op.execute(f"UPDATE {table} SET {column} = 0 WHERE {column} NOT BETWEEN 0 AND 1")


def _rebuild() -> None:
    """Replace tables by new copies: SQLite can add AUTOINCREMENT or a check only when it makes a table."""
    for table in ("run", "prompt", "image", "worker"):
        with op.batch_alter_table(table, recreate="always", table_kwargs={"sqlite_autoincrement": True}) as batch:
            if table == "run":
                batch.alter_column("uid", nullable=False)
    for table in ("result", "instance"):
        with op.batch_alter_table(table, recreate="always") as batch:
            for name, (checked, condition) in CHECKS.items():
                if checked == table:
                    batch.create_check_constraint(name, condition)


def downgrade() -> None:
    raise NotImplementedError("later results cannot be told in older tables: restore a backup")
