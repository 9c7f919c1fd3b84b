"""Writes to the history: one task, in groups, in the order in which they were asked for.

So the row written at acceptance is always in before the commit of the same response, and a burst
of endings costs one transaction. While the database is away writes wait here, each for as long as
it may; what whoever asked for it has given up meanwhile is not stored any more.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import anyio
from anyio import to_thread
from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from ragsocket.errors import StaleOwner
from ragsocket.responses.database import Away, reaching

T = TypeVar("T")

log = logging.getLogger("ragsocket.history")

TRY_AGAIN_S = 0.2
"""Between two looks whether a database that is away has come back."""


class _GivenUp(Exception):
    """Somebody has told a client that a write of this group is not stored, and it is not."""


@dataclass(slots=True)
class _Write:
    """One write that waits for its group.

    Attributes:
        until: monotonic seconds; whether it is stored is known by then.
    """

    run: Callable[[Connection], None]
    until: float
    done: anyio.Event = field(default_factory=anyio.Event)
    abandoned: bool = False
    error: Exception | None = None


class WriteQueue:
    """Takes writes at any time; `work` stores them."""

    def __init__(self, engine: AsyncEngine, writer: Engine | None, *, timeout_s: float) -> None:
        """Begin.

        Args:
            engine: where to write.
            writer: the same for a thread, or None.
            timeout_s: seconds that a write may wait for a database that is away.
        """
        self._engine = engine
        self._writer = writer
        # Its own, so that no write waits for a thread behind others' work.
        self._one_writer = anyio.CapacityLimiter(1)
        self._timeout_s = timeout_s
        self._writes: deque[_Write] = deque()
        self._wake = anyio.Event()

    def add(self, run: Callable[[Connection], None], *, whenever: bool = False) -> None:
        """Write soon; a failure goes to the log.

        Args:
            run: the statements.
            whenever: True if it may wait for a database that is away until that is back.
        """
        self._enqueue(run, math.inf if whenever else self._timeout_s)

    async def write(self, run: Callable[[Connection], T]) -> T:
        """Run statements with the next group; return what they gave once that is stored.

        They run a second time if another write of their group fails, or if the database went away
        before it said that they are stored.

        Raises:
            SQLAlchemyError: the database refused, or was away for too long.
        """
        given: list[T] = []

        def keep(connection: Connection) -> None:
            given[:] = [run(connection)]

        write = self._enqueue(keep, self._timeout_s)
        try:
            await write.done.wait()
        finally:
            # Whoever gave up has told the client that this was not stored.
            write.abandoned = True
        if write.error is not None:
            raise write.error
        return given[0]

    async def work(self) -> None:
        """Store what is added, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake = anyio.Event()
            while self._writes:
                try:
                    await self._write_group()
                except Away as error:
                    self._tell_late(error)
                    await anyio.sleep(TRY_AGAIN_S)

    def _enqueue(self, run: Callable[[Connection], None], within_s: float) -> _Write:
        write = _Write(run, time.monotonic() + within_s)
        self._writes.append(write)
        self._wake.set()
        return write

    async def _write_group(self) -> None:
        """Store all that waits.

        Raises:
            Away: the database is; what is left waits on.
        """
        group = list(self._writes)
        try:
            await self._write(group)
        except Away:
            raise
        except Exception:
            # One bad write must not take its group along, nor this task; alone, each meets
            # its own fate, and whoever waits for it is told.
            for write in group:
                try:
                    await self._write([write])
                except Away:
                    raise
                except _GivenUp:
                    log.warning("a write to the history came too late, and was undone")
                except Exception as error:
                    log.error("a write to the history failed", exc_info=error)
                    write.error = error
                self._writes.popleft().done.set()
        else:
            for _ in group:
                self._writes.popleft().done.set()

    async def _write(self, group: Sequence[_Write]) -> None:
        def run(connection: Connection) -> None:
            wanted = [write for write in group if not write.abandoned]
            for write in wanted:
                write.error = None
                try:
                    write.run(connection)
                except StaleOwner as error:
                    write.error = error
            if any(write.abandoned for write in wanted):
                # While the database was waited for; the others are written without it.
                raise _GivenUp

        def in_thread(writer: Engine) -> None:
            with writer.begin() as connection:
                run(connection)

        with reaching():
            if self._writer is not None:
                await to_thread.run_sync(in_thread, self._writer, limiter=self._one_writer)
                return
            # A SQLite file has a deadline of its own, and its thread cannot be interrupted.
            with anyio.fail_after(self._timeout_s):
                async with self._engine.begin() as connection:
                    await connection.run_sync(run)

    def _tell_late(self, error: Away) -> None:
        """Let go of what has waited for as long as it may, or is waited for by nobody."""
        now = time.monotonic()
        for write in [one for one in self._writes if one.abandoned or one.until <= now]:
            log.error("a write to the history failed, the database is away: %s", error)
            write.error = error
            write.done.set()
            self._writes.remove(write)
