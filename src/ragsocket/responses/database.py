"""The tables of the history, and how its database is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    event,
)
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import StaticPool

METADATA = MetaData()
RESPONSES = Table(
    "responses",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("owner", String(128), nullable=False),
    Column("conversation_id", String(64)),
    Column("parent_id", String(64)),
    Column("lease", String(64), nullable=False),
    Column("finished", Boolean, nullable=False),
    Column("created_at", Integer, nullable=False),
    Column("last_number", Integer),
    Column("input", Text, nullable=False),
    Column("response", Text, nullable=False),
    # The key of the ask, and what was asked: the same again is not answered twice.
    Column("event_id", String(128)),
    Column("fingerprint", String(64)),
    # Questions and answer as plain case-folded text, for searching.
    Column("said", Text, nullable=False, default=""),
    Column("feedback", Text),
    # Its words are gone; the row stays, so that what came after finds what came before.
    Column("forgotten", Boolean, nullable=False, default=False),
    Index("responses_by_conversation", "owner", "conversation_id", "created_at"),
    Index("responses_unfinished", "finished"),
)
CONVERSATIONS = Table(
    "conversations",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("owner", String(128), nullable=False),
    Column("created_at", Integer, nullable=False),
    Column("head_id", String(64)),
    # Milliseconds, of the last question or answer.
    Column("updated_at", BigInteger, nullable=False),
    Column("metadata", Text, nullable=False, default="{}"),
    # The first words of the first question, and the title case-folded, for searching.
    Column("opening", Text),
    Column("title", Text),
    Index("conversations_by_owner", "owner", "updated_at"),
)


def connect(url: str) -> AsyncEngine:
    """Return an engine for a SQLAlchemy URL; a SQLite file's folder is made if need be."""
    parsed = make_url(url)
    if not parsed.drivername.startswith("sqlite"):
        return create_async_engine(parsed)
    if parsed.database in (None, "", ":memory:"):
        return create_async_engine(parsed, poolclass=StaticPool)
    Path(str(parsed.database)).parent.mkdir(parents=True, exist_ok=True)
    engine = create_async_engine(parsed)

    @event.listens_for(engine.sync_engine, "connect")
    def _pragmas(dbapi_connection: Any, _record: object) -> None:
        cursor = dbapi_connection.cursor()
        # With a write-ahead log readers never wait for the writer. NORMAL outlives a killed
        # process; a power cut may lose the last transactions, never the file.
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.execute("PRAGMA busy_timeout=5000")
        cursor.close()

    return engine
