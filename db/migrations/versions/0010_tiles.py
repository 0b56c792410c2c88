"""How large images are cut into tiles."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns. No image was cut before."""
    op.add_column("run", sa.Column("tile", sa.String(16), nullable=True))
    op.add_column("run", sa.Column("overlap", sa.BigInteger(), nullable=True))
    op.add_column("image", sa.Column("tiling", sa.String(48), nullable=True))
