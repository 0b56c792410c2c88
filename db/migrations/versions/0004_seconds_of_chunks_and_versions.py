"""When a chunk was worked on, by which node and how long in each stage; the versions that a run was computed with."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

STAGES = ("read", "decode", "preprocess", "forward", "masks", "commit", "waiting")


def upgrade() -> None:
    """Add the columns. For chunks that were done before, the seconds stay 0, and times and node unknown."""
    op.add_column("chunk", sa.Column("node", sa.Text(), nullable=True))
    for name in ("started_at", "finished_at"):
        op.add_column("chunk", sa.Column(name, sa.Float(precision=53), nullable=True))
    for stage in STAGES:
        seconds = sa.Column(f"{stage}_seconds", sa.Float(precision=53), server_default="0", nullable=False)
        op.add_column("chunk", seconds)
    op.add_column("run", sa.Column("versions", sa.Text(), nullable=True))
