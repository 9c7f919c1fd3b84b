"""Lineage: where an ask comes from, and how a response and a conversation are found again.

Both are looked for in memory first, where whatever runs is, and behind it in history. Nothing
here starts, stops or ends a response.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

import anyio
from sqlalchemy.exc import SQLAlchemyError

from ragsocket.engine.base import Turn
from ragsocket.errors import RequestError
from ragsocket.protocol.client_events import ResponseCreate
from ragsocket.protocol.errors import ErrorCode
from ragsocket.protocol.ids import new_conversation_id
from ragsocket.protocol.resources import Response
from ragsocket.responses.asking import fingerprint, same_ask, turns_of
from ragsocket.responses.faults import logged
from ragsocket.responses.history import Ask, History, Record
from ragsocket.responses.lifecycle import Entry, terminal_entry
from ragsocket.responses.running import Conversation, Lane, Running
from ragsocket.responses.unstored import no_previous


class Lineage:
    """The responses and conversations that an ask can name, of every owner."""

    def __init__(self, history: History, *, timeout_s: float) -> None:
        """Begin with what history knows.

        Args:
            history: where the responses are that have ended.
            timeout_s: seconds that it may take to answer.
        """
        self._history = history
        self._timeout_s = timeout_s
        self._runs: dict[str, Running] = {}
        self._conversations: WeakValueDictionary[tuple[str, str], Conversation] = (
            WeakValueDictionary()
        )

    def get(self, response_id: str, *, owner: str) -> Running | None:
        """Return a response of this owner whose log is in memory."""
        run = self._runs.get(response_id)
        return run if run is not None and run.owner == owner else None

    def conversation(self, id: str, owner: str) -> Conversation:
        """Return what is live of a conversation that may exist; whoever holds it keeps it so."""
        return self._conversation(id, owner, known=False)

    def new_conversation(self, owner: str) -> Conversation:
        """Return a conversation that nobody has written to; nothing is stored for it yet."""
        return self._conversation(new_conversation_id(), owner, known=True)

    def conversation_of(
        self, request: ResponseCreate, owner: str, lane: Lane | None
    ) -> Conversation | None:
        """Return the conversation that an ask belongs to: the one it names, or its lane's own."""
        if request.conversation_id is not None:
            return self.conversation(request.conversation_id, owner)
        if request.previous_response_id is not None or lane is None or request.store is False:
            return None
        return lane.conversation

    def asked_before(
        self, request: ResponseCreate, *, owner: str, lane: Lane | None
    ) -> Running | None:
        """Return the response to the same ask of its conversation, if its log is in memory.

        Raises:
            RequestError: its key was used for another ask there.
        """
        if request.event_id is None:
            return None
        conversation = self.conversation_of(request, owner, lane)
        ask = conversation.asks.get(request.event_id) if conversation is not None else None
        if ask is None:
            return None
        same_ask(ask.fingerprint, request)
        return self.get(ask.response_id, owner=owner)

    def begin(self, run: Running) -> None:
        """Know a response that was just reserved, by its id and by the key of its ask."""
        self._runs[run.id] = run
        if run.unstored is not None:
            run.unstored.begin(run.id)
        key, conversation = run.request.event_id, run.conversation
        # What answers in place of another was not asked for by itself.
        if conversation is not None and key is not None and run.steering is None:
            run.ask = Ask(key, fingerprint(run.request), run.id)
            conversation.asks.setdefault(key, run.ask)

    def withdraw(self, run: Running) -> None:
        """Know no more of a response that never came to be; its key is free again."""
        self.drop(run)
        if run.conversation and run.ask and run.conversation.asks.get(run.ask.event_id) is run.ask:
            del run.conversation.asks[run.ask.event_id]

    def drop(self, run: Running) -> None:
        """Leave a response to history; who follows its log reads on."""
        self._runs.pop(run.id, None)

    def forget(self, response_ids: Iterable[str]) -> None:
        """Know no more of responses that were deleted; who follows one reads on."""
        for response_id in response_ids:
            run = self._runs.pop(response_id, None)
            if run is not None:
                run.forgotten = True

    @asynccontextmanager
    async def reaching_history(self) -> AsyncIterator[History]:
        """Lend the history for a few reads and writes.

        Raises:
            RequestError: it cannot be reached.
        """
        try:
            # Interrupted in the middle, a read would take its connection along.
            with anyio.CancelScope(shield=True), anyio.fail_after(self._timeout_s):
                yield self._history
        except (SQLAlchemyError, TimeoutError) as error:
            raise RequestError(
                ErrorCode.HISTORY_UNAVAILABLE,
                f"the history cannot be reached at the moment, {logged(error)}.",
                status=503,
            ) from error

    async def find(self, conversation: Conversation) -> None:
        """Find out whether a conversation exists, from where it goes on, and what was asked in it.

        Raises:
            RequestError: it does not, or history cannot be read.
        """
        if not conversation.known:
            async with self.reaching_history() as history:
                exists, head = await history.head(conversation.id, owner=conversation.owner)
                asks = await history.asks(conversation.id, owner=conversation.owner)
            if not exists:
                raise no_conversation(conversation.id)
            if not conversation.known:
                conversation.known, conversation.head = True, head
                # What is stored came before what waits here.
                conversation.asks |= {ask.event_id: ask for ask in asks}
        if conversation.deleted:
            raise no_conversation(conversation.id, deleted=True)

    async def record(self, response_id: str, *, owner: str) -> Record:
        """Return what history knows of a response.

        Raises:
            RequestError: nothing, or history cannot be read.
        """
        async with self.reaching_history() as history:
            record = await history.get(response_id, owner=owner)
        if record is None:
            raise no_response(response_id)
        return record

    async def stored(self, response_id: str, *, owner: str) -> Response:
        """Return a response that only history knows any more.

        Raises:
            RequestError: there is none, its end was not stored, or history cannot be read.
        """
        record = await self.record(response_id, owner=owner)
        # It does not run any more, and would say `in_progress` for ever.
        _end_of(record)
        return record.response.rated(record.feedback)

    async def stored_end(self, response_id: str, *, owner: str) -> Entry:
        """Return the terminal event of a response that only history knows any more.

        Raises:
            RequestError: there is none, its end was not stored, or history cannot be read.
        """
        record = await self.record(response_id, owner=owner)
        return terminal_entry(record.response, _end_of(record))

    async def look_up(self, run: Running) -> None:
        """Find out whether what an ask names exists, and whether it was answered before.

        If it was, the log of the response ends with the end of that one.

        Raises:
            RequestError: it does not exist, or something else was asked under its key.
        """
        conversation, previous = run.conversation, run.request.previous_response_id
        if conversation is not None:
            await self.find(conversation)
        async with self.reaching_history() as history:
            if conversation is not None and run.ask is not None:
                await self._repeat(run, run.ask, conversation, history)
                if run.log.sealed:
                    return
            if previous is not None:
                await self._check_previous(previous, run, history)
        if conversation is not None and conversation.deleted:
            raise no_conversation(conversation.id, deleted=True)

    async def said_before(self, response_id: str | None, run: Running) -> list[Turn]:
        """Return the turns that a prompt begins with.

        Args:
            response_id: the response to go on from, or None for none.
            run: the one that goes on from it.

        Raises:
            RequestError: they are not known, or the history cannot be read.
        """
        if response_id is None:
            return []
        if run.unstored is not None:
            kept = run.unstored.turns(response_id)
            if kept is not None:
                return kept
            earlier = self.get(response_id, owner=run.owner)
            if earlier is not None and not earlier.response.store:
                raise no_previous(response_id)
        async with self.reaching_history() as history:
            turns = await history.turns(response_id, owner=run.owner)
            # One that was only prepared may have nothing to say.
            ended = bool(turns) or await history.ended(response_id, owner=run.owner)
        if not ended:
            # It was there when this one was accepted, and could not be stored since.
            raise RequestError(
                ErrorCode.HISTORY_UNAVAILABLE,
                "the response to go on from was not stored; go on from the one before it.",
                param="previous_response_id",
                status=503,
            )
        return turns

    def remember_unstored(self, run: Running) -> None:
        """Remember an answer that is on no disk, and forget one that could not be gone on from."""
        if run.unstored is None:
            return
        turns = None
        if run.had_its_turn:
            turns = [*run.said_before, *turns_of([*run.input, *run.response.output])]
        run.unstored.end(run.id, turns)
        failed = run.rejection is not None or run.response.status == "failed"
        if failed and run.request.previous_response_id is not None:
            run.unstored.forget(run.request.previous_response_id)

    def _conversation(self, id: str, owner: str, *, known: bool) -> Conversation:
        conversation = self._conversations.get((owner, id))
        if conversation is None:
            conversation = Conversation(id, owner, known=known)
            self._conversations[owner, id] = conversation
        return conversation

    async def _repeat(
        self, run: Running, ask: Ask, conversation: Conversation, history: History
    ) -> None:
        """If the same was asked before, end with the end of that response.

        Raises:
            RequestError: something else was asked under its key, or that end is not known.
        """
        earlier = conversation.asks[ask.event_id]
        if earlier is ask:
            return
        same_ask(earlier.fingerprint, run.request)
        record = await history.get(earlier.response_id, owner=run.owner)
        if record is None:
            # It was deleted since.
            conversation.asks[ask.event_id] = ask
            return
        self.drop(run)
        number = _end_of(record)
        run.log.begin_at(number)
        run.log.append(run.lifecycle.repeat(record.response, number))

    async def _check_previous(self, previous: str, run: Running, history: History) -> None:
        """Make sure that a response is there to go on from.

        Raises:
            RequestError: it is not.
        """
        if run.unstored is not None and previous in run.unstored:
            return
        earlier = self.get(previous, owner=run.owner)
        if earlier is not None and earlier.response.store:
            return
        if earlier is not None or await history.get(previous, owner=run.owner) is None:
            raise no_previous(previous)


def _end_of(record: Record) -> int:
    """Return the number of a response's terminal event.

    Raises:
        RequestError: its end was not stored, and it does not run any more.
    """
    if record.last_number is None:
        raise RequestError(
            ErrorCode.HISTORY_UNAVAILABLE,
            "the end of this response was not stored; ask anew.",
            param="response_id",
            status=503,
        )
    return record.last_number


def no_response(response_id: str) -> RequestError:
    """Return the error of a response that is not there."""
    return RequestError(
        ErrorCode.RESPONSE_NOT_FOUND,
        f"there is no response {response_id[:64]!r}.",
        param="response_id",
        status=404,
    )


def no_conversation(conversation_id: str, *, deleted: bool = False) -> RequestError:
    """Return the error of a conversation that is not there, or is not there any more."""
    name = f"{conversation_id[:64]!r}"
    return RequestError(
        ErrorCode.CONVERSATION_NOT_FOUND,
        f"the conversation {name} was deleted; name another, or connect again for a new one."
        if deleted
        else f"there is no conversation {name}.",
        param="conversation",
        status=404,
    )
