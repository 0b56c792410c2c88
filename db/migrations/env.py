"""Alembic's entry point: runs the migrations on the connection that it is given; opens none itself."""

from alembic import context

from db.migrate import own_schema
from db.models import Base

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    # Without it Alembic would take up a table of another program's, if that is in a schema further along the path.
    version_table_schema=own_schema(connection),
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite cannot alter most of a table in place
)
with context.begin_transaction():
    context.run_migrations()
