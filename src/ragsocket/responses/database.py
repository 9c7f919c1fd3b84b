"""The tables of the history, and how its database is opened: a SQLite file, or Postgres.

What differs between the two is here, in `schema` (the tables' revisions) and in `leases`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Engine,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    create_engine,
    event,
    text,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoFreeConnection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.types import TypeEngine

from ragsocket.errors import ConfigError

if TYPE_CHECKING:
    import asyncpg


class Plain(TypeDecorator[str]):
    """Text as it was written, but for NUL characters, which Postgres cannot hold.

    Each becomes U+FFFD, in what is stored and in what is looked for, in both databases alike.
    What is stored as JSON needs none of this: NUL is six plain characters there.
    """

    impl: TypeEngine[Any] | type[TypeEngine[Any]] = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Return what goes to the database."""
        return value if value is None else value.replace("\0", "\ufffd")


class Name(Plain):
    """A short text that names something, in the order of its bytes in both databases."""

    impl = String
    cache_ok = True

    def __init__(self, length: int) -> None:
        super().__init__(length)
        self.length = length

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[str]:
        """Return the type of the column; SQLite has no other order."""
        collation = "C" if dialect.name == "postgresql" else None
        return dialect.type_descriptor(String(self.length, collation=collation))


METADATA = MetaData()
RESPONSES = Table(
    "responses",
    METADATA,
    Column("id", Name(64), primary_key=True),
    Column("owner", Name(128), nullable=False),
    Column("conversation_id", Name(64)),
    Column("parent_id", Name(64)),
    Column("lease", Name(64), nullable=False),
    Column("finished", Boolean, nullable=False),
    Column("created_at", Integer, nullable=False),
    Column("last_number", Integer),
    Column("input", Text, nullable=False),
    Column("response", Text, nullable=False),
    # The key of the ask, and what was asked: the same again is not answered twice.
    Column("event_id", Name(128)),
    Column("fingerprint", Name(64)),
    # Questions and answer as plain case-folded text, for searching.
    Column("said", Plain, nullable=False, default=""),
    Column("feedback", Text),
    # Its words are gone; the row stays, so that what came after finds what came before.
    Column("forgotten", Boolean, nullable=False, default=False),
    Index("responses_by_conversation", "owner", "conversation_id", "created_at"),
    # Few rows, whatever the table holds.
    Index(
        "responses_running",
        "lease",
        sqlite_where=text("finished IS 0"),
        postgresql_where=text("finished IS false"),
    ),
)
CONVERSATIONS = Table(
    "conversations",
    METADATA,
    Column("id", Name(64), primary_key=True),
    Column("owner", Name(128), nullable=False),
    Column("created_at", Integer, nullable=False),
    Column("head_id", Name(64)),
    # Milliseconds, of the last question or answer.
    Column("updated_at", BigInteger, nullable=False),
    Column("metadata", Text, nullable=False, default="{}"),
    # The first words of the first question, and the title case-folded, for searching.
    Column("opening", Plain),
    Column("title", Plain),
    Index("conversations_by_owner", "owner", "updated_at"),
    Index("conversations_by_head", "head_id"),
)

POSTGRES = ("postgresql", "postgresql+asyncpg", "postgres")
SQLITE = ("sqlite", "sqlite+aiosqlite")

AWAY = frozenset(
    # Shut down, crashed, starting; no connection left; a stand-by, or made read-only; a deadlock,
    # a lock that was waited for too long.
    ("57P01", "57P02", "57P03", "53300", "25006", "40001", "40P01", "55P03")
)
"""SQLSTATEs of Postgres that say nothing against what was asked: later it may work."""

KEEPALIVE = {
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
}
"""So that Postgres learns within seconds that a machine is gone, with all that it held."""


class Away(SQLAlchemyError):
    """The database cannot be reached, or does not answer in time; the same may work later."""


@contextmanager
def reaching() -> Iterator[None]:
    """Tell a database that is away from one that refuses.

    Raises:
        Away: it cannot be reached, or does not answer in time.
        SQLAlchemyError: it refused.
    """
    try:
        yield
    except TimeoutError as error:
        raise Away("it does not answer in time") from error
    except (OSError, NoFreeConnection) as error:
        raise Away(str(error)) from error
    except DBAPIError as error:
        state = getattr(error.orig, "sqlstate", None) or ""
        if error.connection_invalidated or state in AWAY or state.startswith("08"):
            raise Away(str(error.orig)) from error
        raise


def parsed(url: str) -> URL:
    """Return a database URL with the name of the driver that is used for it.

    Raises:
        ConfigError: there is none for it.
    """
    try:
        made = make_url(url)
    except ArgumentError as error:
        raise ConfigError(f"RAGSOCKET_DATABASE_URL is no database URL: {WRITE_IT_AS}.") from error
    for names, driver in ((SQLITE, "sqlite+aiosqlite"), (POSTGRES, "postgresql+asyncpg")):
        if made.drivername in names:
            if made.database in (None, "", ":memory:") and names is SQLITE:
                raise ConfigError(f"RAGSOCKET_DATABASE_URL names no file: {WRITE_IT_AS}.")
            return made.set(drivername=driver)
    raise ConfigError(
        f"RAGSOCKET_DATABASE_URL names {made.drivername!r}, which is not used here: {WRITE_IT_AS}."
    )


WRITE_IT_AS = "write it as sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE"


def shown(url: URL) -> str:
    """Return a database URL that may be read by everybody: without passwords."""
    secret = {"sslpassword", "password"} & url.query.keys()
    return url.difference_update_query(secret).render_as_string(hide_password=True)


def connect(url: URL, *, timeout_s: float = 10, pool_size: int = 5) -> AsyncEngine:
    """Return an engine; a SQLite file's folder is made if need be.

    Args:
        url: as `parsed` gives it.
        timeout_s: seconds to connect, and that Postgres may take for one statement.
        pool_size: connections to Postgres, at most.

    Raises:
        ConfigError: the driver is not installed.
    """
    if url.drivername.startswith("sqlite"):
        return _sqlite(url)
    try:
        import asyncpg
    except ImportError as error:
        raise ConfigError(
            "RAGSOCKET_DATABASE_URL names Postgres, whose driver is not installed: "
            "pip install 'ragsocket[postgres]'."
        ) from error
    dsn = url.set(drivername="postgresql").render_as_string(hide_password=False)
    deadline = str(int(timeout_s * 1000))
    session = {
        "application_name": "ragsocket",
        "statement_timeout": deadline,
        "lock_timeout": deadline,
        "idle_in_transaction_session_timeout": deadline,
        **KEEPALIVE,
    }
    # What the operator wrote into the URL goes before.
    session = {name: value for name, value in session.items() if name not in url.query}

    async def connected() -> asyncpg.Connection[Any]:
        try:
            return await asyncpg.connect(dsn, timeout=timeout_s, server_settings=session)
        except OSError as error:
            # One kind of error for whoever cannot connect.
            why = str(error) or "it does not answer in time"
            raise asyncpg.CannotConnectNowError(why) from error

    return create_async_engine(
        url.set(query={}),
        async_creator=connected,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=timeout_s,
    )


def _sqlite(url: URL) -> AsyncEngine:
    if url.query.get("uri") is None:
        Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    engine = create_async_engine(url)
    event.listen(engine.sync_engine, "connect", set_pragmas)
    return engine


def writer(url: URL) -> Engine | None:
    """Return an engine for a thread that writes to a SQLite file; None for Postgres.

    The async driver crosses to a thread of its own for every cursor, statement and row; whoever
    crosses by himself does so once.
    """
    if not url.drivername.startswith("sqlite"):
        return None
    engine = create_engine(url.set(drivername="sqlite"))
    event.listen(engine, "connect", set_pragmas)
    return engine


def set_pragmas(dbapi_connection: Any, _record: object = None) -> None:
    """Set what holds for every connection to a SQLite file."""
    cursor = dbapi_connection.cursor()
    # With a write-ahead log readers never wait for the writer. NORMAL outlives a killed
    # process; a power cut may lose the last transactions, never the file.
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA busy_timeout=5000")
    cursor.close()
