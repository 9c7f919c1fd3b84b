"""Every revision of the history's tables, in `versions`; alembic runs what is missing."""
