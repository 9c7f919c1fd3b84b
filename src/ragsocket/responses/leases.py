"""Leases: which process a running response belongs to, and whether that process is still there.

Each process has one lease, a random name, and every row that it begins carries it. A row whose
end is not stored may be ended by others once its lease is gone: `worker_lost`. With a SQLite file
there is one process, so at its start all that is unfinished was left over. On Postgres a process
holds an advisory lock in the name of its lease, on a connection of its own; Postgres lets go of
it when that connection ends, and so with the process, however it died.

A lock that is not held is not yet a process that is gone: connections break and Postgres restarts,
and whoever lives takes its lock again within about a second. So a lease counts as gone once its
lock was free for `GRACE_S`.
"""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import dataclass
from typing import Protocol

import anyio
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from ragsocket.protocol.resources import OutputItem, Response
from ragsocket.responses.database import reaching

log = logging.getLogger("ragsocket.history")

GRACE_S = 5.0
"""How long a lock must be free until its holder counts as gone."""

BEAT_S = 0.5
"""Between two looks whether our own lock is held."""

LOOK_S = 2.0
"""Between two looks for rows whose holder is gone."""


@dataclass(frozen=True, slots=True)
class Left:
    """What a lost process had told of a response.

    Attributes:
        output: the items so far, as they are to be kept.
        last_number: number of the terminal event that is to be stored.
    """

    output: tuple[OutputItem, ...]
    last_number: int


class Leases(Protocol):
    """Who knows which processes live, and what the lost ones had told."""

    @property
    def look_again_s(self) -> float | None:
        """Seconds between two looks; None if one look at the start is enough."""

    async def gone(self, leases: frozenset[str]) -> frozenset[str]:
        """Return those of these leases whose process is gone for good.

        Raises:
            SQLAlchemyError: it cannot be told at the moment; nothing is ended.
        """

    async def left(self, response_id: str) -> Left | None:
        """Return what a lost process had told of a response; None if that is not known."""

    async def ended(self, response: Response, last_number: int) -> None:
        """Called once for each response that this process has ended for a lost one."""


class OneProcess:
    """The leases of a file that one process uses: whatever is unfinished at its start is lost."""

    look_again_s: float | None = None

    async def gone(self, leases: frozenset[str]) -> frozenset[str]:
        """Return all of them."""
        return leases

    async def left(self, response_id: str) -> Left | None:
        """Return nothing: its events were in the memory of the process."""
        return None

    async def ended(self, response: Response, last_number: int) -> None:
        """Nobody else is to be told."""


class AdvisoryLocks(OneProcess):
    """The leases of processes that share a Postgres, by the locks that they hold."""

    look_again_s: float | None = LOOK_S

    def __init__(self, engine: AsyncEngine, lease: str, *, timeout_s: float) -> None:
        """Begin, holding nothing.

        Args:
            engine: whose database the locks are of.
            lease: this process's.
            timeout_s: seconds that Postgres may take to answer.
        """
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._key = key_of(lease)
        self._timeout_s = timeout_s
        self._held: AsyncConnection | None = None
        self._free_since: dict[str, float] = {}

    async def take(self) -> None:
        """Take this process's lock.

        Raises:
            Away: Postgres is.
            SQLAlchemyError: it refused.
        """
        with reaching(), anyio.fail_after(self._timeout_s):
            connection = await self._engine.connect()
            try:
                # It is free, unless Postgres has not noticed yet that our last connection broke.
                await connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": self._key})
            except BaseException:
                await _drop(connection)
                raise
        self._held = connection

    async def keep(self) -> None:
        """Look that the lock is held, and take it again where it is not, until cancelled."""
        while True:
            await anyio.sleep(BEAT_S)
            try:
                if self._held is None:
                    await self.take()
                    log.warning("the lease is held again")
                    continue
                with reaching(), anyio.fail_after(self._timeout_s):
                    await self._held.execute(text("SELECT 1"))
            except SQLAlchemyError as error:
                if self._held is not None:
                    log.warning("the lease is not held any more: %s", error)
                await self.release()

    async def release(self) -> None:
        """Let go of the lock."""
        connection, self._held = self._held, None
        if connection is not None:
            await _drop(connection)

    async def gone(self, leases: frozenset[str]) -> frozenset[str]:
        """Return those whose lock has been free for long enough."""
        held: set[int] = set()
        if leases:
            with reaching(), anyio.fail_after(self._timeout_s):
                async with self._engine.connect() as connection:
                    held.update((await connection.execute(_HELD)).scalars())
        free = {lease for lease in leases if key_of(lease) not in held}
        now = time.monotonic()
        self._free_since = {lease: self._free_since.get(lease, now) for lease in free}
        return frozenset(
            lease for lease, since in self._free_since.items() if now - since >= GRACE_S
        )


_HELD = text(
    "SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks WHERE locktype = 'advisory' "
    "AND objsubid = 1 AND granted "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


def key_of(lease: str) -> int:
    """Return the number that Postgres knows a lease's lock by."""
    return int.from_bytes(hashlib.blake2b(lease.encode(), digest_size=8).digest(), signed=True)


async def _drop(connection: AsyncConnection) -> None:
    """End a connection for good: back in the pool it would take its locks along."""
    with anyio.CancelScope(shield=True), anyio.move_on_after(1):
        await connection.invalidate()
        await connection.close()
