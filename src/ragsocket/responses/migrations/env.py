"""What alembic runs: the missing revisions, on the connection that `schema` hands over."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
