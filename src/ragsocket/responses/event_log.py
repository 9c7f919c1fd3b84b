"""The event log: the numbered events of one response, and the positions of those who read them.

A subscriber is a position. It holds no queue: a slow one costs no memory of its own, a second
one costs nothing but its position, and resuming is subscribing from another number.

`append` is synchronous, so the loop that reads the model never waits for a reader or a disk.
In memory an entry is durable at once; a log that lives elsewhere makes a batch durable first
and wakes its subscribers then. Nobody is ever handed what is not durable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ragsocket.protocol.server_events import TERMINAL_TYPES
from ragsocket.responses.lifecycle import Entry


class EventLog:
    """The events of one response, in memory.

    Attributes:
        sealed: True once the terminal event, or a lone `error`, is in; nothing can follow.
    """

    def __init__(self) -> None:
        self.sealed = False
        self._entries: list[Entry] = []
        self._subscriptions: list[Subscription] = []

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def last(self) -> Entry | None:
        """The newest entry."""
        return self._entries[-1] if self._entries else None

    @property
    def followers(self) -> int:
        """How many subscriptions are open."""
        return len(self._subscriptions)

    def append(self, entries: Iterable[Entry]) -> None:
        """Add entries, in order, and wake the subscribers.

        Raises:
            ValueError: the log is sealed, or a number is not the next one.
        """
        for entry in entries:
            if self.sealed or entry.number != len(self._entries):
                raise ValueError(f"entry {entry.number} does not follow {len(self._entries) - 1}")
            self._entries.append(entry)
            self.sealed = entry.type in TERMINAL_TYPES or entry.type == "error"
        for subscription in self._subscriptions:
            subscription.wake()

    def read(self, start: int, limit: int) -> Sequence[Entry]:
        """Return at most `limit` entries from number `start` on."""
        return self._entries[start : start + limit]

    def subscribe(
        self,
        wake: Callable[[], None],
        *,
        start: int = 0,
        on_close: Callable[[Subscription], None] = lambda _: None,
    ) -> Subscription:
        """Follow the log.

        Args:
            wake: called, often and from inside `append`, when there may be something to take.
            start: the first number wanted.
            on_close: called once when the subscription ends.
        """
        subscription = Subscription(self, wake, start, on_close)
        self._subscriptions.append(subscription)
        return subscription

    def _drop(self, subscription: Subscription) -> None:
        self._subscriptions.remove(subscription)


class Subscription:
    """One reader's position.

    Attributes:
        wake: what the log calls when it grew.
        delivered: number of the last entry that the reader handed on, -1 before the first.
    """

    __slots__ = ("_log", "_on_close", "_open", "_position", "delivered", "wake")

    def __init__(
        self,
        log: EventLog,
        wake: Callable[[], None],
        start: int,
        on_close: Callable[[Subscription], None],
    ) -> None:
        self.wake = wake
        self.delivered = start - 1
        self._log = log
        self._position = start
        self._on_close = on_close
        self._open = True

    @property
    def exhausted(self) -> bool:
        """True once everything was taken and nothing can follow."""
        return self._log.sealed and self._position >= len(self._log)

    def take(self, limit: int = 256) -> Sequence[Entry]:
        """Return the next entries and move on; empty if there are none yet."""
        entries = self._log.read(self._position, limit)
        self._position += len(entries)
        return entries

    def close(self) -> None:
        """Stop following; safe to call twice."""
        if self._open:
            self._open = False
            self._log._drop(self)
            self._on_close(self)
