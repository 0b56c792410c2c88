"""Which images of a run have the same content, so that it is computed once."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns, and the index of contents. No image has noted its content before."""
    op.add_column("run", sa.Column("dedupe", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("image", sa.Column("content", sa.LargeBinary(), nullable=True))
    noted = sa.text("content IS NOT NULL")
    op.create_index("ix_image_content", "image", ["run_id", "content"], sqlite_where=noted, postgresql_where=noted)
