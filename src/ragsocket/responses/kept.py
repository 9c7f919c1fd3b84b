"""What is kept of responses after they were asked: read, rated, and forgotten.

To forget is to blank: input, answer and everything told about them go from the store, and a row
without words stays, so that the responses which came after go on from what came before.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from sqlalchemy import ColumnElement, Connection, select, update

from ragsocket.errors import RequestError
from ragsocket.protocol.errors import ErrorCode
from ragsocket.protocol.input_items import INPUT, InputItem
from ragsocket.protocol.resources import Feedback, Response
from ragsocket.responses.database import CONVERSATIONS, RESPONSES
from ragsocket.responses.history import Record
from ragsocket.responses.lineage import Lineage, no_response
from ragsocket.responses.running import Running
from ragsocket.responses.wording import opening, searchable, title_of


class Kept:
    """The responses of one owner, as they are kept."""

    def __init__(self, lineage: Lineage, owner: str) -> None:
        self._lineage = lineage
        self._owner = owner

    async def input(self, response_id: str) -> Sequence[InputItem]:
        """Return the items that were handed in, oldest first.

        Raises:
            RequestError: there is no such response.
        """
        run = self._lineage.get(response_id, owner=self._owner)
        if run is not None:
            return run.input
        return (await self._lineage.record(response_id, owner=self._owner)).input

    async def rate(self, response_id: str, feedback: Feedback) -> Response:
        """Keep what was thought of a response, in place of what was thought before.

        Raises:
            RequestError: there is no such response, or it is not stored.
        """
        given = feedback if feedback.rating or feedback.text else None

        def run(connection: Connection) -> int:
            changes = {"feedback": given and given.model_dump_json()}
            return connection.execute(
                update(RESPONSES).where(_stands(response_id, self._owner)).values(changes)
            ).rowcount

        async with self._lineage.reaching_history() as history:
            rated = await history.write(run)
        running = self._lineage.get(response_id, owner=self._owner)
        if not rated and running is not None:
            raise RequestError(
                ErrorCode.RESPONSE_NOT_FOUND,
                f"{response_id} is not stored, so nothing can be kept with it.",
                param="response_id",
                status=404,
            )
        if not rated:
            raise no_response(response_id)
        if running is None:
            return await self._lineage.stored(response_id, owner=self._owner)
        running.feedback = given
        return running.present()

    async def forget(self, response_id: str) -> None:
        """Forget a response, which is stopped first; its conversation goes on without it.

        Raises:
            RequestError: there is no such response.
        """
        running = self._lineage.get(response_id, owner=self._owner)
        if running is not None:
            await ended([running])
            if running.rejection is not None:
                raise running.rejection

        def run(connection: Connection) -> tuple[str | None, str | None] | None:
            found = connection.execute(
                select(RESPONSES).where(_stands(response_id, self._owner))
            ).mappings()
            if (row := found.first()) is None:
                return None
            blank(connection, RESPONSES.c.id == response_id)
            before = _standing(connection, row["parent_id"], self._owner)
            connection.execute(
                update(CONVERSATIONS)
                .where(CONVERSATIONS.c.owner == self._owner, CONVERSATIONS.c.head_id == response_id)
                .values(head_id=before)
            )
            retitle(
                connection, row["conversation_id"], self._owner, INPUT.validate_json(row["input"])
            )
            return row["conversation_id"], before

        async with self._lineage.reaching_history() as history:
            forgotten = await history.write(run)
            history.rewritten([response_id])
        if forgotten is None and running is None:
            raise no_response(response_id)
        self._lineage.forget([response_id])
        if running is not None and running.unstored is not None:
            running.unstored.forget(response_id)
        if forgotten is not None and forgotten[0] is not None:
            conversation = self._lineage.conversation(forgotten[0], self._owner)
            conversation.forget(response_id)
            if conversation.head == response_id:
                conversation.head = forgotten[1]


async def ended(runs: Sequence[Running]) -> None:
    """Stop responses, as a cancel does, and wait until their ends are stored and told."""
    for run in runs:
        run.stop("cancelled")
    for run in runs:
        await run.done.wait()


def blank(connection: Connection, which: ColumnElement[bool]) -> None:
    """Take the words out of rows."""
    nothing = {"input": "[]", "response": "", "said": ""} | dict.fromkeys(
        ("feedback", "event_id", "fingerprint")
    )
    connection.execute(
        update(RESPONSES).where(which).values(nothing | {"forgotten": True, "finished": True})
    )


def drop_item(connection: Connection, response_id: str, owner: str, item_id: str) -> bool:
    """Take one item out of the input or the answer of a response; False if it is not there."""
    found = connection.execute(select(RESPONSES).where(_stands(response_id, owner))).mappings()
    if (row := found.first()) is None:
        return False
    record = Record.of(row)
    gone = [item for item in (*record.input, *record.response.output) if item.id == item_id]
    if not gone:
        return False
    input = tuple(item for item in record.input if item.id != item_id)
    output = tuple(item for item in record.response.output if item.id != item_id)
    response = record.response.model_copy(update={"output": output})
    changes = {
        "input": INPUT.dump_json(input).decode(),
        "response": response.model_dump_json(),
        "said": searchable([*input, *output]),
    }
    connection.execute(update(RESPONSES).where(RESPONSES.c.id == response_id).values(changes))
    retitle(connection, row["conversation_id"], owner, record.input)
    return True


def retitle(
    connection: Connection, conversation_id: str | None, owner: str, gone: Sequence[InputItem]
) -> None:
    """Find other first words for a conversation that was named after those that are gone."""
    here = (CONVERSATIONS.c.id == conversation_id, CONVERSATIONS.c.owner == owner)
    row = connection.execute(select(CONVERSATIONS).where(*here)).mappings().first()
    if row is None or row["opening"] is None or row["opening"] != opening(gone):
        return
    words = next(_questions(connection, conversation_id, owner), None)
    title = title_of(json.loads(row["metadata"]), words)
    changes = {"opening": words, "title": title and title.casefold()}
    connection.execute(update(CONVERSATIONS).where(*here).values(changes))


def _questions(connection: Connection, conversation_id: str | None, owner: str) -> Iterator[str]:
    """Yield the first words of what was asked in a conversation, oldest first."""
    c = RESPONSES.c
    left = (
        select(c.input)
        .where(c.owner == owner, c.conversation_id == conversation_id, c.forgotten.is_(False))
        .order_by(c.created_at, c.id)
    )
    # One at a time: nearly always the first has words, and a conversation may be long.
    number = 0
    while found := connection.execute(left.offset(number).limit(1)).first():
        if words := opening(INPUT.validate_json(found.input)):
            yield words
        number += 1


def _stands(response_id: str, owner: str) -> ColumnElement[bool]:
    return (
        (RESPONSES.c.id == response_id)
        & (RESPONSES.c.owner == owner)
        & RESPONSES.c.forgotten.is_(False)
    )


def _standing(connection: Connection, response_id: str | None, owner: str) -> str | None:
    """Return the newest response from here back that is not forgotten."""
    while response_id is not None:
        row = connection.execute(
            select(RESPONSES.c.parent_id, RESPONSES.c.forgotten).where(
                RESPONSES.c.id == response_id, RESPONSES.c.owner == owner
            )
        ).first()
        if row is None or not row.forgotten:
            return response_id if row else None
        response_id = row.parent_id
    return None
