"""The tables come to the newest revision, from every one that there was, or are left alone."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import anyio
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from test_history import answered, commit, question

from harness import beside
from postgres import Postgres
from ragsocket.engine.base import Turn
from ragsocket.errors import ConfigError
from ragsocket.responses import schema
from ragsocket.responses.database import METADATA, parsed
from ragsocket.responses.history import History
from ragsocket.responses.leases import OneProcess

FILES = Path(__file__).parents[1] / "data" / "history"
MARKED = (
    "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY);"
    "INSERT INTO alembic_version VALUES ('0001');"
)


@pytest.fixture
def first_release(database: str, request: pytest.FixtureRequest) -> str:
    """A database as the first release left it, with four responses of one conversation."""
    run(database, (FILES / f"first-release.{kind(database)}.sql").read_text(), request)
    return database


def kind(database: str) -> str:
    """`sqlite` or `postgres`."""
    return "sqlite" if database.startswith("sqlite") else "postgres"


def run(database: str, script: str, request: pytest.FixtureRequest) -> None:
    """Run a script of SQL in a database, past everything of ours."""
    if kind(database) == "sqlite":
        connection = sqlite3.connect(database.removeprefix("sqlite:///"))
        connection.executescript(script)
        connection.close()
    else:
        server: Postgres = request.getfixturevalue("postgres")
        server.sql(script, database)


async def content(database: str) -> tuple[object, ...]:
    """Everything that stands in a database of ours, tables and rows."""

    def read(connection: Connection) -> tuple[object, ...]:
        rows = [
            [tuple(row) for row in connection.execute(text(f"SELECT * FROM {name} ORDER BY id"))]
            for name in METADATA.tables
        ]
        return schema.tables_of(connection), rows

    async with beside(database) as connection:
        return await connection.run_sync(read)


async def test_the_tables_are_those_that_the_code_uses(database: str) -> None:
    """An empty database gets, revision by revision, exactly the tables of `database`."""
    await schema.bring_up(parsed(database))

    def differences(connection: Connection) -> object:
        return compare_metadata(MigrationContext.configure(connection), METADATA)

    async with beside(database) as connection:
        assert await connection.run_sync(differences) == []
    assert await schema.look(parsed(database)) == schema.Schema("newest", schema.NEWEST)
    assert ScriptDirectory(str(schema.FOLDER)).get_current_head() == schema.NEWEST


@pytest.mark.parametrize("marked", [True, False])
async def test_what_the_first_release_kept_is_kept(
    first_release: str, marked: bool, request: pytest.FixtureRequest
) -> None:
    """Rows of revision 1 are read, gone on from and ended by this version.

    The same for a database from before there were revisions, which is taken for what it is.
    """
    if marked:
        run(first_release, MARKED, request)
    found = await schema.look(parsed(first_release))
    assert found == (schema.Schema("older", "0001") if marked else schema.Schema("unmarked"))
    async with History.open(first_release, lease="new", leases=OneProcess()) as history:
        assert await history.turns("resp_2", owner="local") == [
            Turn("user", "When does the ferry leave? Größe 'quoted'"),
            Turn("assistant", "At 7:40, \U0001f600."),
            Turn("user", "And dogs?"),
            Turn("assistant", "Free."),
        ]
        assert await history.head("conv_1", owner="local") == (True, "resp_3")
        asks = await history.asks("conv_1", owner="local")
        assert {ask.event_id for ask in asks} == {"key-resp_1", "key-resp_2", "key-resp_3"}
        rated, lost = [await history.get(id, owner="local") for id in ("resp_2", "resp_4")]
        assert rated is not None
        assert rated.feedback is not None
        assert rated.feedback.rating == "up"
        assert lost is not None
        assert lost.response.ragsocket.reason == "worker_lost"
        new = answered("resp_5", "More.", parent="resp_3", conversation="conv_1")
        await commit(history, new, "More?")
        assert await history.head("conv_1", owner="local") == (True, "resp_5")
        assert len(await history.turns("resp_5", owner="local")) == 8
    assert await schema.look(parsed(first_release)) == schema.Schema("newest", schema.NEWEST)


async def test_several_that_start_at_once_change_the_tables_once(first_release: str) -> None:
    """One does it while the others wait, and all of them serve."""

    async def start(lease: str) -> None:
        async with History.open(first_release, lease=lease) as history:
            await commit(history, answered(lease, "a"), "q")

    async with anyio.create_task_group() as tasks:
        for n in range(4):
            tasks.start_soon(start, f"r{n}")
    async with beside(first_release) as connection:
        rows = (await connection.execute(text("SELECT version_num FROM alembic_version"))).all()
        assert rows == [(schema.NEWEST,)]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (f"{MARKED} UPDATE alembic_version SET version_num = '0815'", ["0815", "newer", "backup"]),
        ("ALTER TABLE responses ADD COLUMN mood TEXT", ["not those", "RAGSOCKET_DATABASE_URL"]),
        ("DROP INDEX conversations_by_owner", ["not those", "RAGSOCKET_DATABASE_URL"]),
    ],
    ids=["newer", "a column more", "an index less"],
)
async def test_what_is_not_ours_is_refused_by_name(
    first_release: str, script: str, words: list[str], request: pytest.FixtureRequest
) -> None:
    """Tables of a newer version, and tables that only bear the names, are left as they are."""
    run(first_release, script, request)
    before = await content(first_release)
    with pytest.raises(ConfigError) as refused:
        async with History.open(first_release, lease="one"):
            pass
    name = first_release.rpartition("/")[2]
    assert not [word for word in (*words, name) if word not in str(refused.value)]
    assert await content(first_release) == before


async def test_a_revision_that_fails_changes_nothing(
    first_release: str, request: pytest.FixtureRequest
) -> None:
    """The start is refused, and the tables are as they were, so that the old version still runs."""
    run(first_release, f"{MARKED} CREATE TABLE conversations_by_head (id TEXT)", request)
    before = await content(first_release)
    with pytest.raises(ConfigError, match="conversations_by_head"):
        async with History.open(first_release, lease="one"):
            pass
    assert await content(first_release) == before
    assert await schema.look(parsed(first_release)) == schema.Schema("older", "0001")


async def test_the_loop_goes_on_while_tables_are_made(first_release: str) -> None:
    """Whoever changes the tables waits for a lock, and nothing else waits with it."""
    blocking = "BEGIN IMMEDIATE"
    if kind(first_release) == "postgres":
        blocking = f"SELECT pg_advisory_xact_lock({schema.LOCK})"
    async with anyio.create_task_group() as tasks:
        async with beside(first_release) as locking:
            await locking.exec_driver_sql(blocking)
            tasks.start_soon(schema.bring_up, parsed(first_release))
            # Each look is a turn of the loop, and the start has not got past the lock.
            for _ in range(20):
                await anyio.sleep(0.005)
            async with beside(first_release) as looking:
                assert "responses_unfinished" in str(
                    (await looking.run_sync(schema.tables_of))["responses"]
                )
    assert (await schema.look(parsed(first_release))).state == "newest"


async def test_names_sort_alike(database: str) -> None:
    """By their bytes, whatever the language of the database is."""
    names = ["a_1", "A_2", "B-1", "a-3", "b_0", "_c"]
    async with History.open(database, lease="one") as history:
        for name in names:
            history.accept(answered(name, ""), question("q"), owner="local")
        await history.settled()
        statement = text("SELECT id FROM responses ORDER BY id")
        rows = await history.read(lambda connection: connection.execute(statement).scalars().all())
        assert rows == sorted(names)
        if kind(database) == "postgres":
            # What the test's database compares by its bytes anyway.
            columns = text(
                "SELECT DISTINCT collation_name FROM information_schema.columns "
                "WHERE table_schema = current_schema() AND table_name = 'responses' "
                "AND data_type = 'character varying'"
            )
            found = await history.read(
                lambda connection: connection.execute(columns).scalars().all()
            )
            assert found == ["C"]
