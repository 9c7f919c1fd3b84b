"""History: what was asked and what was seen, on disk, and the walk back through it.

A response remembers its parent; a conversation is a name for the newest response of a chain.
So edit and regenerate are a second child of one parent, and nothing is ever rewritten.

Writes go through one task and are committed in groups, in the order in which they were asked
for: the row written at acceptance is always in before the commit of the same response, and a
burst of endings costs one transaction.

Two things are written per response. At acceptance, beside the stream, a row `in_progress`,
which prompts never read. At the end, before the terminal event is sent, the resource as it went
out, the cut applied. Rows that a dead process left over end as `worker_lost` at the next start.

Over 400 lines because what is written and what is read back are one promise.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
from sqlalchemy import Connection, bindparam, insert, literal, select, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from ragsocket.engine.base import Turn
from ragsocket.errors import ConfigError, StaleOwner
from ragsocket.protocol.ids import new_message_id
from ragsocket.protocol.input_items import INPUT, InputItem
from ragsocket.protocol.resources import (
    Facts,
    OutputMessage,
    OutputText,
    Response,
)
from ragsocket.responses.asking import turns_of
from ragsocket.responses.database import CONVERSATIONS, METADATA, RESPONSES, connect

log = logging.getLogger("ragsocket.history")

MAX_CHAIN = 200
"""Responses walked back for one prompt; far more than any prompt budget holds."""

LOST_NUMBER = 999_999_999
"""Number of the terminal event of a response that was lost with its process: how many events were
sent by then is not known, so it is one that comes after all of them."""

CACHED_RESPONSES = 10_000
"""Finished responses kept in memory, so that a live conversation reads no disk."""


# Built once: making a statement costs more than running it.
_INSERT_RESPONSE = insert(RESPONSES)
_FINISH_RESPONSE = (
    update(RESPONSES)
    .where(
        RESPONSES.c.id == bindparam("this"),
        RESPONSES.c.lease == bindparam("holder"),
        RESPONSES.c.finished.is_(False),
    )
    .values(
        {
            column: bindparam(f"new_{column}")
            for column in (
                "finished",
                "conversation_id",
                "parent_id",
                "last_number",
                "input",
                "response",
            )
        }
    )
)
_FIND_RESPONSE = select(RESPONSES.c.id).where(RESPONSES.c.id == bindparam("this"))
_INSERT_CONVERSATION = insert(CONVERSATIONS)
_MOVE_HEAD = (
    update(CONVERSATIONS)
    .where(CONVERSATIONS.c.id == bindparam("this"), CONVERSATIONS.c.owner == bindparam("whose"))
    .values(head_id=bindparam("new_head"))
)


@dataclass(frozen=True, slots=True)
class Record:
    """One response as history knows it.

    Attributes:
        input: the items that were handed in.
        response: the resource; its output ends at the cut.
        last_number: number of the terminal event, None while it runs.
    """

    owner: str
    parent_id: str | None
    input: tuple[InputItem, ...]
    response: Response
    last_number: int | None

    def turns(self) -> list[Turn]:
        """Return what this response adds to a prompt: the question, then what was seen."""
        return turns_of([*self.input, *self.response.output])


@dataclass(frozen=True, slots=True)
class _Link:
    """What prompts need of a finished response."""

    owner: str
    parent_id: str | None
    turns: tuple[Turn, ...]


@dataclass(slots=True)
class _Write:
    """One write that waits for its group."""

    run: Callable[[Connection], None]
    done: anyio.Event = field(default_factory=anyio.Event)
    abandoned: bool = False
    error: Exception | None = None


class History:
    """The narrow interface to the conversations' database.

    Use as `async with History.open(url, lease=…) as history`.
    """

    def __init__(self, engine: AsyncEngine, lease: str) -> None:
        self._engine = engine
        self._lease = lease
        self._writes: deque[_Write] = deque()
        self._wake = anyio.Event()
        self._cache: OrderedDict[str, _Link] = OrderedDict()

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, *, lease: str) -> AsyncIterator[History]:
        """Open the database, make its tables, end what a dead process left over.

        Args:
            url: SQLAlchemy URL with an async driver, `sqlite+aiosqlite:///…`.
            lease: this process's token; a write under another one is refused.

        Raises:
            ConfigError: the database cannot be opened.
        """
        try:
            engine = connect(url)
        except (ArgumentError, ImportError) as error:
            raise ConfigError(
                f"RAGSOCKET_DATABASE_URL cannot be used ({error}): write it as "
                "sqlite+aiosqlite:///FILE, or install the driver that it names."
            ) from error
        history = cls(engine, lease)
        try:
            try:
                async with engine.begin() as connection:
                    await connection.run_sync(METADATA.create_all)
                    await history._end_leftovers(connection)
            except (SQLAlchemyError, OSError) as error:
                place = make_url(url).render_as_string(hide_password=True)
                raise ConfigError(f"the history at {place} cannot be opened: {error}") from error
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(history._write_groups)
                try:
                    yield history
                finally:
                    with anyio.CancelScope(shield=True), anyio.move_on_after(5):
                        await history._drained()
                    tasks.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(5):
                await engine.dispose()

    def accept(self, response: Response, input: Sequence[InputItem], *, owner: str) -> None:
        """Write the row of an accepted response, soon and beside the stream."""
        row = self._row(response, input, owner=owner, finished=False)

        def run(connection: Connection) -> None:
            connection.execute(_INSERT_RESPONSE, row)

        self._enqueue(_Write(run))

    async def commit(
        self,
        response: Response,
        input: Sequence[InputItem],
        *,
        owner: str,
        last_number: int,
        moves_head: bool,
    ) -> None:
        """Store the end of a response: user and assistant items together.

        Args:
            response: the resource as its terminal event carries it.
            input: the items that were handed in.
            owner: whose it is.
            last_number: number of the terminal event.
            moves_head: whether the conversation goes on from here.

        Raises:
            StaleOwner: the response is no longer this process's.
            SQLAlchemyError: the database refused.
        """
        row = self._row(response, input, owner=owner, finished=True, last_number=last_number)
        conversation = response.conversation.id if response.conversation and moves_head else None

        def run(connection: Connection) -> None:
            changes = {f"new_{column}": value for column, value in row.items()}
            keys = {"this": response.id, "holder": self._lease}
            if connection.execute(_FINISH_RESPONSE, changes | keys).rowcount == 0:
                if connection.execute(_FIND_RESPONSE, {"this": response.id}).first():
                    raise StaleOwner(response.id)
                connection.execute(_INSERT_RESPONSE, row)
            if conversation is not None:
                _move_head(connection, conversation, owner, response)

        write = _Write(run)
        self._enqueue(write)
        try:
            await write.done.wait()
        finally:
            # Whoever gave up has told the client that this was not stored.
            write.abandoned = True
        if write.error is not None:
            raise write.error
        self._remember(
            Record(owner, response.previous_response_id, tuple(input), response, last_number)
        )

    async def get(self, response_id: str, *, owner: str) -> Record | None:
        """Return a response of this owner, or None."""
        async with self._engine.connect() as connection:
            found = await connection.execute(
                select(RESPONSES).where(RESPONSES.c.id == response_id, RESPONSES.c.owner == owner)
            )
            row = found.mappings().first()
        return None if row is None else _record(row)

    async def head(self, conversation_id: str, *, owner: str) -> tuple[bool, str | None]:
        """Return whether a conversation of this owner exists, and its newest response's id."""
        async with self._engine.connect() as connection:
            found = await connection.execute(
                select(CONVERSATIONS.c.head_id).where(
                    CONVERSATIONS.c.id == conversation_id, CONVERSATIONS.c.owner == owner
                )
            )
            row = found.first()
        return (False, None) if row is None else (True, row.head_id)

    async def turns(self, response_id: str | None, *, owner: str) -> list[Turn]:
        """Return the conversation up to and including a response, oldest turn first.

        A response that is not finished ends the walk: prompts never read what is not stored.
        """
        chain: list[_Link] = []
        while response_id is not None and len(chain) < MAX_CHAIN:
            link = self._cache.get(response_id)
            if link is None:
                await self._load_chain(response_id, owner, MAX_CHAIN - len(chain))
                link = self._cache.get(response_id)
            if link is None or link.owner != owner:
                break
            self._cache.move_to_end(response_id)
            chain.append(link)
            response_id = link.parent_id
        return [turn for link in reversed(chain) for turn in link.turns]

    async def _load_chain(self, response_id: str, owner: str, depth: int) -> None:
        walk = (
            select(RESPONSES, literal(0).label("depth"))
            .where(RESPONSES.c.id == response_id, RESPONSES.c.owner == owner)
            .cte("walk", recursive=True)
        )
        walk = walk.union_all(
            select(RESPONSES, walk.c.depth + 1).where(
                RESPONSES.c.id == walk.c.parent_id,
                RESPONSES.c.owner == owner,
                walk.c.depth < depth - 1,
            )
        )
        async with self._engine.connect() as connection:
            rows = (await connection.execute(select(walk))).mappings().all()
        for row in reversed(rows):
            if row["finished"]:
                self._remember(_record(row))

    def _remember(self, record: Record) -> None:
        turns = tuple(record.turns())
        self._cache[record.response.id] = _Link(record.owner, record.parent_id, turns)
        while len(self._cache) > CACHED_RESPONSES:
            self._cache.popitem(last=False)

    def _row(
        self,
        response: Response,
        input: Sequence[InputItem],
        *,
        owner: str,
        finished: bool,
        last_number: int | None = None,
    ) -> dict[str, Any]:
        return {
            "id": response.id,
            "owner": owner,
            "conversation_id": response.conversation.id if response.conversation else None,
            "parent_id": response.previous_response_id,
            "lease": self._lease,
            "finished": finished,
            "created_at": response.created_at,
            "last_number": last_number,
            "input": INPUT.dump_json(tuple(input)).decode(),
            "response": response.model_dump_json(),
        }

    def _enqueue(self, write: _Write) -> None:
        self._writes.append(write)
        self._wake.set()

    async def _drained(self) -> None:
        """Wait until everything that was asked for so far is written."""
        last = _Write(lambda _: None)
        self._enqueue(last)
        await last.done.wait()

    async def _write_groups(self) -> None:
        while True:
            await self._wake.wait()
            self._wake = anyio.Event()
            group = list(self._writes)
            self._writes.clear()
            try:
                await self._write(group)
            except Exception:
                # One bad write must not take its group along, nor this task; alone, each meets
                # its own fate, and whoever waits for it is told.
                for write in group:
                    try:
                        await self._write([write])
                    except Exception as error:
                        log.error("a write to the history failed", exc_info=error)
                        write.error = error
            for write in group:
                write.done.set()

    async def _write(self, group: Sequence[_Write]) -> None:
        def run(connection: Connection) -> None:
            for write in group:
                if write.abandoned:
                    continue
                try:
                    write.run(connection)
                except StaleOwner as error:
                    write.error = error

        async with self._engine.begin() as connection:
            await connection.run_sync(run)

    async def _end_leftovers(self, connection: AsyncConnection) -> None:
        rows = await connection.execute(select(RESPONSES).where(RESPONSES.c.finished.is_(False)))
        for row in rows.mappings().all():
            response = Response.model_validate_json(row["response"])
            lost = response.model_copy(
                update={
                    "status": "incomplete",
                    "output": (
                        OutputMessage(
                            id=new_message_id(), status="incomplete", content=(OutputText(text=""),)
                        ),
                    ),
                    "ragsocket": Facts(reason="worker_lost", resumable=False),
                }
            )
            log.warning("response %s was lost with its process", response.id)
            await connection.execute(
                update(RESPONSES)
                .where(RESPONSES.c.id == row["id"])
                .values(
                    finished=True,
                    lease=self._lease,
                    last_number=LOST_NUMBER,
                    response=lost.model_dump_json(),
                )
            )


def _move_head(
    connection: Connection, conversation_id: str, owner: str, response: Response
) -> None:
    keys = {"this": conversation_id, "whose": owner}
    if connection.execute(_MOVE_HEAD, {**keys, "new_head": response.id}).rowcount == 0:
        row = {
            "id": conversation_id,
            "owner": owner,
            "created_at": response.created_at,
            "head_id": response.id,
        }
        connection.execute(_INSERT_CONVERSATION, row)


def _record(row: Any) -> Record:
    return Record(
        owner=row["owner"],
        parent_id=row["parent_id"],
        input=INPUT.validate_json(row["input"]),
        response=Response.model_validate_json(row["response"]),
        last_number=row["last_number"],
    )
