"""How a database is named and opened, and that text comes back the same from both kinds."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from sqlalchemy import text
from test_history import answered, commit, question
from test_kept import Echo

from postgres import Postgres
from ragsocket.engine.base import Turn
from ragsocket.errors import ConfigError
from ragsocket.protocol.listing import Part
from ragsocket.protocol.resources import Feedback, Response
from ragsocket.responses.conversations import Conversations
from ragsocket.responses.database import connect, parsed, shown
from ragsocket.responses.history import History
from ragsocket.responses.kept import Kept
from ragsocket.responses.runner import Runner


async def refusal(url: str, *, patience_s: float = 0) -> str:
    """Return why a history cannot be opened."""
    with pytest.raises(ConfigError) as refused:
        async with History.open(url, lease="one", timeout_s=1, patience_s=patience_s):
            pass
    return str(refused.value)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nonsense", ["no database URL", "sqlite:///FILE", "postgresql://"]),
        ("sqlite://", ["names no file"]),
        ("mysql://u:secret@h/d", ["'mysql'", "postgresql://"]),
        ("postgresql+psycopg://u:secret@h/d", ["'postgresql+psycopg'", "postgresql://"]),
    ],
)
async def test_urls_that_cannot_be_used(url: str, words: list[str]) -> None:
    """Each is refused with what would be right, and without its password."""
    told = await refusal(url)
    assert not [word for word in words if word not in told]
    assert "secret" not in told


def test_plain_urls_are_enough() -> None:
    """The driver need not be named, and passwords are not shown."""
    for url in ("postgresql://u:secret@h/d", "postgres://u:secret@h/d?sslpassword=secret"):
        assert shown(parsed(url)) == "postgresql+asyncpg://u:***@h/d"
    assert parsed("sqlite:///f") == parsed("sqlite+aiosqlite:///f")


async def test_without_the_driver_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Postgres needs one that not everybody has."""
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    assert "pip install 'ragsocket[postgres]'" in await refusal("postgresql://u@h/d")


async def test_a_database_that_is_not_there_is_told_at_once(postgres: Postgres) -> None:
    """Waiting would not help, so nobody does."""
    url = postgres.fresh().replace("/postgres?", "/no_such_one?")
    with anyio.fail_after(20):
        told = await refusal(url, patience_s=1000)
    assert "no_such_one" in told
    assert "does not exist" in told


async def test_down_at_start(postgres: Postgres) -> None:
    """Without patience it is told where it was looked for; with it, it is waited for."""
    url = postgres.fresh()
    await anyio.to_thread.run_sync(postgres.stop)
    try:
        told = await refusal(url.replace("postgres@", "postgres:secret@"))
        assert f"127.0.0.1:{postgres.port}" in told
        assert "Connect call failed" in told
        assert "secret" not in told
        opened = anyio.Event()

        async def start() -> None:
            async with History.open(url, lease="one", patience_s=1000) as history:
                await commit(history, answered("r1", "a"), "q")
                opened.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(start)
            await anyio.to_thread.run_sync(postgres.start)
            await opened.wait()
    finally:
        await anyio.to_thread.run_sync(postgres.start)


async def test_what_libpq_knows_stands_in_the_url(postgres: Postgres) -> None:
    """TLS is asked for as everywhere; what else stands there is set for the session."""
    url = postgres.fresh()
    assert "SSL" in await refusal(f"{url}&sslmode=require")
    named = f"{url}&sslmode=disable&application_name=mine&statement_timeout=1234"
    engine = connect(parsed(named), timeout_s=2)
    async with engine.connect() as connection:
        for name, value in (
            ("application_name", "mine"), ("statement_timeout", "1234ms"), ("lock_timeout", "2s")
        ):  # fmt: skip
            assert (await connection.execute(text(f"SHOW {name}"))).scalar() == value
    await engine.dispose()


async def test_a_file_that_may_only_be_read_is_refused(tmp_path: Path) -> None:
    """The start says so, and where the file is."""
    file = tmp_path / "history.sqlite3"
    async with History.open(f"sqlite:///{file}", lease="one"):
        pass
    told = await refusal(f"sqlite:///file:{file}?mode=ro&uri=true")
    assert "readonly" in told
    assert str(file) in told


LONG = "Straße " * 100_000
TEXTS = ("\0 NUL \0", "a%b_c\\d/e'f\"g", "ΑΣ ﬁ İ ẞ", "\U0001f600 \u2028 \x7f\x01", LONG)


async def test_every_text_comes_back_as_it_was(database: str) -> None:
    """NUL, quotes, other planes and a megabyte, in question, answer and feedback."""
    async with History.open(database, lease="one") as history, Runner.open(
        Echo(), history
    ) as runner:  # fmt: skip
        kept = Kept(runner.lineage, "local")
        for number, said in enumerate(TEXTS):
            response = answered(f"r{number}", said, conversation="c")
            await commit(history, response, said)
            record = await history.get(response.id, owner="local")
            assert record is not None
            assert (record.response, record.input) == (response, question(said))
            rated = await kept.rate(response.id, Feedback(rating=None, text=said[:100]))
            assert rated.ragsocket.feedback == Feedback(rating=None, text=said[:100])
        for id in ("\0", "r0\0", "' OR 1=1 --"):
            assert await history.get(id, owner="local") is None
            assert await history.turns(id, owner="local") == []
        history.rewritten(["r0"])
        assert await history.turns("r0", owner="local") == [
            Turn("user", TEXTS[0]), Turn("assistant", TEXTS[0])
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("100%", ["c0"]),
        ("%", ["c0"]),
        ("snake_case", ["c1"]),
        ("snakeXcase", []),
        ("back\\slash", ["c1"]),
        ("a/b", ["c1"]),
        ("STRASSE", ["c2"]),
        ("straße", ["c2"]),
        ("ὀδυσσεύς", ["c3"]),
        ("nul\0byte", ["c4"]),
        ("nul", ["c4"]),
        ("'; DROP", []),
        ("\0", ["c4"]),
        ("q", ["c0", "c1", "c2", "c3", "c4"]),
    ],
)
async def test_words_are_found_alike(searched: Conversations, words: str, found: list[str]) -> None:
    """Signs that mean something to LIKE mean themselves, and case is folded as Unicode folds it."""
    listed, more = await searched.search(Part(limit=10, descending=False), words)
    assert [one.id for one in listed] == found
    assert not more


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def filled(request: pytest.FixtureRequest, empty: object) -> str:
    """A database with five conversations, all of the same millisecond."""
    url: str = empty(request.param)  # type: ignore[operator]

    async def fill() -> None:
        async with History.open(url, lease="one") as history:
            for number, said in enumerate(
                ("100% sure", "snake_case back\\slash a/b", "Die Straße", "ὈΔΥΣΣΕΎΣ", "nul\0byte")
            ):
                response: Response = answered(f"r{number}", said, conversation=f"c{number}")
                await commit(history, response, "q")
            await history.write(
                lambda connection: (
                    connection.execute(text("UPDATE conversations SET updated_at = 4102444800000"))
                    and None
                )
            )

    anyio.run(fill)
    return url


@pytest.fixture
async def searched(filled: str):  # type: ignore[no-untyped-def]
    """The conversations of that database."""
    async with (
        History.open(filled, lease="two") as history,
        Runner.open(Echo(), history) as runner,
    ):
        yield Conversations(runner.lineage, "local", model="echo")


async def test_paging_is_alike(searched: Conversations) -> None:
    """Of the same time, the order is that of the ids, in both directions and in any part."""
    for descending in (False, True):
        ids: list[str] = []
        after, more = None, True
        while more:
            part, more = await searched.search(Part(after, 2, descending))
            ids += [one.id for one in part]
            after = ids[-1]
        assert ids == sorted(ids, reverse=descending)
        assert len(ids) == 5
