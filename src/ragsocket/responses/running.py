"""A response in memory, and the lanes and conversations that it queues in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import anyio

from ragsocket.errors import RequestError
from ragsocket.protocol.client_events import ResponseCreate
from ragsocket.protocol.resources import Reason, Response
from ragsocket.responses.asking import handed_in
from ragsocket.responses.event_log import EventLog, Subscription
from ragsocket.responses.lifecycle import Lifecycle
from ragsocket.responses.turnstile import Turnstile


class Conversation:
    """A live conversation: its turnstile, and the newest response that took its turn.

    Attributes:
        id: `conv_…`.
        owner: whose it is.
        head: newest response's id, None before the first.
        known: False until it was looked up whether it exists.
    """

    def __init__(self, id: str, owner: str, *, known: bool) -> None:
        self.id = id
        self.owner = owner
        self.head: str | None = None
        self.known = known
        self.turnstile = Turnstile()


class Running:
    """A response in memory, from its reservation until its log is forgotten.

    Attributes:
        id: `resp_…`.
        owner: whose it is.
        request: what was asked.
        input: the items that were handed in.
        log: its numbered events.
        finished_at: monotonic seconds of its end, None while it runs.
        rejection: why it never came to be; its log then holds one `error` event.
    """

    def __init__(
        self,
        request: ResponseCreate,
        lifecycle: Lifecycle,
        *,
        owner: str,
        grace_s: float | None,
        conversation: Conversation | None,
        lane: Turnstile | None,
        on_detached: Callable[[Running], None],
    ) -> None:
        self.id = lifecycle.response.id
        self.owner = owner
        self.request = request
        self.input = handed_in(request)
        self.log = EventLog()
        self.finished_at: float | None = None
        self.rejection: RequestError | None = None
        self.lifecycle = lifecycle
        self.conversation = conversation
        self.grace_s = grace_s
        self.scope = anyio.CancelScope()
        self.done = anyio.Event()
        self.had_its_turn = False
        self._closing = False
        self._turnstiles = [
            stile for stile in (lane, conversation and conversation.turnstile) if stile
        ]
        self._forward = anyio.Event()
        self._on_detached = on_detached
        self._delivered = -1
        for stile in self._turnstiles:
            stile.enter(self)

    @property
    def response(self) -> Response:
        """The resource as it stands."""
        return self.lifecycle.response

    @property
    def unfinished(self) -> bool:
        """True until the terminal event is in the log."""
        return not self.log.sealed

    def follow(self, wake: Callable[[], None], *, start: int = 0) -> Subscription:
        """Subscribe to the log from number `start` on; `wake` is called when it grew."""
        return self.log.subscribe(wake, start=start, on_close=self._left)

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
    turnstile: Turnstile = field(default_factory=Turnstile)
