"""History on a real SQLite file and on a real Postgres: the same promises."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from sqlalchemy import Connection, text, update
from sqlalchemy.exc import SQLAlchemyError

from harness import beside
from ragsocket.engine.base import Turn
from ragsocket.errors import ConfigError, StaleOwner
from ragsocket.protocol.input_items import InputMessage
from ragsocket.protocol.resources import (
    ConversationRef,
    OutputMessage,
    OutputText,
    Response,
)
from ragsocket.responses.database import RESPONSES
from ragsocket.responses.history import History
from ragsocket.responses.leases import OneProcess


def question(text: str) -> tuple[InputMessage, ...]:
    """The input of one ask."""
    return (InputMessage(role="user", content=text),)


def answered(
    id: str, text: str, *, parent: str | None = None, conversation: str | None = None,
    cut: bool = False,
) -> Response:  # fmt: skip
    """A response at its end."""
    return Response(
        id=id,
        created_at=1,
        status="cancelled" if cut else "completed",
        model="m",
        previous_response_id=parent,
        conversation=ConversationRef(id=conversation) if conversation else None,
        output=(
            OutputMessage(
                id=f"msg_{id}",
                status="incomplete" if cut else "completed",
                content=(OutputText(text=text),),
            ),
        ),
    )


async def commit(history: History, response: Response, asked: str, owner: str = "local") -> None:
    """Accept and end a response."""
    history.accept(response, question(asked), owner=owner)
    await history.commit(response, question(asked), owner=owner, last_number=9, moves_head=True)


async def test_the_walk_back_is_the_conversation(database: str) -> None:
    """A chain gives its turns oldest first, after a restart as before it."""
    expected = [
        Turn("user", "q1"),
        Turn("assistant", "a1"),
        Turn("user", "q2"),
        Turn("assistant", "a2", cut=True),
    ]
    async with History.open(database, lease="one") as history:
        await commit(history, answered("r1", "a1"), "q1")
        await commit(history, answered("r2", "a2", parent="r1", cut=True), "q2")
        assert await history.turns("r2", owner="local") == expected
    async with History.open(database, lease="two") as history:
        assert await history.turns("r2", owner="local") == expected
        assert await history.turns("r1", owner="local") == expected[:2]


async def test_two_children_of_one_parent_do_not_see_each_other(database: str) -> None:
    """Editing and regenerating make a second branch; each walk sees its own."""
    async with History.open(database, lease="one") as history:
        await commit(history, answered("r1", "a1"), "q1")
        await commit(history, answered("r2", "a2", parent="r1"), "q2")
        await commit(history, answered("r3", "a3", parent="r1"), "q2 again")
        texts = [turn.text for turn in await history.turns("r3", owner="local")]
        assert texts == ["q1", "a1", "q2 again", "a3"]


async def test_a_conversation_names_its_newest_response(database: str) -> None:
    """The head moves with each commit, and exists for its owner alone."""
    async with History.open(database, lease="one") as history:
        await commit(history, answered("r1", "a1", conversation="c1"), "q1")
        await commit(history, answered("r2", "a2", parent="r1", conversation="c1"), "q2")
        assert await history.head("c1", owner="local") == (True, "r2")
        assert await history.head("c1", owner="other") == (False, None)
        assert await history.head("c2", owner="local") == (False, None)


async def test_owners_do_not_see_each_other(database: str) -> None:
    """Nothing of one owner can be read by another, from memory or from disk."""
    async with History.open(database, lease="one") as history:
        await commit(history, answered("r1", "a1"), "q1", owner="ada")
        assert await history.turns("r1", owner="bob") == []
        assert await history.get("r1", owner="bob") is None
        assert await history.get("r1", owner="ada") is not None
    async with History.open(database, lease="two") as history:
        assert await history.turns("r1", owner="bob") == []


async def test_what_is_stored_is_what_went_out(database: str) -> None:
    """A response that is read back is the same resource, with its input and its last number."""
    response = answered("r1", "Größe \u2028 \U0001f600 'quoted'", conversation="c1", cut=True)
    async with History.open(database, lease="one") as history:
        await commit(history, response, "q1")
        record = await history.get("r1", owner="local")
    assert record is not None
    assert record.response == response
    assert (record.input, record.last_number) == (question("q1"), 9)


async def test_rows_of_a_dead_process_end_as_lost(database: str) -> None:
    """What was accepted and never ended is `worker_lost` after the next start, and in no prompt."""
    async with History.open(database, lease="one") as history:
        history.accept(answered("r1", ""), question("q1"), owner="local")
    async with History.open(database, lease="two", leases=OneProcess()) as history:
        record = await history.get("r1", owner="local")
        assert record is not None
        assert record.response.ragsocket.reason == "worker_lost"
        assert record.response.status == "incomplete"
        assert record.last_number is not None
        assert record.last_number > 100_000


async def test_a_stale_owner_is_refused(database: str) -> None:
    """A response that another process has ended cannot be written by the one that began it."""
    async with History.open(database, lease="one") as old:
        old.accept(answered("r1", ""), question("q1"), owner="local")
        await commit(old, answered("r0", "a0"), "q0")
        async with History.open(database, lease="two", leases=OneProcess()):
            with pytest.raises(StaleOwner):
                await old.commit(
                    answered("r1", "late"), question("q1"), owner="local", last_number=3,
                    moves_head=False,
                )  # fmt: skip


async def test_a_burst_of_endings_loses_nothing(database: str) -> None:
    """A hundred responses that end at the same moment are all stored."""
    async with History.open(database, lease="one") as history:
        async with anyio.create_task_group() as tasks:
            for n in range(100):
                tasks.start_soon(commit, history, answered(f"r{n}", f"a{n}"), f"q{n}")
    async with beside(database) as connection:
        rows = await connection.execute(text("SELECT count(*) FROM responses WHERE finished"))
        assert rows.scalar() == 100


async def test_a_bad_write_does_not_take_its_group_along(database: str) -> None:
    """When one write of a group fails the others are still stored, and the one is told."""
    async with History.open(database, lease="one") as history:
        await commit(history, answered("r1", "a1"), "q1")
        history.accept(answered("r1", "again"), question("q1"), owner="local")
        await commit(history, answered("r2", "a2"), "q2")
        assert await history.get("r2", owner="local") is not None
    async with History.open(database, lease="two") as history:
        async with beside(database) as connection:
            await connection.execute(text("DROP TABLE responses"))
        with pytest.raises(SQLAlchemyError):
            await commit(history, answered("r3", "a3"), "q3")


async def test_what_was_given_up_is_not_stored(database: str) -> None:
    """A write that waits for the database when its asker gives up is undone; others are not."""
    async with History.open(database, lease="one") as history:
        await commit(history, answered("r1", "a1"), "q1")
        begun = anyio.Event()

        def given_up(connection: Connection) -> None:
            begun.set()
            connection.execute(update(RESPONSES).values(owner="nobody"))

        def waited_for(connection: Connection) -> None:
            connection.execute(update(RESPONSES).values(last_number=5))

        async with anyio.create_task_group() as patient, beside(database, locking=True):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(history.write, given_up)
                patient.start_soon(history.write, waited_for)
                await begun.wait()
                tasks.cancel_scope.cancel()
        record = await history.get("r1", owner="local")
    assert record is not None
    assert record.last_number == 5


async def test_a_file_that_is_no_database_is_refused_by_name(tmp_path: Path) -> None:
    """A corrupt history stops the start with its path, and is left as it is."""
    (tmp_path / "history.sqlite3").write_bytes(b"not a database, " * 100)
    with pytest.raises(ConfigError, match=r"history\.sqlite3"):
        async with History.open(f"sqlite:///{tmp_path / 'history.sqlite3'}", lease="one"):
            pass
