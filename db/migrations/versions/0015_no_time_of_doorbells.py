"""Chunks no longer have the time of their last doorbell, which nothing read."""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Drop the column. SQLite writes the rows of the table anew for it, and of a large database these are few: a chunk
    has 256 images."""
    op.drop_column("chunk", "rung_at")
