"""What several servers on one database look for is found by index; names sort by their bytes."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

NAMES = {
    "responses": {
        "id": 64,
        "owner": 128,
        "conversation_id": 64,
        "parent_id": 64,
        "lease": 64,
        "event_id": 128,
        "fingerprint": 64,
    },
    "conversations": {"id": 64, "owner": 128, "head_id": 64},
}


def upgrade() -> None:
    """Change the indexes, and on Postgres the order of names."""
    if op.get_context().dialect.name == "postgresql":
        for table, names in NAMES.items():
            for name, length in names.items():
                op.alter_column(table, name, type_=sa.String(length, collation="C"))
    op.drop_index("responses_unfinished", "responses")
    op.create_index(
        "responses_running",
        "responses",
        ["lease"],
        sqlite_where=sa.text("finished IS 0"),
        postgresql_where=sa.text("finished IS false"),
    )
    op.create_index("conversations_by_head", "conversations", ["head_id"])
