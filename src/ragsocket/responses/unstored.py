"""What one connection remembers of the answers that are on no disk (`store: false`)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from ragsocket.engine.base import Turn
from ragsocket.errors import RequestError
from ragsocket.protocol.client_events import ResponseCreate
from ragsocket.protocol.errors import ErrorCode

MOST = 32
"""Answers that a connection remembers; the oldest is forgotten first."""


class Unstored:
    """The turns up to and including each of the newest answers of one connection."""

    def __init__(self) -> None:
        self._running: set[str] = set()
        self._turns: OrderedDict[str, tuple[Turn, ...]] = OrderedDict()

    def __contains__(self, response_id: str | None) -> bool:
        return response_id in self._running or response_id in self._turns

    def begin(self, response_id: str) -> None:
        """Know of an answer that is only to come."""
        self._running.add(response_id)

    def end(self, response_id: str, turns: Sequence[Turn] | None) -> None:
        """Remember an answer with all that was said before it; None for one that never began."""
        self._running.discard(response_id)
        if turns is not None:
            self._turns[response_id] = tuple(turns)
        while len(self._turns) > MOST:
            self._turns.popitem(last=False)

    def turns(self, response_id: str) -> list[Turn] | None:
        """Return what was said up to and including an answer; None if it is not known."""
        turns = self._turns.get(response_id)
        return None if turns is None else list(turns)

    def forget(self, response_id: str) -> None:
        """Forget an answer that has ended."""
        self._turns.pop(response_id, None)


def is_stored(request: ResponseCreate, unstored: Unstored | None) -> bool:
    """Return whether a response is to be stored.

    Raises:
        RequestError: what it goes on from is not, so it cannot be.
    """
    if unstored is None or request.previous_response_id not in unstored:
        return request.store is not False
    if request.store or request.background or request.conversation is not None:
        raise RequestError(
            ErrorCode.INVALID_EVENT,
            "store: the previous response is not stored, so this one cannot be, and cannot be part "
            "of a conversation or go on in the background; hand the whole conversation in.",
            param="store",
        )
    return False


def no_previous(response_id: str) -> RequestError:
    """Return the error of a response that cannot be gone on from."""
    return RequestError(
        ErrorCode.PREVIOUS_RESPONSE_NOT_FOUND,
        f"there is no response {response_id[:64]!r} to go on from here; one that is not stored is "
        "known on its own connection alone. Hand the whole conversation in.",
        param="previous_response_id",
    )
