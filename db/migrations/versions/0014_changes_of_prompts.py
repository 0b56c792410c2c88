"""Which prompts were changed since a run was recorded, and how often."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns. Of earlier changes nothing is known but which prompts are dropped now."""
    op.add_column("run", sa.Column("prompt_changes", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("prompt", sa.Column("changed", sa.Boolean(), server_default=sa.false(), nullable=False))
    prompt = sa.table("prompt", sa.column("changed", sa.Boolean), sa.column("dropped", sa.Boolean))
    op.execute(prompt.update().where(prompt.c.dropped).values(changed=True))
