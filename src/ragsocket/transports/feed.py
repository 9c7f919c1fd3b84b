"""What one socket is sent: answers to its own events, and the event logs that it follows."""

from __future__ import annotations

from asyncio import Event
from collections import deque
from collections.abc import Awaitable, Callable

from pydantic import BaseModel

from ragsocket.errors import RequestError
from ragsocket.protocol.errors import ErrorCode
from ragsocket.protocol.server_events import Error, encode
from ragsocket.responses.event_log import Subscription
from ragsocket.responses.running import Running

MAX_OUTBOX = 1_000
"""Direct answers that may wait for a client that asks and does not read."""


class Feed:
    """Takes what is to be sent, synchronously, and sends it when it is called to."""

    def __init__(
        self, send: Callable[[bytes], Awaitable[None]], on_slow: Callable[[], None]
    ) -> None:
        """Begin with nothing to send.

        Args:
            send: sends one event.
            on_slow: called when the client reads too slowly to ever catch up.
        """
        self._send = send
        self._on_slow = on_slow
        self._outbox: deque[bytes] = deque()
        self._following: dict[Running, Subscription] = {}
        # Set and waited for once per token: anyio's event costs twice as much.
        self._wake = Event()

    def direct(self, data: bytes) -> None:
        """Send an encoded event to this socket alone, before anything of a log."""
        self._outbox.append(data)
        if len(self._outbox) > MAX_OUTBOX:
            self._on_slow()
        self._wake.set()

    def say(self, event: BaseModel) -> None:
        """Send an event to this socket alone, before anything of a log."""
        self.direct(encode(event))

    def refuse(
        self, error: RequestError, event_id: str | None, stream_id: str | None = None
    ) -> None:
        """Say what was wrong with a client event."""
        self.say(Error.of(error, event_id=event_id, stream_id=stream_id))

    def gap(self, event_id: str | None, instead: str = "the terminal event") -> None:
        """Say that events are gone which a client event asked for, and what comes for them."""
        message = f"the events that were asked for are gone; {instead} stands for all of them."
        error = RequestError(ErrorCode.RESUME_GAP, message, param="starting_after", status=410)
        self.refuse(error, event_id)

    def follows(self, run: Running) -> bool:
        """Return True while the end of a response is still to be sent."""
        return run in self._following

    def follow(self, run: Running, *, start: int = 0, event_id: str | None = None) -> None:
        """Send what the log of a response holds from `start` on, whatever was sent of it before.

        What is gone of it is said by an error, which echoes `event_id`, and by what stands for it.
        """
        instead, start = run.catch_up(start)
        if instead is not None:
            self.gap(event_id, "a snapshot" if run.unfinished else "the terminal event")
            self.direct(instead.data)
        before = self._following.get(run)
        # First, so that the response is never without a follower in between.
        self._following[run] = run.follow(self.wake, start=start, on_cut=self._on_slow)
        if before is not None:
            before.close()
        self._wake.set()

    def meet(self, run: Running) -> None:
        """Follow a response from its start, unless it is followed already."""
        if run not in self._following:
            self.follow(run)

    def unfollow_all(self) -> None:
        """Follow nothing any more, since nothing more is sent."""
        while self._following:
            self._following.popitem()[1].close()

    def wake(self) -> None:
        """Have `something` return."""
        self._wake.set()

    async def something(self) -> None:
        """Wait until there may be something to send."""
        await self._wake.wait()
        self._wake.clear()

    async def send_round(self) -> bool:
        """Send what there is, a fair share of each response; False if there was nothing."""
        sent = False
        while self._outbox:
            await self._send(self._outbox.popleft())
            sent = True
        # The end of an answer comes before what takes its place.
        later = [run.successor for run in self._following if run.successor is not None]
        for run, subscription in tuple(self._following.items()):
            if run in later:
                continue
            for entry in subscription.take(64):
                if not subscription.open:
                    # A resume has put another in its place, which begins elsewhere.
                    break
                await self._send(entry.data)
                subscription.delivered = entry.number
                sent = True
            if subscription.open and subscription.exhausted:
                subscription.close()
                del self._following[run]
                if run.successor is not None:
                    self.meet(run.successor)
        return sent
