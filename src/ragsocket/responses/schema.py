"""The revision that a database's tables have, and how they come to the newest.

Revisions are run at start, in one transaction and under a lock, so that several servers may start
at once and a failure leaves everything as it was. A loop of its own in a thread does it: loading
and running revisions takes longer than an event loop may stand still.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.to_thread
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, inspect, text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection

from ragsocket.errors import ConfigError
from ragsocket.responses.database import METADATA, connect, shown

log = logging.getLogger("ragsocket.history")

FIRST = "0001"
NEWEST = "0002"

FOLDER = Path(__file__).parent / "migrations"

LOCK = int.from_bytes(b"ragsockt", signed=True)
"""Of Postgres, for whoever changes the tables."""

START_WITHIN_S = 10.0

State = Literal["empty", "older", "newest", "newer", "unmarked", "strange"]


@dataclass(frozen=True, slots=True)
class Schema:
    """What was found in a database.

    Attributes:
        state: `empty` before the first start; `unmarked` if it has the tables of the first release
            and no revision; `strange` if it has tables of these names that are others.
        revision: the one that it says it has, or None.
    """

    state: State
    revision: str | None = None

    def check(self, url: URL) -> None:
        """Refuse what this version cannot work with.

        Raises:
            ConfigError: names the database and the fix.
        """
        if self.state == "newer":
            raise ConfigError(
                f"the history at {shown(url)} has tables of revision {self.revision}, from a newer "
                f"ragsocket; this one knows them up to {NEWEST}. Start the newer version, or put "
                "the backup back that was made before it."
            )
        if self.state == "strange":
            raise ConfigError(
                f"{shown(url)} has tables named {' and '.join(METADATA.tables)} that are not those "
                "of a ragsocket release. Name an empty database with RAGSOCKET_DATABASE_URL; a "
                "database from before the first release starts anew."
            )


async def bring_up(url: URL) -> None:
    """Bring the tables to the newest revision.

    Raises:
        ConfigError: they are newer, or not ours; nothing was changed.
        SQLAlchemyError: the database refused.
    """
    await anyio.to_thread.run_sync(lambda: anyio.run(_bring_up, url))


async def look(url: URL) -> Schema:
    """Return what is there, and change nothing."""
    return await anyio.to_thread.run_sync(lambda: anyio.run(_look, url))


async def _bring_up(url: URL) -> None:
    async with _connected(url) as connection:
        await connection.run_sync(_upgrade, url)


async def _look(url: URL) -> Schema:
    async with _connected(url) as connection:
        return await connection.run_sync(found)


@asynccontextmanager
async def _connected(url: URL) -> AsyncIterator[AsyncConnection]:
    engine = connect(url, timeout_s=START_WITHIN_S)
    try:
        async with engine.begin() as connection:
            yield connection
    finally:
        await engine.dispose()


def _upgrade(connection: Connection, url: URL) -> None:
    if connection.dialect.name == "postgresql":
        # A big table takes its time, and so does whoever came first.
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text("SET LOCAL lock_timeout = 0"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
    else:
        # The driver would begin with the first row that is written, and tables come before.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    schema = found(connection)
    schema.check(url)
    if schema.state == "newest":
        return
    config = _config(connection)
    if schema.state == "unmarked":
        command.stamp(config, FIRST)
    if schema.state != "empty":
        log.info("the history's tables go from revision %s to %s", schema.revision or FIRST, NEWEST)
    command.upgrade(config, NEWEST)


def found(connection: Connection) -> Schema:
    """Return what stands in the database of a connection."""
    revision = MigrationContext.configure(connection).get_current_revision()
    if revision == NEWEST:
        return Schema("newest", revision)
    if revision is not None:
        known = {one.revision for one in ScriptDirectory(str(FOLDER)).walk_revisions()}
        return Schema("older" if revision in known else "newer", revision)
    tables = tables_of(connection)
    if not tables:
        return Schema("empty")
    scratch = create_engine("sqlite://")
    try:
        with scratch.begin() as first:
            command.upgrade(_config(first), FIRST)
            return Schema("unmarked" if tables == tables_of(first) else "strange")
    finally:
        scratch.dispose()


def tables_of(connection: Connection) -> dict[str, Any]:
    """Return columns, types, keys and indexes of our tables, the same way for every database."""
    inspector = inspect(connection)
    there = [name for name in METADATA.tables if inspector.has_table(name)]
    return {
        name: (
            {
                column["name"]: (str(column["type"]), column["nullable"])
                for column in inspector.get_columns(name)
            },
            inspector.get_pk_constraint(name)["constrained_columns"],
            {index["name"]: index["column_names"] for index in inspector.get_indexes(name)},
        )
        for name in there
    }


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
