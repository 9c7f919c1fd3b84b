"""The tables of the first release."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "responses",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("owner", sa.String(128), nullable=False),
        sa.Column("conversation_id", sa.String(64)),
        sa.Column("parent_id", sa.String(64)),
        sa.Column("lease", sa.String(64), nullable=False),
        sa.Column("finished", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.Integer, nullable=False),
        sa.Column("last_number", sa.Integer),
        sa.Column("input", sa.Text, nullable=False),
        sa.Column("response", sa.Text, nullable=False),
        sa.Column("event_id", sa.String(128)),
        sa.Column("fingerprint", sa.String(64)),
        sa.Column("said", sa.Text, nullable=False),
        sa.Column("feedback", sa.Text),
        sa.Column("forgotten", sa.Boolean, nullable=False),
    )
    op.create_index(
        "responses_by_conversation", "responses", ["owner", "conversation_id", "created_at"]
    )
    op.create_index("responses_unfinished", "responses", ["finished"])
    op.create_table(
        "conversations",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("owner", sa.String(128), nullable=False),
        sa.Column("created_at", sa.Integer, nullable=False),
        sa.Column("head_id", sa.String(64)),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("metadata", sa.Text, nullable=False),
        sa.Column("opening", sa.Text),
        sa.Column("title", sa.Text),
    )
    op.create_index("conversations_by_owner", "conversations", ["owner", "updated_at"])
