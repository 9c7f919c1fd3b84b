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
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio
from sqlalchemy import (
    Connection,
    String,
    Text,
    bindparam,
    func,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from ragsocket.engine.base import Turn
from ragsocket.errors import ConfigError, StaleOwner
from ragsocket.protocol.ids import new_message_id
from ragsocket.protocol.input_items import INPUT, InputItem
from ragsocket.protocol.resources import (
    Facts,
    Feedback,
    OutputMessage,
    OutputText,
    Response,
)
from ragsocket.responses.asking import turns_of
from ragsocket.responses.database import CONVERSATIONS, METADATA, RESPONSES, connect
from ragsocket.responses.wording import opening, searchable

T = TypeVar("T")

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
                "said",
            )
        }
    )
)
_FIND_RESPONSE = select(RESPONSES.c.id).where(RESPONSES.c.id == bindparam("this"))
_INSERT_CONVERSATION = insert(CONVERSATIONS)
_TOUCH_CONVERSATION = (
    update(CONVERSATIONS)
    .where(CONVERSATIONS.c.id == bindparam("this"), CONVERSATIONS.c.owner == bindparam("whose"))
    .values(
        updated_at=bindparam("now"),
        head_id=func.coalesce(bindparam("new_head", type_=String), CONVERSATIONS.c.head_id),
        opening=func.coalesce(CONVERSATIONS.c.opening, bindparam("words", type_=Text)),
        title=func.coalesce(CONVERSATIONS.c.title, bindparam("folded", type_=Text)),
    )
)


@dataclass(frozen=True, slots=True)
class Record:
    """One response as history knows it.

    Attributes:
        input: the items that were handed in.
        response: the resource; its output ends at the cut.
        last_number: number of the terminal event, None while it runs.
        feedback: what was thought of it.
    """

    owner: str
    parent_id: str | None
    input: tuple[InputItem, ...]
    response: Response
    last_number: int | None
    feedback: Feedback | None = None

    @classmethod
    def of(cls, row: Any) -> Record:
        """Return what a row of the table says."""
        return cls(
            owner=row["owner"],
            parent_id=row["parent_id"],
            input=INPUT.validate_json(row["input"]),
            response=Response.model_validate_json(row["response"]),
            last_number=row["last_number"],
            feedback=row["feedback"] and Feedback.model_validate_json(row["feedback"]),
        )

    def turns(self) -> list[Turn]:
        """Return what this response adds to a prompt: the question, then what was seen."""
        return turns_of([*self.input, *self.response.output])


@dataclass(frozen=True, slots=True)
class Ask:
    """What makes an ask the same as an earlier one of its conversation.

    Attributes:
        event_id: the key that the client gave it.
        fingerprint: of what was asked.
        response_id: the response that answers it.
    """

    event_id: str
    fingerprint: str
    response_id: str


@dataclass(frozen=True, slots=True)
class _Link:
    """What prompts need of a finished response."""

    owner: str
    parent_id: str | None
    turns: tuple[Turn, ...]


class _GivenUp(Exception):
    """Somebody has told a client that a write of this group is not stored, and it is not."""


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
        self._rewritten = 0

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
                        await history.settled()
                    tasks.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(5):
                await engine.dispose()

    def accept(
        self,
        response: Response,
        input: Sequence[InputItem],
        *,
        owner: str,
        ask: Ask | None = None,
    ) -> None:
        """Write the row of an accepted response, soon and beside the stream.

        Its conversation is there from then on.
        """
        row = self._row(response, input, owner=owner, finished=False)
        if ask is not None:
            row |= {"event_id": ask.event_id, "fingerprint": ask.fingerprint}
        touch = _touch(response, input, owner=owner)

        def run(connection: Connection) -> None:
            connection.execute(_INSERT_RESPONSE, row)
            touch(connection)

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
        touch = _touch(response, input, owner=owner, moves_head=True) if moves_head else None

        def run(connection: Connection) -> None:
            changes = {f"new_{column}": value for column, value in row.items()}
            keys = {"this": response.id, "holder": self._lease}
            if connection.execute(_FINISH_RESPONSE, changes | keys).rowcount == 0:
                if connection.execute(_FIND_RESPONSE, {"this": response.id}).first():
                    raise StaleOwner(response.id)
                connection.execute(_INSERT_RESPONSE, row)
            if touch is not None:
                touch(connection)

        await self.write(run)
        record = Record(owner, response.previous_response_id, tuple(input), response, last_number)
        self._remember(response.id, _Link(owner, record.parent_id, tuple(record.turns())))

    async def write(self, run: Callable[[Connection], T]) -> T:
        """Run statements with the next group; return what they gave once that is stored.

        They run a second time if another write of their group fails.

        Raises:
            SQLAlchemyError: the database refused.
        """
        given: list[T] = []

        def keep(connection: Connection) -> None:
            given[:] = [run(connection)]

        write = _Write(keep)
        self._enqueue(write)
        try:
            await write.done.wait()
        finally:
            # Whoever gave up has told the client that this was not stored.
            write.abandoned = True
        if write.error is not None:
            raise write.error
        return given[0]

    async def read(self, run: Callable[[Connection], T]) -> T:
        """Run statements that only read, and return what they gave."""
        async with self._engine.connect() as connection:
            return await connection.run_sync(run)

    async def settled(self) -> None:
        """Wait until everything that was asked for so far is written, or has failed."""
        await self.write(lambda _: None)

    def rewritten(self, response_ids: Sequence[str]) -> None:
        """Read these anew when they are next asked for: their rows say something else now."""
        self._rewritten += 1
        for response_id in response_ids:
            self._cache.pop(response_id, None)

    async def get(self, response_id: str, *, owner: str) -> Record | None:
        """Return a response of this owner, or None."""
        async with self._engine.connect() as connection:
            found = await connection.execute(
                select(RESPONSES).where(
                    RESPONSES.c.id == response_id,
                    RESPONSES.c.owner == owner,
                    RESPONSES.c.forgotten.is_(False),
                )
            )
            row = found.mappings().first()
        return None if row is None else Record.of(row)

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

    async def asks(self, conversation_id: str, *, owner: str) -> list[Ask]:
        """Return the asks of a conversation that were given a key, oldest first."""
        columns = RESPONSES.c
        async with self._engine.connect() as connection:
            found = await connection.execute(
                select(columns.event_id, columns.fingerprint, columns.id)
                .where(
                    columns.owner == owner,
                    columns.conversation_id == conversation_id,
                    columns.event_id.is_not(None),
                )
                .order_by(columns.created_at)
            )
            return [Ask(*row) for row in found]

    async def ended(self, response_id: str, *, owner: str) -> bool:
        """Return whether the end of a response is stored, forgotten since or not."""
        async with self._engine.connect() as connection:
            found = await connection.execute(
                select(RESPONSES.c.finished).where(
                    RESPONSES.c.id == response_id, RESPONSES.c.owner == owner
                )
            )
            return bool(found.scalar())

    async def turns(self, response_id: str | None, *, owner: str) -> list[Turn]:
        """Return the conversation up to and including a response, oldest turn first.

        A response that is not finished ends the walk: prompts never read what is not stored. One
        that was forgotten has no turns, and the walk goes on behind it.
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
        as_of = -1
        while as_of != self._rewritten:
            as_of = self._rewritten
            async with self._engine.connect() as connection:
                rows = (await connection.execute(select(walk))).mappings().all()
        for row in reversed(rows):
            if row["finished"]:
                turns = () if row["forgotten"] else tuple(Record.of(row).turns())
                self._remember(row["id"], _Link(row["owner"], row["parent_id"], turns))

    def _remember(self, response_id: str, link: _Link) -> None:
        self._cache[response_id] = link
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
            "said": searchable([*input, *response.output]),
        }

    def _enqueue(self, write: _Write) -> None:
        self._writes.append(write)
        self._wake.set()

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
                    except _GivenUp:
                        log.warning("a write to the history came too late, and was undone")
                    except Exception as error:
                        log.error("a write to the history failed", exc_info=error)
                        write.error = error
            for write in group:
                write.done.set()

    async def _write(self, group: Sequence[_Write]) -> None:
        def run(connection: Connection) -> None:
            wanted = [write for write in group if not write.abandoned]
            for write in wanted:
                try:
                    write.run(connection)
                except StaleOwner as error:
                    write.error = error
            if any(write.abandoned for write in wanted):
                # While the database was waited for; the others are written without it.
                raise _GivenUp

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


def _touch(
    response: Response, input: Sequence[InputItem], *, owner: str, moves_head: bool = False
) -> Callable[[Connection], None]:
    """Return the write that tells a response's conversation, if it has one, that it goes on."""
    conversation = response.conversation
    words = opening(input) if conversation else None
    now = int(time.time() * 1000)
    head = response.id if moves_head else None

    def run(connection: Connection) -> None:
        if conversation is None:
            return
        title = words and words.casefold()
        keys = {"this": conversation.id, "whose": owner}
        changes = {"now": now, "new_head": head, "words": words, "folded": title}
        if connection.execute(_TOUCH_CONVERSATION, keys | changes).rowcount == 0:
            row = {
                "id": conversation.id,
                "owner": owner,
                "created_at": response.created_at,
                "updated_at": now,
                "head_id": head,
                "opening": words,
                "title": title,
            }
            connection.execute(_INSERT_CONVERSATION, row)

    return run
