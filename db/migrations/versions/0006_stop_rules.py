"""The rules of a run that pause it, and when it was resumed last."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns: no run has a rule, and none was paused before."""
    op.add_column("run", sa.Column("stop_after", sa.Text(), nullable=True))
    op.add_column("run", sa.Column("resumed_at", sa.Float(precision=53), nullable=True))
