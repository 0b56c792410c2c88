"""Classes: what a prompt's finds are called, and the numbers and colours of classes."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Each prompt so far is a class of its own. A text may now come with several classes."""
    op.add_column("run", sa.Column("classes", sa.Text(), nullable=True))
    op.add_column("prompt", sa.Column("class_name", sa.Text(), nullable=True))
    op.execute(sa.text("UPDATE prompt SET class_name = text"))
    if op.get_bind().dialect.name == "sqlite":
        _rebuild()
    else:
        op.alter_column("prompt", "class_name", nullable=False)
        op.drop_constraint("prompt_run_id_text_key", "prompt")
        op.create_unique_constraint(None, "prompt", ["run_id", "text", "class_name"])


def _rebuild() -> None:
    """Replace the table by a new copy: SQLite can change a constraint only when it makes a table."""
    connection = op.get_bind()
    last = connection.execute(sa.text("SELECT seq FROM sqlite_sequence WHERE name = 'prompt'")).scalar()
    new = sa.Table(
        "prompt",
        sa.MetaData(),
        sa.Column("id", ID, primary_key=True),
        sa.Column("run_id", ID, sa.ForeignKey("run.id"), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("every_image", sa.Boolean(), nullable=False),
        sa.Column("class_name", sa.Text(), nullable=False),
        sa.UniqueConstraint("run_id", "text", "class_name"),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("prompt", copy_from=new, recreate="always"):
        pass
    # The copy would continue from the highest id that it holds. Ids of deleted prompts must not be used again either.
    connection.execute(sa.text("DELETE FROM sqlite_sequence WHERE name = 'prompt'"))
    if last is not None:
        new_last = sa.text("INSERT INTO sqlite_sequence (name, seq) VALUES ('prompt', :last)")
        connection.execute(new_last, {"last": last})
