"""The runner: one task per response, owned by the application and not by the socket that asked.

One way in for every door: `create` reserves the response before its first await, so that a
cancel can never miss it. One way out: a subscription to its event log. The order at the end is
always: stop forwarding, close the model's stream, store, terminal event.

A response's task never raises. What goes wrong becomes its terminal event.

Over 400 lines because the way of a response, from reservation to end, is read as one.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from weakref import WeakValueDictionary

import anyio
from anyio.abc import TaskGroup
from sqlalchemy.exc import SQLAlchemyError

from ragsocket.engine.base import Engine, Turn
from ragsocket.errors import EngineError, RequestError
from ragsocket.protocol.client_events import ResponseCreate
from ragsocket.protocol.errors import ErrorCode
from ragsocket.protocol.ids import new_conversation_id, new_reference_id
from ragsocket.protocol.resources import Reason, Response
from ragsocket.protocol.server_events import Error, encode
from ragsocket.responses.asking import Defaults, accepted
from ragsocket.responses.history import History, Record
from ragsocket.responses.lifecycle import (
    Entry,
    Failure,
    Lifecycle,
    Outcome,
    terminal_entry,
)
from ragsocket.responses.running import Conversation, Lane, Running

log = logging.getLogger("ragsocket.responses")

FINISHED_KEPT_S = 60.0
"""How long the log of a finished response stays in memory, for followers that come back."""

FINISHED_KEPT = 2_000
"""How many such logs at most."""


class Runner:
    """Makes responses, runs them, finds them again. Use as `async with Runner.open(…)`."""

    def __init__(
        self,
        engine: Engine,
        history: History,
        tasks: TaskGroup,
        *,
        commit_timeout_s: float,
        defaults: Defaults,
    ) -> None:
        self.engine = engine
        self.history = history
        self.draining = False
        self._tasks = tasks
        self._commit_timeout_s = commit_timeout_s
        self._defaults = defaults
        self._runs: dict[str, Running] = {}
        self._unfinished: set[Running] = set()
        self._idle = anyio.Event()
        self._finished: deque[Running] = deque()
        self._detached: dict[Running, float] = {}
        self._reap_soon = anyio.Event()
        self._conversations: WeakValueDictionary[tuple[str, str], Conversation] = (
            WeakValueDictionary()
        )

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        engine: Engine,
        history: History,
        *,
        commit_timeout_s: float = 10,
        defaults: Defaults | None = None,
    ) -> AsyncIterator[Runner]:
        """Own the tasks of all responses; on leaving, what still runs is cut and stored."""
        async with anyio.create_task_group() as tasks:
            runner = cls(
                engine,
                history,
                tasks,
                commit_timeout_s=commit_timeout_s,
                defaults=defaults or Defaults(),
            )
            tasks.start_soon(runner._reap)
            try:
                yield runner
            finally:
                with anyio.CancelScope(shield=True):
                    await runner.drain(0)
                tasks.cancel_scope.cancel()

    @property
    def running(self) -> int:
        """How many responses are unfinished."""
        return len(self._unfinished)

    def new_conversation(self, owner: str) -> Conversation:
        """Return a conversation that nobody has written to; nothing is stored for it yet."""
        return self._conversation(new_conversation_id(), owner, known=True)

    def model(self, name: str | None) -> str:
        """Return the model of that name; the default one for None.

        Raises:
            RequestError: there is none.
        """
        models = self.engine.models
        if name and name not in models:
            raise RequestError(
                ErrorCode.MODEL_NOT_FOUND,
                f"there is no model {name[:100]!r} here; there is {', '.join(models)}.",
                param="model",
                status=404,
            )
        return name or models[0]

    def create(
        self,
        request: ResponseCreate,
        *,
        owner: str,
        grace_s: float | None,
        lane: Lane | None = None,
        with_results: bool = False,
    ) -> Running:
        """Reserve a response and start its task; synchronous, so no cancel can miss it.

        Args:
            request: what is asked.
            owner: who asks.
            grace_s: how long it goes on without a follower; 0 not at all, None for ever.
            lane: what it queues in; None for a door that asks once.
            with_results: whether the search item carries the passages even if the request
                does not include them.

        Raises:
            RequestError: it cannot be answered; nothing was reserved.
        """
        if self.draining:
            raise RequestError(
                ErrorCode.SERVER_SHUTTING_DOWN,
                "the server is restarting; connect again and ask there.",
                status=503,
            )
        model = self.model(request.model)
        conversation = self._conversation_of(request, owner, lane)
        lifecycle = Lifecycle(
            accepted(request, model, conversation.id if conversation else None),
            clock=time.monotonic,
            stream_id=request.stream_id,
            event_id=request.event_id,
            with_results=with_results or "file_search_call.results" in (request.include or ()),
        )
        run = Running(
            request,
            lifecycle,
            owner=owner,
            grace_s=grace_s,
            conversation=conversation,
            lane=lane.turnstile if lane else None,
            on_detached=self._detach,
        )
        self._runs[run.id] = run
        self._unfinished.add(run)
        self._tasks.start_soon(self._live, run, name=run.id)
        return run

    def get(self, response_id: str, *, owner: str) -> Running | None:
        """Return a response of this owner whose log is in memory."""
        run = self._runs.get(response_id)
        return run if run is not None and run.owner == owner else None

    async def stored(self, response_id: str, *, owner: str) -> Response:
        """Return a response that only history knows any more.

        Raises:
            RequestError: there is none, or history cannot be read.
        """
        return (await self._record(response_id, owner)).response

    async def stored_end(self, response_id: str, *, owner: str) -> Entry:
        """Return the terminal event of a response that only history knows any more.

        Raises:
            RequestError: there is none, or history cannot be read.
        """
        record = await self._record(response_id, owner)
        if record.last_number is None:
            raise _no_response(response_id)
        return terminal_entry(record.response, record.last_number)

    async def _record(self, response_id: str, owner: str) -> Record:
        try:
            record = await self.history.get(response_id, owner=owner)
        except SQLAlchemyError as error:
            raise _unreadable(error) from error
        if record is None:
            raise _no_response(response_id)
        return record

    async def drain(self, within_s: float) -> None:
        """Take nothing new, let what runs finish, cut what does not in time, wait for its end."""
        self.draining = True
        with anyio.move_on_after(within_s):
            await self._until_idle()
        self.stop_all("shutdown")
        with anyio.move_on_after(self._commit_timeout_s * 2):
            await self._until_idle()

    def stop_all(self, reason: Reason) -> None:
        """Stop every response that is unfinished now."""
        for run in tuple(self._unfinished):
            run.stop(reason)

    async def _until_idle(self) -> None:
        while self._unfinished:
            self._idle = anyio.Event()
            await self._idle.wait()

    def _conversation_of(
        self, request: ResponseCreate, owner: str, lane: Lane | None
    ) -> Conversation | None:
        if request.conversation_id is not None:
            return self._conversation(request.conversation_id, owner, known=False)
        if request.previous_response_id is not None or lane is None:
            return None
        return lane.conversation

    def _conversation(self, id: str, owner: str, *, known: bool) -> Conversation:
        conversation = self._conversations.get((owner, id))
        if conversation is None:
            conversation = Conversation(id, owner, known=known)
            self._conversations[owner, id] = conversation
        return conversation

    async def _live(self, run: Running) -> None:
        """Take a response from its reservation to its terminal event."""
        outcome: Outcome = None
        try:
            try:
                # A few reads that a stop need not interrupt: after them the response exists,
                # and a stop has something to end.
                with anyio.CancelScope(shield=True):
                    await self._look_up(run)
            except RequestError as error:
                self._reject(run, error)
                return
            run.log.append(run.lifecycle.accept())
            self.history.accept(run.lifecycle.response, run.input, owner=run.owner)
            with run.scope:
                outcome = await self._answer(run)
            if run.lifecycle.stop is not None:
                outcome = run.lifecycle.stop
            await self._finish(run, outcome)
        except Exception as error:
            # The last resort: a fault of ours must not take other answers along.
            reference = _reference(error)
            self._reject(
                run,
                RequestError(
                    ErrorCode.INTERNAL_ERROR, f"a fault of the server, {reference}.", status=500
                ),
            )
        finally:
            run.finished_at = time.monotonic()
            run.leave()
            self._unfinished.discard(run)
            self._detached.pop(run, None)
            self._finished.append(run)
            self._forget_old()
            run.done.set()
            self._idle.set()

    async def _look_up(self, run: Running) -> None:
        """Find out whether what the request names exists.

        Raises:
            RequestError: it does not.
        """
        conversation, previous = run.conversation, run.request.previous_response_id
        try:
            with anyio.fail_after(self._commit_timeout_s):
                if conversation is not None and not conversation.known:
                    exists, head = await self.history.head(conversation.id, owner=run.owner)
                    if not exists:
                        raise RequestError(
                            ErrorCode.CONVERSATION_NOT_FOUND,
                            f"there is no conversation {conversation.id[:64]!r}.",
                            param="conversation",
                            status=404,
                        )
                    if not conversation.known:
                        conversation.known, conversation.head = True, head
                if previous is not None:
                    await self._await_previous(previous, run.owner)
        except (SQLAlchemyError, TimeoutError) as error:
            raise _unreadable(error) from error

    async def _await_previous(self, previous: str, owner: str) -> None:
        if self.get(previous, owner=owner) is not None:
            return
        if await self.history.get(previous, owner=owner) is None:
            raise RequestError(
                ErrorCode.RESPONSE_NOT_FOUND,
                f"there is no response {previous[:64]!r} to go on from.",
                param="previous_response_id",
                status=404,
            )

    def _reject(self, run: Running, error: RequestError) -> None:
        """End a response that never came to be: its log holds one `error`, its only event."""
        if run.log.sealed:
            return
        self._runs.pop(run.id, None)
        run.rejection = error
        event = Error.of(
            error.code,
            error.message,
            param=error.param,
            status=error.status,
            event_id=run.request.event_id,
            stream_id=run.request.stream_id,
        ).model_copy(update={"sequence_number": len(run.log)})
        run.log.append([Entry(len(run.log), "error", None, encode(event))])

    async def _answer(self, run: Running) -> Outcome:
        """Wait for the turn, then run the engine; what goes wrong is returned."""
        try:
            previous = run.request.previous_response_id
            earlier = self.get(previous, owner=run.owner) if previous else None
            if not run.may_run or (earlier is not None and earlier.unfinished):
                run.log.append(run.lifecycle.queue())
                await run.turn()
                if earlier is not None:
                    await earlier.done.wait()
            run.had_its_turn = True
            parent = previous or (run.conversation.head if run.conversation else None)
            run.log.append(run.lifecycle.start(previous_response_id=parent))
            turns = await self._said_before(parent, run.owner)
            question = self._defaults.question(run.request, turns, run.owner, run.response.model)
            append, on = run.log.append, run.lifecycle.on
            async with aclosing(self.engine.answer(question)) as events:
                async for event in events:
                    append(on(event))
        except RequestError as error:
            return Failure(error.code, error.message)
        except EngineError as error:
            why = error.__cause__ or error
            log.warning("response %s failed, %s: %s", run.id, error.code, why)
            return Failure(error.code, error.message)
        except Exception as error:
            return Failure(ErrorCode.INTERNAL_ERROR, "a fault of the server.", _reference(error))
        return None

    async def _said_before(self, response_id: str | None, owner: str) -> list[Turn]:
        """Return the turns that a prompt begins with.

        Raises:
            RequestError: the history cannot be read.
        """
        try:
            # Interrupted in the middle, a read would take its connection along.
            with anyio.CancelScope(shield=True), anyio.fail_after(self._commit_timeout_s):
                turns = await self.history.turns(response_id, owner=owner)
        except (SQLAlchemyError, TimeoutError) as error:
            raise _unreadable(error) from error
        if response_id is not None and not turns:
            # It was there when this one was accepted, and could not be stored since.
            raise RequestError(
                ErrorCode.HISTORY_UNAVAILABLE,
                "the response to go on from was not stored; go on from the one before it.",
                param="previous_response_id",
                status=503,
            )
        return turns

    async def _finish(self, run: Running, outcome: Outcome) -> None:
        """Store the end, then say it: nobody is told of an end that is not kept."""
        run.begin_closing()
        now = int(time.time())
        ending = run.lifecycle.ending(outcome, now=now)
        moves_head = run.had_its_turn and run.conversation is not None
        try:
            with anyio.CancelScope(shield=True), anyio.fail_after(self._commit_timeout_s):
                await self.history.commit(
                    ending.response,
                    run.input,
                    owner=run.owner,
                    last_number=ending.entries[-1].number,
                    moves_head=moves_head,
                )
        except Exception as error:
            # Whatever the database came up with, the client must not take this for kept.
            failure = Failure(
                ErrorCode.HISTORY_UNAVAILABLE,
                "the answer could not be stored; it is not part of the conversation.",
                _reference(error),
            )
            ending = run.lifecycle.ending(failure, now=now)
        else:
            if moves_head and run.conversation is not None:
                run.conversation.head = run.id
        run.log.append(run.lifecycle.end(ending))

    def _detach(self, run: Running) -> None:
        assert run.grace_s is not None
        self._detached[run] = time.monotonic() + run.grace_s
        self._reap_soon.set()

    async def _reap(self) -> None:
        """Cut the answers that nobody came back for."""
        while True:
            self._reap_soon = anyio.Event()
            now = time.monotonic()
            for run, deadline in list(self._detached.items()):
                if run.log.followers or deadline <= now:
                    del self._detached[run]
                if not run.log.followers and deadline <= now:
                    run.stop_lost()
            self._forget_old()
            next_look = min(self._detached.values(), default=now + FINISHED_KEPT_S)
            with anyio.move_on_after(max(0.0, next_look - time.monotonic())):
                await self._reap_soon.wait()

    def _forget_old(self) -> None:
        """Forget the logs of responses that ended long ago, oldest first."""
        oldest_kept = time.monotonic() - FINISHED_KEPT_S
        while self._finished and (
            len(self._finished) > FINISHED_KEPT
            or (self._finished[0].finished_at or 0.0) <= oldest_kept
        ):
            self._runs.pop(self._finished.popleft().id, None)


def _no_response(response_id: str) -> RequestError:
    return RequestError(
        ErrorCode.RESPONSE_NOT_FOUND,
        f"there is no response {response_id[:64]!r}.",
        param="response_id",
        status=404,
    )


def _unreadable(error: Exception) -> RequestError:
    return RequestError(
        ErrorCode.HISTORY_UNAVAILABLE,
        f"the history cannot be read at the moment, {_reference(error)}.",
        status=503,
    )


def _reference(error: Exception) -> str:
    """Write an error to the log under a fresh reference id, which a client may be told."""
    reference = new_reference_id()
    log.error("%s: %s", reference, error, exc_info=error)
    return reference
