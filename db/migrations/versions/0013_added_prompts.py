"""Prompts that are added to a run later, or dropped."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

INCOMPLETE = "incomplete BETWEEN 0 AND segmented + empty"


def upgrade() -> None:
    """Add the columns. No run lacks a result of a prompt, as none was ever added."""
    op.add_column("run", sa.Column("unsettled", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("prompt", sa.Column("dropped", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("image", sa.Column("adds", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("chunk", sa.Column("incomplete", sa.BigInteger(), server_default="0", nullable=False))
    if op.get_bind().dialect.name == "sqlite":
        _rebuild()
    else:
        op.create_check_constraint("ck_chunk_incomplete", "chunk", INCOMPLETE)


def _rebuild() -> None:
    """Replace the table by a new copy: SQLite can add a check only when it makes a table."""
    connection = op.get_bind()
    last = connection.execute(sa.text("SELECT seq FROM sqlite_sequence WHERE name = 'chunk'")).scalar()
    with op.batch_alter_table("chunk", recreate="always", table_kwargs={"sqlite_autoincrement": True}) as batch:
        batch.create_check_constraint("ck_chunk_incomplete", INCOMPLETE)
    # The copy would continue from the highest id that it holds. Ids of deleted chunks must not be used again either.
    connection.execute(sa.text("DELETE FROM sqlite_sequence WHERE name = 'chunk'"))
    if last is not None:
        connection.execute(sa.text("INSERT INTO sqlite_sequence (name, seq) VALUES ('chunk', :last)"), {"last": last})
