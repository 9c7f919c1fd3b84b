"""The event log: the numbered events of one response, and the positions of those who read them.

A subscriber is a position. It holds no queue: a slow one costs no memory of its own, a second
one costs nothing but its position, and resuming is subscribing from another number.

`append` is synchronous, so the loop that reads the model never waits for a reader or a disk.
In memory an entry is durable at once; a log that lives elsewhere makes a batch durable first
and wakes its subscribers then. Nobody is ever handed what is not durable.

A log does not grow without bound. Beyond its window the oldest entries are dropped once every
subscriber has taken them; a subscriber that is several windows behind is cut off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ragsocket.protocol.server_events import REJECTED_TYPES, TERMINAL_TYPES
from ragsocket.responses.lifecycle import Entry

LAST_TYPES = TERMINAL_TYPES | REJECTED_TYPES

LAG = 4
"""Windows by which a subscriber may be behind."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What is kept for followers that come back.

    Attributes:
        events: the window of a log, in entries.
        bytes: the window of a log, in bytes of encoded events.
        ended_s: how long a log is kept after its end.
        ended: how many such logs at most.
        ended_bytes: how many bytes of encoded events in them at most.
    """

    events: int = 4096
    bytes: int = 1024 * 1024
    ended_s: float = 60
    ended: int = 2000
    ended_bytes: int = 64 * 1024 * 1024


class EventLog:
    """The events of one response, in memory.

    Attributes:
        first: number of the oldest entry that is still there.
        bytes: size of the encoded events that are there.
        sealed: True once the terminal event, or a lone rejection, is in; nothing can follow.
    """

    def __init__(self, bounds: Bounds | None = None) -> None:
        self.first = 0
        self.bytes = 0
        self.sealed = False
        self._bounds = bounds or Bounds()
        # Where it is looked at next whether something can be dropped.
        self._look_at_events, self._look_at_bytes = self._bounds.events, self._bounds.bytes
        self._entries: list[Entry] = []
        self._subscriptions: list[Subscription] = []

    def __len__(self) -> int:
        return self.first + len(self._entries)

    @property
    def last(self) -> Entry | None:
        """The newest entry."""
        return self._entries[-1] if self._entries else None

    @property
    def followers(self) -> int:
        """How many subscriptions are open."""
        return len(self._subscriptions)

    def begin_at(self, number: int) -> None:
        """Make `number` the first of an empty log, for its followers too."""
        assert not self._entries
        self.first = number
        for subscription in self._subscriptions:
            subscription.move_to(number)

    def append(self, entries: Iterable[Entry]) -> None:
        """Add entries, in order, and wake the subscribers.

        Raises:
            ValueError: the log is sealed, or a number is not the next one.
        """
        before = number = self.first + len(self._entries)
        for entry in entries:
            if self.sealed or entry.number != number:
                raise ValueError(f"entry {entry.number} does not follow {number - 1}")
            self._entries.append(entry)
            number += 1
            self.bytes += len(entry.data)
            self.sealed = entry.type in LAST_TYPES
        for subscription in self._subscriptions:
            subscription.wake()
        if number - self.first > self._look_at_events or self.bytes > self._look_at_bytes:
            # Nobody can have taken yet what came just now, however much it is.
            self._drop_old(before)

    def read(self, start: int, limit: int) -> Sequence[Entry]:
        """Return at most `limit` entries from number `start` on."""
        start -= self.first
        return self._entries[start : start + limit] if start >= 0 else ()

    def subscribe(
        self,
        wake: Callable[[], None],
        *,
        start: int = 0,
        on_close: Callable[[Subscription], None] = lambda _: None,
        on_cut: Callable[[], None] = lambda: None,
    ) -> Subscription:
        """Follow the log.

        Args:
            wake: called, often and from inside `append`, when there may be something to take.
            start: the first number wanted.
            on_close: called once when the subscription ends.
            on_cut: called from inside `append` when it is too far behind to ever go on.
        """
        subscription = Subscription(self, wake, start, on_close, on_cut)
        self._subscriptions.append(subscription)
        return subscription

    def _leave(self, subscription: Subscription) -> None:
        self._subscriptions.remove(subscription)
        if len(self._entries) > self._bounds.events or self.bytes > self._bounds.bytes:
            self._drop_old(len(self))

    def _drop_old(self, before: int) -> None:
        """Drop entries before a number that lie beyond the window, as far as they were taken."""
        bounds = self._bounds
        taken = min((one.position for one in self._subscriptions), default=len(self))
        # Some more than need be, so that this is not done for every entry.
        most = max(self._beyond(LAG), min(self._beyond(0.75), taken - self.first))
        most = min(most, before - self.first)
        self.bytes -= sum(len(entry.data) for entry in self._entries[:most])
        del self._entries[:most]
        self.first += most
        self._look_at_events = max(bounds.events, len(self._entries) + bounds.events // 4)
        self._look_at_bytes = max(bounds.bytes, self.bytes + bounds.bytes // 4)
        for subscription in tuple(self._subscriptions):
            if subscription.position < self.first:
                subscription.on_cut()

    def _beyond(self, windows: float) -> int:
        """Return how many of the oldest entries lie beyond some windows; never the newest one."""
        size, count = self.bytes, 0
        while count < len(self._entries) - 1 and (
            len(self._entries) - count > windows * self._bounds.events
            or size > windows * self._bounds.bytes
        ):
            size -= len(self._entries[count].data)
            count += 1
        return count


class Subscription:
    """One reader's position.

    Attributes:
        wake: what the log calls when it grew.
        on_cut: what the log calls when the reader is too far behind.
        position: number of the next entry that is wanted.
        open: False once it was closed.
        delivered: number of the last entry that the reader handed on, -1 before the first.
    """

    __slots__ = ("_log", "_on_close", "delivered", "on_cut", "open", "position", "wake")

    def __init__(
        self,
        log: EventLog,
        wake: Callable[[], None],
        start: int,
        on_close: Callable[[Subscription], None],
        on_cut: Callable[[], None],
    ) -> None:
        self.wake = wake
        self.on_cut = on_cut
        self.delivered = start - 1
        self._log = log
        self.position = start
        self._on_close = on_close
        self.open = True

    @property
    def exhausted(self) -> bool:
        """True once everything was taken and nothing can follow."""
        return self._log.sealed and self.position >= len(self._log)

    def move_to(self, number: int) -> None:
        """Go on at a number; what lies before it is of no interest."""
        self.position = max(self.position, number)

    def take(self, limit: int = 256) -> Sequence[Entry]:
        """Return the next entries and move on; empty if there are none yet."""
        entries = self._log.read(self.position, limit)
        self.position += len(entries)
        return entries

    def close(self) -> None:
        """Stop following; safe to call twice."""
        if self.open:
            self.open = False
            self._log._leave(self)
            self._on_close(self)
