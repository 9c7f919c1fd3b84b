"""A response in memory, and the lanes and conversations that it queues in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import anyio

from ragsocket.engine.base import Turn
from ragsocket.errors import RequestError
from ragsocket.protocol.client_events import ResponseCreate
from ragsocket.protocol.resources import Feedback, Reason, Response
from ragsocket.responses.asking import handed_in
from ragsocket.responses.event_log import Bounds, EventLog, Subscription
from ragsocket.responses.history import Ask
from ragsocket.responses.lifecycle import Entry, Lifecycle
from ragsocket.responses.turnstile import Passenger, Turnstile
from ragsocket.responses.unstored import Unstored


class Conversation:
    """A live conversation: its turnstile, and the newest response that took its turn.

    Attributes:
        id: `conv_…`.
        owner: whose it is.
        head: newest response's id, None before the first.
        known: False until it was looked up whether it exists.
        asks: those that were given a key, by that key.
        watchers: called with each response of it once that exists.
        deleted: True once it goes; whoever still holds it can ask nothing more in it.
    """

    def __init__(self, id: str, owner: str, *, known: bool) -> None:
        self.id = id
        self.owner = owner
        self.head: str | None = None
        self.known = known
        self.deleted = False
        self.asks: dict[str, Ask] = {}
        self.watchers: list[Callable[[Running], None]] = []
        self.turnstile: Turnstile[Passenger] = Turnstile()

    def forget(self, response_id: str) -> None:
        """Forget under which key a response was asked for."""
        self.asks = {key: ask for key, ask in self.asks.items() if ask.response_id != response_id}

    @property
    def unfinished(self) -> list[Running]:
        """Its responses that are not finished, in their order."""
        queue = self.turnstile.queue
        return [one for one in queue if isinstance(one, Running) and one.unfinished]


@dataclass(frozen=True, slots=True)
class Steering:
    """Where a response comes from that was not asked for by itself.

    Attributes:
        id: `steer_…`.
        target: the response in whose place it answers.
    """

    id: str
    target: Running


class Running:
    """A response in memory, from its reservation until its log is forgotten.

    Attributes:
        id: `resp_…`.
        owner: whose it is.
        request: what was asked.
        input: the items that were handed in.
        log: its numbered events.
        lifecycle: makes them.
        conversation: the one that it is part of, or None.
        lane: what it queues in beside its conversation, or None.
        had_its_turn: True once nothing before it in lane and conversation is left.
        grace_s: seconds that it goes on without a follower, None for ever.
        scope: around the answering; a stop cancels it.
        done: set once its end is stored and told.
        finished_at: monotonic seconds of its end, None while it runs.
        feedback: what was thought of it.
        forgotten: True once nobody finds it any more.
        rejection: why it never came to be; its log then holds one event that says so.
        ask: its key in its conversation, or None.
        accepted: set once it exists, or never will.
        said_before: the turns that it goes on from, once they were read.
        unstored: where it is remembered if it is not stored, or None.
        steering: what made it the successor of another response, or None.
        successor: the response that answers in place of this one, or None.
    """

    def __init__(
        self,
        request: ResponseCreate,
        lifecycle: Lifecycle,
        *,
        owner: str,
        grace_s: float | None,
        conversation: Conversation | None,
        lane: Turnstile[Running] | None,
        on_detached: Callable[[Running], None],
        steering: Steering | None = None,
        unstored: Unstored | None = None,
        bounds: Bounds | None = None,
    ) -> None:
        self.id = lifecycle.response.id
        self.owner = owner
        self.request = request
        self.input = handed_in(request)
        self.log = EventLog(bounds)
        self.finished_at: float | None = None
        self.feedback: Feedback | None = None
        self.forgotten = False
        self.rejection: RequestError | None = None
        self.ask: Ask | None = None
        self.accepted = anyio.Event()
        self.said_before: list[Turn] = []
        self.unstored = unstored
        self.steering = steering
        self.successor: Running | None = None
        self.lifecycle = lifecycle
        self.conversation = conversation
        self.grace_s = grace_s
        self.scope = anyio.CancelScope()
        self.done = anyio.Event()
        self.had_its_turn = False
        self._closing = False
        self.lane = lane
        self._turnstiles = [
            stile for stile in (lane, conversation and conversation.turnstile) if stile
        ]
        self._forward = anyio.Event()
        self._on_detached = on_detached
        self._delivered = -1
        for stile in self._turnstiles:
            stile.enter(self, behind=steering.target if steering else None)

    @property
    def response(self) -> Response:
        """The resource as it stands."""
        return self.lifecycle.response

    def present(self) -> Response:
        """Return it as it is looked up: with the output so far, and what was thought of it."""
        return self.lifecycle.present().rated(self.feedback)

    @property
    def unfinished(self) -> bool:
        """True until the terminal event is in the log."""
        return not self.log.sealed

    def follow(
        self,
        wake: Callable[[], None],
        *,
        start: int = 0,
        on_cut: Callable[[], None] = lambda: None,
    ) -> Subscription:
        """Subscribe to the log from number `start` on.

        Args:
            wake: called when it grew.
            start: first number wanted; see `catch_up` for one that may be dropped.
            on_cut: called when the follower is too far behind to go on.
        """
        return self.log.subscribe(wake, start=start, on_close=self._left, on_cut=on_cut)

    def catch_up(self, start: int) -> tuple[Entry | None, int]:
        """Return what stands for the events from `start` on that are gone, and where to go on.

        That is the terminal event if it is in, else a snapshot; None if nothing is gone.
        """
        last = self.log.last
        if start >= self.log.first or last is None:
            return None, min(start, len(self.log))
        return last if self.log.sealed else self.lifecycle.snapshot(), len(self.log)

    def stop(self, reason: Reason, *, after: int | None = None) -> bool:
        """End the answer now.

        Args:
            reason: why.
            after: the last number that was shown; None for the last in the log.

        Returns:
            False if it is ending already, for this or another reason.
        """
        if self._closing or not self.lifecycle.halt(reason, after):
            return False
        self.scope.cancel()
        return True

    @property
    def closing(self) -> bool:
        """True once nothing can stop it: the end is being stored, or was."""
        return self._closing

    def stop_lost(self) -> bool:
        """End the answer at the last event that any follower was handed."""
        return self.stop("client_lost", after=self._delivered)

    def begin_closing(self) -> None:
        """From now on nothing can stop it: the end is being stored."""
        self._closing = True

    def come_forward(self) -> None:
        """Look again whether it is this one's turn."""
        self._forward.set()

    @property
    def may_run(self) -> bool:
        """True if neither lane nor conversation has one before this."""
        return all(stile.open_for(self) for stile in self._turnstiles)

    async def turn(self) -> None:
        """Wait until lane and conversation are free."""
        while not self.may_run:
            self._forward = anyio.Event()
            await self._forward.wait()

    def leave(self) -> None:
        """Let the next ones of lane and conversation run."""
        for stile in self._turnstiles:
            stile.leave(self)

    def _left(self, subscription: Subscription) -> None:
        # Somebody saw it, whoever leaves last.
        self._delivered = max(self._delivered, subscription.delivered)
        if self.log.followers == 0 and self.unfinished:
            if self.grace_s == 0:
                self.stop_lost()
            elif self.grace_s is not None:
                self._on_detached(self)


@dataclass(slots=True)
class Lane:
    """First in, first out: the responses of one lane of one connection.

    Attributes:
        conversation: what a `response.create` that names no history goes on with, or None.
    """

    conversation: Conversation | None = None
    turnstile: Turnstile[Running] = field(default_factory=Turnstile)

    @property
    def unfinished(self) -> list[Running]:
        """Its responses whose end is not yet said, the running one first."""
        return [run for run in self.turnstile.queue if run.unfinished]
