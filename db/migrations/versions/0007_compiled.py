"""Whether a run is computed with compiled kernels."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column. Runs that began before were computed without; for them it stays unknown, which means the same."""
    op.add_column("run", sa.Column("compiled", sa.Boolean(), nullable=True))
