"""The boxes of rows."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns. No row had boxes before."""
    op.add_column("run", sa.Column("box_column", sa.Text(), nullable=True))
    op.add_column("image", sa.Column("boxes", sa.Text(), nullable=True))
