"""History: what was asked and what was seen, on disk, and the walk back through it.

A response remembers its parent; a conversation is a name for the newest response of a chain.
So edit and regenerate are a second child of one parent, and nothing is ever rewritten.

Two things are written per response. At acceptance, beside the stream, a row `in_progress`,
which prompts never read. At the end, before the terminal event is sent, the resource as it went
out, the cut applied. Rows of a process that is gone end as `worker_lost`: at the next start, and
on Postgres, which several servers may share, soon after it is gone (`leases`).

Over 400 lines because what is written and what is read back are one promise.
"""

from __future__ import annotations

import json
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from sqlalchemy import (
    Connection,
    Engine,
    RowMapping,
    bindparam,
    func,
    insert,
    literal,
    select,
    text,
    update,
)
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

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
from ragsocket.responses import schema
from ragsocket.responses.asking import turns_of
from ragsocket.responses.database import (
    CONVERSATIONS,
    RESPONSES,
    Away,
    Name,
    Plain,
    connect,
    parsed,
    reaching,
    shown,
    writer,
)
from ragsocket.responses.leases import AdvisoryLocks, Leases, Left, OneProcess
from ragsocket.responses.wording import opening, searchable, title_of
from ragsocket.responses.write_queue import TRY_AGAIN_S, WriteQueue

T = TypeVar("T")

log = logging.getLogger("ragsocket.history")

MAX_CHAIN = 200
"""Responses walked back for one prompt; far more than any prompt budget holds."""

LOST_NUMBER = 999_999_999
"""Number of the terminal event of a response that was lost with its process: how many events were
sent by then is not known, so it is one that comes after all of them."""

CACHED_RESPONSES = 10_000
"""Finished responses kept in memory, so that a live conversation reads no disk."""

RESTART_S = 3.0
"""How long a read waits for a database that is away: about as long as Postgres restarts."""

READY_WITHIN_S = 2.0
"""How long a trial write may take while the database counts as there."""

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
_FIND_RESPONSE = select(RESPONSES.c.lease, RESPONSES.c.last_number).where(
    RESPONSES.c.id == bindparam("this")
)
_INSERT_CONVERSATION = insert(CONVERSATIONS)
_TOUCH_CONVERSATION = (
    update(CONVERSATIONS)
    .where(CONVERSATIONS.c.id == bindparam("this"), CONVERSATIONS.c.owner == bindparam("whose"))
    .values(
        updated_at=bindparam("now"),
        head_id=func.coalesce(bindparam("new_head", type_=Name(64)), CONVERSATIONS.c.head_id),
        opening=func.coalesce(CONVERSATIONS.c.opening, bindparam("words", type_=Plain)),
        title=func.coalesce(CONVERSATIONS.c.title, bindparam("folded", type_=Plain)),
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


class History:
    """The narrow interface to the conversations' database.

    Use as `async with History.open(url, lease=…) as history`.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        writer: Engine | None,
        lease: str,
        leases: Leases,
        *,
        timeout_s: float,
    ) -> None:
        self._engine = engine
        self._reading = engine
        if engine.dialect.name == "postgresql":
            # One statement is a transaction of its own, without two more round trips.
            self._reading = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._lease = lease
        self._leases = leases
        self._timeout_s = timeout_s
        self._queue = WriteQueue(engine, writer, timeout_s=timeout_s)
        self._cache: OrderedDict[str, _Link] = OrderedDict()
        self._rewritten = 0

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        url: str,
        *,
        lease: str,
        leases: Leases | None = None,
        timeout_s: float = 10,
        pool_size: int = 5,
        patience_s: float = 0,
    ) -> AsyncIterator[History]:
        """Open the database, bring its tables up to date, end what a dead process left over.

        Args:
            url: where it is: `sqlite:///FILE`, or `postgresql://…` with what libpq knows.
            lease: this process's token; a write under another one is refused.
            leases: who knows which processes live; None asks the database itself.
            timeout_s: seconds that a database may be away, or silent, before a write fails.
            pool_size: connections to Postgres, beside two for the leases.
            patience_s: seconds to wait for a Postgres that cannot be reached yet.

        Raises:
            ConfigError: the database cannot be used.
        """
        place = parsed(url)
        engines = [connect(place, timeout_s=timeout_s, pool_size=pool_size)]
        writing = writer(place)
        locks: AdvisoryLocks | None = None
        if leases is None and engines[0].dialect.name == "postgresql":
            # Of their own, so that a burst of reads never comes between.
            engines.append(connect(place, timeout_s=timeout_s, pool_size=2))
            leases = locks = AdvisoryLocks(engines[1], lease, timeout_s=timeout_s)
        history = cls(engines[0], writing, lease, leases or OneProcess(), timeout_s=timeout_s)
        try:
            try:
                await _brought_up(place, patience_s)
                # A history that can store nothing is none.
                with reaching():
                    async with engines[0].begin() as connection:
                        await connection.run_sync(_try)
                if locks is not None:
                    await locks.take()
                await history._end_lost()
            except (SQLAlchemyError, OSError) as error:
                why = getattr(error, "orig", None) or error
                raise ConfigError(
                    f"the history at {shown(place)} cannot be opened: {why}"
                ) from error
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(history._queue.work)
                tasks.start_soon(history._look_for_lost)
                if locks is not None:
                    tasks.start_soon(locks.keep)
                try:
                    yield history
                finally:
                    with anyio.CancelScope(shield=True), anyio.move_on_after(5):
                        # A database that is away was told to whoever waited for it.
                        with suppress(SQLAlchemyError):
                            await history.settled()
                    tasks.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(5):
                if locks is not None:
                    await locks.release()
                for engine in engines:
                    await engine.dispose()
                if writing is not None:
                    writing.dispose()

    async def readiness(self) -> dict[str, str]:
        """Return what is missing to store answers, by a write that changes nothing."""
        try:
            with anyio.fail_after(READY_WITHIN_S):
                await self.write(_try)
        except (SQLAlchemyError, TimeoutError):
            return {"history": "answers cannot be stored at the moment"}
        return {}

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

        self._queue.add(run)

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
                there = connection.execute(_FIND_RESPONSE, {"this": response.id}).first()
                if there == (self._lease, last_number):
                    # It was stored the first time, and the database went away before it said so.
                    return
                if there:
                    raise StaleOwner(response.id)
                connection.execute(_INSERT_RESPONSE, row)
            if touch is not None:
                touch(connection)

        try:
            await self.write(run)
        except (Away, anyio.get_cancelled_exc_class()):
            # What its client is told now holds, even if the database had said neither yes nor no.
            self._queue.add(self._undo(response, last_number), whenever=True)
            raise
        record = Record(owner, response.previous_response_id, tuple(input), response, last_number)
        self._remember(response.id, _Link(owner, record.parent_id, tuple(record.turns())))

    async def write(self, run: Callable[[Connection], T]) -> T:
        """Run statements with the next group; return what they gave once that is stored.

        They run a second time if another write of their group fails, or if the database went away
        before it said that they are stored. They run on the event loop, so they parse little.

        Raises:
            SQLAlchemyError: the database refused, or was away for too long.
        """
        return await self._queue.write(run)

    async def read(self, run: Callable[[Connection], T]) -> T:
        """Run statements that only read, and return what they gave.

        They run on the event loop: what takes long to parse goes to a thread afterwards.

        A database that is away is asked again for a moment: it may be restarting.

        Raises:
            SQLAlchemyError: the database refused, or is away.
        """
        until = time.monotonic() + RESTART_S
        pause_s = 0.0
        while True:
            try:
                with reaching():
                    async with self._reading.connect() as connection:
                        return await connection.run_sync(run)
            except Away:
                if time.monotonic() >= until:
                    raise
            await anyio.sleep(pause_s)
            pause_s = TRY_AGAIN_S

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
        c = RESPONSES.c
        wanted = select(RESPONSES).where(
            c.id == response_id, c.owner == owner, c.forgotten.is_(False)
        )
        row = await self.read(lambda connection: connection.execute(wanted).mappings().first())
        return None if row is None else (await parse([row]))[0]

    async def head(self, conversation_id: str, *, owner: str) -> tuple[bool, str | None]:
        """Return whether a conversation of this owner exists, and its newest response's id."""
        c = CONVERSATIONS.c
        wanted = select(c.head_id).where(c.id == conversation_id, c.owner == owner)
        row = await self.read(lambda connection: connection.execute(wanted).first())
        return (False, None) if row is None else (True, row.head_id)

    async def asks(self, conversation_id: str, *, owner: str) -> list[Ask]:
        """Return the asks of a conversation that were given a key, oldest first."""
        c = RESPONSES.c
        wanted = (
            select(c.event_id, c.fingerprint, c.id)
            .where(c.owner == owner, c.conversation_id == conversation_id, c.event_id.is_not(None))
            .order_by(c.created_at, c.id)
        )
        rows = await self.read(lambda connection: connection.execute(wanted).all())
        return [Ask(*row) for row in rows]

    async def ended(self, response_id: str, *, owner: str) -> bool:
        """Return whether the end of a response is stored, forgotten since or not."""
        c = RESPONSES.c
        wanted = select(c.finished).where(c.id == response_id, c.owner == owner)
        return bool(await self.read(lambda connection: connection.scalar(wanted)))

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
            rows = await self.read(
                lambda connection: connection.execute(select(walk)).mappings().all()
            )
            links = await anyio.to_thread.run_sync(_links, rows)
        # Oldest first, so that the newest are the last to be dropped.
        for row in sorted(rows, key=lambda row: -int(row["depth"])):
            if row["id"] in links:
                self._remember(row["id"], links[row["id"]])

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

    def _undo(self, response: Response, last_number: int) -> Callable[[Connection], None]:
        """Return the write that makes an end unwritten, if it was written after all."""
        c, conversation = RESPONSES.c, response.conversation
        stored = (c.id == response.id) & (c.lease == self._lease) & (c.last_number == last_number)

        def run(connection: Connection) -> None:
            unwritten = update(RESPONSES).where(stored).values(finished=False, last_number=None)
            if connection.execute(unwritten).rowcount and conversation is not None:
                connection.execute(
                    update(CONVERSATIONS)
                    .where(
                        CONVERSATIONS.c.id == conversation.id,
                        CONVERSATIONS.c.head_id == response.id,
                    )
                    .values(head_id=response.previous_response_id)
                )

        return run

    async def _look_for_lost(self) -> None:
        """End what lost processes leave, for as long as there may be any."""
        while (pause_s := self._leases.look_again_s) is not None:
            await anyio.sleep(pause_s)
            try:
                await self._end_lost()
            except Exception as error:
                # Whatever it is, the next look may see no more of it, and answers go on.
                log.warning("what other processes left over cannot be looked for: %s", error)

    async def _end_lost(self) -> None:
        """End what is unfinished of processes that are gone, each response by one process alone.

        Raises:
            SQLAlchemyError: the database refused, or is away.
        """
        c = RESPONSES.c
        running = select(c.lease).where(c.finished.is_(False)).distinct()
        with reaching(), anyio.fail_after(self._timeout_s * 2):
            held = await self.read(lambda connection: connection.execute(running).scalars().all())
            gone = await self._leases.gone(frozenset(held))
            if not gone:
                return
            left = select(RESPONSES).where(c.finished.is_(False), c.lease.in_(gone))
            rows = await self.read(lambda connection: connection.execute(left).mappings().all())
        for record, lease in zip(await parse(rows), [row["lease"] for row in rows], strict=True):
            await self._end_one(record.response, lease)

    async def _end_one(self, running: Response, lease: str) -> None:
        left = await self._leases.left(running.id)
        if left is None:
            id = new_message_id()
            nothing = OutputMessage(id=id, status="incomplete", content=(OutputText(text=""),))
            left = Left((nothing,), LOST_NUMBER)
        facts = Facts(reason="worker_lost", resumable=False)
        lost = running.model_copy(
            update={"status": "incomplete", "output": left.output, "ragsocket": facts}
        )
        c = RESPONSES.c
        ending = (
            update(RESPONSES)
            .where(c.id == lost.id, c.lease == lease, c.finished.is_(False))
            .values(
                finished=True,
                lease=self._lease,
                last_number=left.last_number,
                response=lost.model_dump_json(),
            )
        )
        with reaching(), anyio.fail_after(self._timeout_s):
            async with self._engine.begin() as connection:
                won = (await connection.execute(ending)).rowcount
        if won:
            log.warning("response %s was lost with its process", lost.id)
            await self._leases.ended(lost, left.last_number)


async def parse(rows: Sequence[RowMapping]) -> list[Record]:
    """Return what rows say, parsed in a thread: long answers take more than a moment."""
    return await anyio.to_thread.run_sync(lambda: [Record.of(row) for row in rows])


def _links(rows: Sequence[RowMapping]) -> dict[str, _Link]:
    return {
        row["id"]: _Link(
            row["owner"],
            row["parent_id"],
            () if row["forgotten"] else tuple(Record.of(row).turns()),
        )
        for row in rows
        if row["finished"]
    }


async def _brought_up(url: URL, patience_s: float) -> None:
    """Bring the tables up to date, as soon as the database can be reached.

    Raises:
        ConfigError: they are newer, or not ours.
        SQLAlchemyError: the database refused, or cannot be reached.
    """
    until = time.monotonic() + patience_s
    told = False
    while True:
        try:
            with reaching():
                return await schema.bring_up(url)
        except Away as error:
            if time.monotonic() >= until:
                raise
            if not told:
                log.warning("waiting for the history's database: %s", error)
                told = True
        await anyio.sleep(0.5)


def _try(connection: Connection) -> None:
    """Write as an answer would be, and change nothing."""
    nothing = update(CONVERSATIONS).where(CONVERSATIONS.c.id == "")
    connection.execute(nothing.values(head_id=None))
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_current_xact_id()"))
    else:
        connection.execute(text("PRAGMA user_version = 0"))


def _touch(
    response: Response, input: Sequence[InputItem], *, owner: str, moves_head: bool = False
) -> Callable[[Connection], None]:
    """Return the write that tells a response's conversation, if it has one, that it goes on."""
    conversation = response.conversation
    words = opening(input) if conversation else None
    now = int(time.time() * 1000)
    head = response.id if moves_head else None
    # What is asked from the start gives a conversation its title, unless somebody named it.
    opens = moves_head and response.previous_response_id is None and words

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
        elif opens:
            here = (CONVERSATIONS.c.id == conversation.id, CONVERSATIONS.c.owner == owner)
            metadata = connection.execute(select(CONVERSATIONS.c.metadata).where(*here)).scalar()
            named = title_of(json.loads(metadata or "{}"), words) or ""
            changes = {"opening": words, "title": named.casefold()}
            connection.execute(update(CONVERSATIONS).where(*here).values(changes))

    return run
