"""Conversations as they are kept: begun, listed, searched, read, added to, renamed, deleted.

The items of a conversation are those of the walk back from its head. What an edit or a new
answer left behind is on no walk any more, and is read as the response that it is.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import anyio
from sqlalchemy import Connection, asc, delete, desc, exists, insert, or_, select, update

from ragsocket.errors import RequestError
from ragsocket.protocol.conversations import Conversation, ConversationFacts
from ragsocket.protocol.errors import ErrorCode
from ragsocket.protocol.ids import new_conversation_id, new_response_id
from ragsocket.protocol.input_items import InputItem
from ragsocket.protocol.listing import Item, Part, as_listed, not_listed
from ragsocket.protocol.resources import ConversationRef, Facts, Response
from ragsocket.responses.asking import with_new_ids
from ragsocket.responses.database import CONVERSATIONS, RESPONSES
from ragsocket.responses.history import Record, parse
from ragsocket.responses.kept import blank, drop_item, ended
from ragsocket.responses.lineage import Lineage, no_conversation
from ragsocket.responses.wording import title_of

MOST_WORDS = 10
"""Words of one search; each costs a look into everything that was said."""

READ_AT_A_TIME = 50
"""Responses whose items are in memory at once while a long conversation is read."""


class Conversations:
    """The conversations of one owner, as they are kept."""

    def __init__(self, lineage: Lineage, owner: str, *, model: str) -> None:
        """Take `model` for the one of what is added, which no model said."""
        self._lineage = lineage
        self._owner = owner
        self._model = model

    async def create(
        self, metadata: Mapping[str, str] | None, items: Sequence[InputItem]
    ) -> Conversation:
        """Begin a conversation, with what was said before it if anything was."""
        id = new_conversation_id()
        row = {
            "id": id,
            "owner": self._owner,
            "created_at": int(time.time()),
            "updated_at": int(time.time() * 1000),
            **_named(metadata or {}, None),
        }
        async with self._lineage.reaching_history() as history:
            await history.write(lambda connection: connection.execute(_INSERT, row) and None)
        if items:
            await self.add(id, items)
        return await self.get(id)

    async def search(self, part: Part, q: str | None = None) -> tuple[list[Conversation], bool]:
        """Return a part of the conversations, and whether there are more.

        Args:
            part: which, by the time of the last question or answer.
            q: words of which each stands in the title, or in what was said in one response.

        Raises:
            RequestError: `part.after` is no conversation, or `q` has too many words.
        """
        words = (q or "").casefold().split()
        if len(words) > MOST_WORDS:
            raise RequestError(
                ErrorCode.INVALID_EVENT,
                f"q: it may have {MOST_WORDS} words; leave some out.",
                param="q",
            )

        def run(connection: Connection) -> Sequence[Any]:
            c = CONVERSATIONS.c
            wanted = select(CONVERSATIONS).where(c.owner == self._owner)
            for word in words:
                said = exists().where(
                    RESPONSES.c.owner == self._owner,
                    RESPONSES.c.conversation_id == c.id,
                    RESPONSES.c.said.contains(word, autoescape=True),
                )
                wanted = wanted.where(or_(c.title.contains(word, autoescape=True), said))
            if part.after is not None:
                last = connection.execute(self._row(part.after)).first()
                if last is None:
                    raise not_listed("after", part.after)
                older, same = c.updated_at < last.updated_at, c.updated_at == last.updated_at
                newer = c.updated_at > last.updated_at
                wanted = wanted.where(
                    older | (same & (c.id < last.id))
                    if part.descending
                    else newer | (same & (c.id > last.id))
                )
            order = desc if part.descending else asc
            wanted = wanted.order_by(order(c.updated_at), order(c.id)).limit(part.limit + 1)
            return connection.execute(wanted).mappings().all()

        async with self._lineage.reaching_history() as history:
            await history.settled()
            rows = await history.read(run)
        return [self._resource(row) for row in rows[: part.limit]], len(rows) > part.limit

    async def get(self, conversation_id: str) -> Conversation:
        """Return a conversation.

        Raises:
            RequestError: there is none of that id.
        """
        return self._resource(await self._found(conversation_id))

    async def update(
        self, conversation_id: str, metadata: Mapping[str, str] | None
    ) -> Conversation:
        """Put other metadata in place of what was kept; a `title` among it is the title.

        Raises:
            RequestError: there is no such conversation.
        """
        row = await self._found(conversation_id)

        def run(connection: Connection) -> None:
            here = (CONVERSATIONS.c.id == conversation_id, CONVERSATIONS.c.owner == self._owner)
            words = connection.execute(select(CONVERSATIONS.c.opening).where(*here)).scalar()
            changes = _named(metadata or {}, words)
            connection.execute(update(CONVERSATIONS).where(*here).values(changes))

        async with self._lineage.reaching_history() as history:
            await history.write(run)
        return await self.get(row["id"])

    async def delete(self, conversation_id: str) -> None:
        """Stop what runs in a conversation, and forget it with all its responses.

        Raises:
            RequestError: there is no such conversation.
        """
        await self._found(conversation_id)
        # Held until the end: whoever asks meanwhile finds this one, and is refused.
        live = self._lineage.conversation(conversation_id, self._owner)
        live.deleted = True
        try:
            await ended(live.unfinished)

            def run(connection: Connection) -> list[str]:
                its = (RESPONSES.c.owner == self._owner) & (
                    RESPONSES.c.conversation_id == conversation_id
                )
                ids = [id for (id,) in connection.execute(select(RESPONSES.c.id).where(its))]
                blank(connection, its)
                connection.execute(
                    delete(CONVERSATIONS).where(
                        CONVERSATIONS.c.id == conversation_id, CONVERSATIONS.c.owner == self._owner
                    )
                )
                return ids

            async with self._lineage.reaching_history() as history:
                ids = await history.write(run)
                history.rewritten(ids)
        except BaseException:
            # Whether it is still there is looked up by whoever asks next.
            live.deleted = live.known = False
            raise
        self._lineage.forget(ids)

    async def items(
        self, conversation_id: str, part: Part, *, with_results: bool = False
    ) -> tuple[list[Item], bool]:
        """Return a part of the items, and whether there are more.

        Raises:
            RequestError: there is no such conversation, or no item `part.after` in it.
        """
        walk = await self._walk(conversation_id)
        if not part.descending:
            walk.reverse()
        found: list[Item] = []
        passed = part.after is None
        for start in range(0, len(walk), READ_AT_A_TIME):
            for record in await self._records(walk[start : start + READ_AT_A_TIME]):
                items = _items(record, with_results=with_results)
                if part.descending:
                    items.reverse()
                ids = [item.id for item in items]
                if not passed and part.after in ids:
                    passed = True
                    items = items[ids.index(part.after) + 1 :]
                if passed:
                    found += items
            if len(found) > part.limit:
                break
        if not passed:
            raise not_listed("after", part.after)
        return found[: part.limit], len(found) > part.limit

    async def item(self, conversation_id: str, item_id: str, *, with_results: bool = False) -> Item:
        """Return one item.

        Raises:
            RequestError: there is no such conversation, or no such item in it.
        """
        record = await self._record_with(conversation_id, item_id)
        items = _items(record, with_results=with_results)
        return next(item for item in items if item.id == item_id)

    async def add(
        self, conversation_id: str, items: Sequence[InputItem], *, with_results: bool = False
    ) -> list[Item]:
        """Add what was said to the end of a conversation, once no response runs in it.

        It is a response that nobody was asked for: completed, and without output.

        Raises:
            RequestError: there is no such conversation.
        """
        live = self._lineage.conversation(conversation_id, self._owner)
        await self._lineage.find(live)
        new = with_new_ids(items)
        turn = _Turn()
        live.turnstile.enter(turn)
        try:
            while not live.turnstile.open_for(turn):
                await turn.wait()
            await self._lineage.find(live)
            now = int(time.time())
            response = Response(
                id=new_response_id(),
                created_at=now,
                completed_at=now,
                status="completed",
                model=self._model,
                previous_response_id=live.head,
                conversation=ConversationRef(id=conversation_id),
                ragsocket=Facts(reason="completed"),
            )
            async with self._lineage.reaching_history() as history:
                await history.commit(
                    response, new, owner=self._owner, last_number=0, moves_head=True
                )
            live.head = response.id
        finally:
            live.turnstile.leave(turn)
        return as_listed(new, with_results=with_results)

    async def remove(self, conversation_id: str, item_id: str) -> Conversation:
        """Forget one item, in the conversation and in the response that it belongs to.

        Raises:
            RequestError: there is no such conversation or item, or the item belongs to a
                response that is not of this conversation.
        """
        record = await self._record_with(conversation_id, item_id)
        response = record.response
        if response.conversation is None or response.conversation.id != conversation_id:
            raise RequestError(
                ErrorCode.ITEM_ELSEWHERE,
                f"{item_id[:64]!r} belongs to {response.id}, which this conversation goes on "
                "from and does not hold; delete that response.",
                param="item_id",
                status=409,
            )
        async with self._lineage.reaching_history() as history:
            gone = await history.write(
                lambda connection: drop_item(connection, response.id, self._owner, item_id)
            )
            history.rewritten([response.id])
        if not gone:
            raise _no_item(item_id)
        self._lineage.forget([response.id])
        return await self.get(conversation_id)

    def _row(self, conversation_id: str) -> Any:
        c = CONVERSATIONS.c
        return select(CONVERSATIONS).where(c.id == conversation_id, c.owner == self._owner)

    async def _found(self, conversation_id: str) -> Mapping[Any, Any]:
        async with self._lineage.reaching_history() as history:
            await history.settled()
            row = await history.read(
                lambda connection: connection.execute(self._row(conversation_id)).mappings().first()
            )
        if row is None:
            raise no_conversation(conversation_id)
        return row

    def _resource(self, row: Mapping[Any, Any]) -> Conversation:
        metadata = json.loads(row["metadata"])
        live = self._lineage.conversation(row["id"], self._owner)
        return Conversation(
            id=row["id"],
            created_at=row["created_at"],
            metadata=metadata,
            ragsocket=ConversationFacts(
                title=title_of(metadata, row["opening"]),
                updated_at=row["updated_at"] // 1000,
                head=row["head_id"],
                active_response_ids=tuple(run.id for run in live.unfinished),
            ),
        )

    async def _walk(self, conversation_id: str) -> list[str]:
        """Return the ids of its responses, newest first, without those that were forgotten."""
        head = (await self._found(conversation_id))["head_id"]
        c = RESPONSES.c
        mine = (c.owner == self._owner) & c.finished
        walk = (
            select(c.id, c.parent_id, c.forgotten)
            .where(c.id == head, mine)
            .cte("walk", recursive=True)
        )
        walk = walk.union_all(
            select(c.id, c.parent_id, c.forgotten).where(c.id == walk.c.parent_id, mine)
        )

        def run(connection: Connection) -> list[str]:
            rows = connection.execute(select(walk)).all()
            parents = {row.id: row.parent_id for row in rows}
            forgotten = {row.id for row in rows if row.forgotten}
            # A database may give the rows of a walk in any order.
            ids, id = [], head
            while id in parents:
                ids.append(id)
                id = parents[id]
            return [id for id in ids if id not in forgotten]

        async with self._lineage.reaching_history() as history:
            return await history.read(run)

    async def _records(self, response_ids: Sequence[str]) -> list[Record]:
        """Return records in this order; one that was forgotten by now is left out."""
        c = RESPONSES.c
        wanted = select(RESPONSES).where(c.id.in_(response_ids), c.forgotten.is_(False))
        async with self._lineage.reaching_history() as history:
            rows = await history.read(
                lambda connection: connection.execute(wanted).mappings().all()
            )
        by_id = {row["id"]: row for row in rows}
        ordered = [by_id[id] for id in response_ids if id in by_id]
        return await parse(ordered)

    async def _record_with(self, conversation_id: str, item_id: str) -> Record:
        walk = await self._walk(conversation_id)
        for start in range(0, len(walk), READ_AT_A_TIME):
            for record in await self._records(walk[start : start + READ_AT_A_TIME]):
                if any(item.id == item_id for item in (*record.input, *record.response.output)):
                    return record
        raise _no_item(item_id)


class _Turn:
    """A place in a conversation's queue."""

    def __init__(self) -> None:
        self._forward = anyio.Event()

    def come_forward(self) -> None:
        """Let `wait` return."""
        self._forward.set()

    async def wait(self) -> None:
        """Wait until somebody before has left."""
        await self._forward.wait()
        self._forward = anyio.Event()


_INSERT = insert(CONVERSATIONS)


def _items(record: Record, *, with_results: bool) -> list[Item]:
    return as_listed((*record.input, *record.response.output), with_results=with_results)


def _named(metadata: Mapping[str, str], words: str | None) -> dict[str, str | None]:
    """Return the columns that follow from metadata and first words."""
    title = title_of(metadata, words)
    return {
        "metadata": json.dumps(dict(metadata), ensure_ascii=False),
        "title": title and title.casefold(),
    }


def _no_item(item_id: str) -> RequestError:
    return RequestError(
        ErrorCode.ITEM_NOT_FOUND,
        f"there is no item {item_id[:64]!r} in this conversation.",
        param="item_id",
        status=404,
    )
