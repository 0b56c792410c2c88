"""Runs that look for everything at a grid of points."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column. Every run had prompts before."""
    op.add_column("run", sa.Column("points_per_side", sa.BigInteger(), nullable=True))
