"""Who may run: lanes and conversations let one response through at a time, in order.

A response enters every turnstile it needs in one synchronous step, when it is created. So the
order of any two responses is the same in every turnstile that they share, and no two can wait
for each other.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, Protocol, TypeVar


class Passenger(Protocol):
    """What goes through a turnstile."""

    def come_forward(self) -> None:
        """Called when the one before has left."""


P = TypeVar("P", bound=Passenger)


class Turnstile(Generic[P]):
    """A first-in first-out queue whose head may run."""

    def __init__(self) -> None:
        self._queue: deque[P] = deque()

    @property
    def queue(self) -> tuple[P, ...]:
        """Who is in it, the running one first."""
        return tuple(self._queue)

    def enter(self, passenger: P, *, behind: P | None = None) -> None:
        """Join the queue: at its end, or right behind one that is in it."""
        if behind is None:
            self._queue.append(passenger)
        else:
            self._queue.insert(self._queue.index(behind) + 1, passenger)

    def open_for(self, passenger: P) -> bool:
        """Return True if nobody is before this one."""
        return self._queue[0] is passenger

    def leave(self, passenger: P) -> None:
        """Leave, from whatever place, and let the next one come forward."""
        self._queue.remove(passenger)
        if self._queue:
            self._queue[0].come_forward()
