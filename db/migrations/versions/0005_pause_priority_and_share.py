"""Pause, priority and share of a run."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

CHECKS = {
    "ck_run_paused": "paused IS NULL OR state NOT IN ('done', 'cancelled')",
    "ck_run_turn": "priority BETWEEN -10 AND 10 AND share > 0 AND share <= 1",
}


def upgrade() -> None:
    """Add the columns: no run is paused, and all have the same turn."""
    op.add_column("run", sa.Column("paused", sa.Text(), nullable=True))
    op.add_column("run", sa.Column("priority", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("run", sa.Column("share", sa.Float(precision=53), server_default="1", nullable=False))
    if op.get_bind().dialect.name == "sqlite":
        _rebuild()
    else:
        for name, condition in CHECKS.items():
            op.create_check_constraint(name, "run", condition)


def _rebuild() -> None:
    """Replace the table by a new copy: SQLite can add a check only when it makes a table."""
    connection = op.get_bind()
    last = connection.execute(sa.text("SELECT seq FROM sqlite_sequence WHERE name = 'run'")).scalar()
    with op.batch_alter_table("run", recreate="always", table_kwargs={"sqlite_autoincrement": True}) as batch:
        for name, condition in CHECKS.items():
            batch.create_check_constraint(name, condition)
    # The copy would continue from the highest id that it holds. Ids of deleted runs must not be used again either.
    connection.execute(sa.text("DELETE FROM sqlite_sequence WHERE name = 'run'"))
    if last is not None:
        connection.execute(sa.text("INSERT INTO sqlite_sequence (name, seq) VALUES ('run', :last)"), {"last": last})
