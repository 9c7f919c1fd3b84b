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

import anyio
from anyio.abc import TaskGroup

from ragsocket.engine.base import Engine
from ragsocket.errors import EngineError, RequestError
from ragsocket.protocol.client_events import ResponseCreate, ResponseSteer
from ragsocket.protocol.errors import ErrorCode
from ragsocket.protocol.ids import new_steer_id
from ragsocket.protocol.resources import Reason
from ragsocket.protocol.server_events import Error, SteerFailed, encode
from ragsocket.responses import steering
from ragsocket.responses.asking import Defaults, accepted
from ragsocket.responses.event_log import Bounds
from ragsocket.responses.faults import logged, our_fault
from ragsocket.responses.history import History
from ragsocket.responses.lifecycle import (
    Entry,
    Failure,
    Lifecycle,
    Outcome,
)
from ragsocket.responses.lineage import Lineage
from ragsocket.responses.running import Conversation, Lane, Running, Steering
from ragsocket.responses.turnstile import Turnstile
from ragsocket.responses.unstored import Unstored, is_stored

log = logging.getLogger("ragsocket.responses")

RESTARTING = "the server is restarting; connect again and ask there."


class Runner:
    """Makes responses, runs them and ends them. Use as `async with Runner.open(…)`."""

    def __init__(
        self,
        engine: Engine,
        history: History,
        tasks: TaskGroup,
        *,
        commit_timeout_s: float,
        defaults: Defaults,
        bounds: Bounds,
    ) -> None:
        self.engine = engine
        self.history = history
        self.lineage = Lineage(history, timeout_s=commit_timeout_s)
        self.draining = False
        self._tasks = tasks
        self._commit_timeout_s = commit_timeout_s
        self._defaults = defaults
        self._bounds = bounds
        self._unfinished: set[Running] = set()
        self._idle = anyio.Event()
        # With the bytes that each was counted for.
        self._finished: deque[tuple[Running, int]] = deque()
        self._finished_bytes = 0
        self._detached: dict[Running, float] = {}
        self._reap_soon = anyio.Event()

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        engine: Engine,
        history: History,
        *,
        commit_timeout_s: float = 10,
        defaults: Defaults | None = None,
        bounds: Bounds | None = None,
    ) -> AsyncIterator[Runner]:
        """Own the tasks of all responses; on leaving, what still runs is cut and stored."""
        async with anyio.create_task_group() as tasks:
            runner = cls(
                engine,
                history,
                tasks,
                commit_timeout_s=commit_timeout_s,
                defaults=defaults or Defaults(),
                bounds=bounds or Bounds(),
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
        grace_s: float,
        lane: Lane | None = None,
        unstored: Unstored | None = None,
        with_results: bool = False,
    ) -> Running:
        """Reserve a response and start its task; synchronous, so no cancel can miss it.

        The same ask again in its conversation, by its `event_id`, is the same response.

        Args:
            request: what is asked.
            owner: who asks.
            grace_s: how long it goes on without a follower, unless it is in the background; 0 not
                at all.
            lane: what it queues in; None for a door that asks once.
            unstored: what the connection remembers of answers that are not stored, or None.
            with_results: whether the search item carries the passages even if the request
                does not include them.

        Raises:
            RequestError: it cannot be answered; nothing was reserved.
        """
        earlier = self.lineage.asked_before(request, owner=owner, lane=lane)
        if earlier is not None:
            return earlier
        conversation = self.lineage.conversation_of(request, owner, lane)
        if self.draining:
            raise RequestError(ErrorCode.SERVER_SHUTTING_DOWN, RESTARTING, status=503)
        return self._reserve(
            request,
            owner=owner,
            grace_s=None if request.background else grace_s,
            lane=lane.turnstile if lane else None,
            conversation=conversation,
            store=is_stored(request, unstored),
            unstored=unstored,
            with_results=with_results or "file_search_call.results" in (request.include or ()),
        )

    def steer(self, target: Running, request: ResponseSteer, *, grace_s: float) -> Running:
        """Stop a response and reserve what answers in its place, next in all it queues in.

        The successor has the target's settings, lane and conversation, and goes on from what is
        kept of it. Its first event comes after the target's last.

        Args:
            target: the response to stop.
            request: what is to be answered.
            grace_s: how long the successor goes on without a follower, unless the target is to
                for ever.

        Raises:
            RequestError: it cannot be steered; nothing has changed.
        """
        steering.check(target)
        if self.draining:
            raise RequestError(ErrorCode.SUCCESSOR_CREATION_FAILED, RESTARTING)
        steer = Steering(new_steer_id(), target)
        target.log.append(target.lifecycle.steer(steer.id))
        target.stop("steered")
        inherited = {
            "input": request.input,
            "event_id": request.event_id,
            "model": target.response.model,
            "previous_response_id": target.id,
            "from_start": None,
        }
        target.successor = self._reserve(
            target.request.model_copy(update=inherited),
            owner=target.owner,
            grace_s=None if target.grace_s is None else grace_s,
            lane=target.lane,
            conversation=target.conversation,
            store=target.response.store,
            unstored=target.unstored,
            with_results=target.lifecycle.with_results,
            steer=steer,
        )
        return target.successor

    def _reserve(
        self,
        request: ResponseCreate,
        *,
        owner: str,
        grace_s: float | None,
        lane: Turnstile[Running] | None,
        conversation: Conversation | None,
        store: bool,
        unstored: Unstored | None,
        with_results: bool,
        steer: Steering | None = None,
    ) -> Running:
        model = self.model(request.model)
        lifecycle = Lifecycle(
            accepted(request, model, conversation.id if conversation else None, store=store),
            clock=time.monotonic,
            stream_id=request.stream_id,
            event_id=request.event_id,
            with_results=with_results,
            speaks=request.generate is not False,
        )
        run = Running(
            request,
            lifecycle,
            owner=owner,
            grace_s=grace_s,
            conversation=conversation,
            lane=lane,
            on_detached=self._detach,
            steering=steer,
            unstored=None if store else unstored,
            bounds=self._bounds,
        )
        self.lineage.begin(run)
        self._unfinished.add(run)
        self._tasks.start_soon(self._live, run, name=run.id)
        return run

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

    async def _live(self, run: Running) -> None:
        """Take a response from its reservation to its terminal event."""
        outcome: Outcome = None
        try:
            try:
                # A few reads that a stop need not interrupt: after them the response exists,
                # and a stop has something to end.
                with anyio.CancelScope(shield=True):
                    if run.steering is not None:
                        await steering.ended(run.steering.target)
                    await self.lineage.look_up(run)
            except RequestError as error:
                self._reject(run, error)
                return
            if run.log.sealed:
                return
            run.log.append(run.lifecycle.accept())
            response = run.lifecycle.response
            if response.store:
                self.history.accept(response, run.input, owner=run.owner, ask=run.ask)
            run.accepted.set()
            if run.conversation is not None:
                for watcher in tuple(run.conversation.watchers):
                    watcher(run)
            with run.scope:
                outcome = await self._answer(run)
            if run.lifecycle.stop is not None:
                outcome = run.lifecycle.stop
            await self._finish(run, outcome)
        except Exception as error:
            # The last resort: a fault of ours must not take other answers along.
            self._reject(run, our_fault(error))
        finally:
            run.finished_at = time.monotonic()
            run.accepted.set()
            self.lineage.remember_unstored(run)
            run.leave()
            # Else a chain of them would be kept as long as its last.
            run.steering = None
            self._unfinished.discard(run)
            self._detached.pop(run, None)
            self._finished.append((run, run.log.bytes))
            self._finished_bytes += run.log.bytes
            self._forget_old()
            run.done.set()
            self._idle.set()

    def _reject(self, run: Running, error: RequestError) -> None:
        """End a response that never came to be: an `error` is the last event of its log."""
        if run.log.sealed:
            return
        run.rejection = error
        self.lineage.withdraw(run)
        event: Error | SteerFailed
        if run.steering is not None:
            event = steering.failed(run.request, error, steer_id=run.steering.id)
        else:
            asked = run.request
            event = Error.of(error, event_id=asked.event_id, stream_id=asked.stream_id)
        number = len(run.log)
        data = encode(event.model_copy(update={"sequence_number": number}))
        run.log.append([Entry(number, event.type, None, data)])

    async def _answer(self, run: Running) -> Outcome:
        """Wait for the turn, then run the engine; what goes wrong is returned."""
        try:
            previous = run.request.previous_response_id
            earlier = self.lineage.get(previous, owner=run.owner) if previous else None
            if not run.may_run or (earlier is not None and earlier.unfinished):
                run.log.append(run.lifecycle.queue())
                await run.turn()
                if earlier is not None:
                    await earlier.done.wait()
            run.had_its_turn = True
            parent = previous
            if run.conversation is not None and not previous and not run.request.from_start:
                parent = run.conversation.head
            run.log.append(run.lifecycle.start(previous_response_id=parent))
            turns = run.said_before = await self.lineage.said_before(parent, run)
            question = self._defaults.question(
                run.request, run.input, history=turns, owner=run.owner, model=run.response.model
            )
            if run.request.generate is False:
                return None
            append, on = run.log.append, run.lifecycle.on
            async with aclosing(self.engine.answer(question)) as events:
                async for event in events:
                    append(on(event))
        except RequestError as error:
            return Failure(error.code, error.message)
        except EngineError as error:
            why = error.__cause__ or error
            log.warning("response %s failed, %s: %s", run.id, error.code, why)
            return Failure(error.code, error.message, retry_after_s=error.retry_after_s)
        except Exception as error:
            return Failure(ErrorCode.INTERNAL_ERROR, "a fault of the server.", logged(error))
        return None

    async def _finish(self, run: Running, outcome: Outcome) -> None:
        """Store the end, then say it: nobody is told of an end that is not kept."""
        run.begin_closing()
        now = int(time.time())
        ending = run.lifecycle.ending(outcome, now=now)
        moves_head = run.had_its_turn and run.conversation is not None
        if not run.response.store:
            run.log.append(run.lifecycle.end(ending))
            return
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
                logged(error),
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
            next_look = min(self._detached.values(), default=now + max(1.0, self._bounds.ended_s))
            with anyio.move_on_after(max(0.0, next_look - time.monotonic())):
                await self._reap_soon.wait()

    def _forget_old(self) -> None:
        """Forget the logs of responses that ended long ago, oldest first."""
        oldest_kept = time.monotonic() - self._bounds.ended_s
        while self._finished and (
            len(self._finished) > self._bounds.ended
            or self._finished_bytes > self._bounds.ended_bytes
            or (self._finished[0][0].finished_at or 0.0) <= oldest_kept
        ):
            run, size = self._finished.popleft()
            self._finished_bytes -= size
            self.lineage.drop(run)
