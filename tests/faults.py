"""A TCP proxy that breaks connections, to stand between a client and a server."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Literal

Fault = Literal["fin", "rst", "half-open", "black hole"]
FAULTS: tuple[Fault, ...] = ("fin", "rst", "half-open", "black hole")
"""Closed in order; reset; the server's bytes no longer arrive; nothing arrives either way."""

_GONE = (OSError, RuntimeError, AttributeError)
"""What uvloop says of a connection that the other side has closed meanwhile."""


class FaultProxy:
    """Passes bytes on, and breaks each connection after so many of the server's, while it may.

    Attributes:
        address: `host:port` of the proxy.
        done: the faults that were made, in order.
    """

    def __init__(
        self,
        target: str,
        *,
        cuts: int = 0,
        after: Sequence[int] = (0,),
        seed: int = 0,
        faults: Sequence[Fault] = FAULTS,
    ) -> None:
        """Prepare.

        Args:
            target: `host:port` of the server.
            cuts: how many connections are broken; the later ones hold.
            after: a connection breaks after one of so many bytes of the server.
            seed: of what is random.
            faults: those to choose from.
        """
        self._target = _split(target)
        self._cuts = cuts
        self._after = after
        self._random = random.Random(seed)
        self._faults = faults
        self.address = ""
        self.done: list[Fault] = []
        self._open: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> FaultProxy:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()[:2]
        self.address = f"{host}:{port}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop, and drop what is open."""
        self._server.close()
        self.reset()
        await self._server.wait_closed()

    def reset(self) -> None:
        """Drop every connection that is open."""
        for writer in list(self._open):
            writer.transport.abort()

    def point(self, target: str) -> None:
        """Drop what is open, and pass what comes on to another server."""
        self._target = _split(target)
        self.reset()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        self._open |= {writer, back}
        budget = None
        if len(self.done) < self._cuts:
            budget = self._random.choice(self._after)
        fault = self._random.choice(self._faults)
        broken = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as tasks:
                up = tasks.create_task(_pass(reader, back, broken))
                try:
                    await self._pass_down(there, writer, budget)
                    if budget is not None and not there.at_eof():
                        await self._break(fault, reader, writer, broken)
                finally:
                    up.cancel()
        finally:
            self._open -= {writer, back}
            for end in (writer, back):
                with suppress(*_GONE):
                    end.close()

    async def _pass_down(
        self, there: asyncio.StreamReader, writer: asyncio.StreamWriter, budget: int | None
    ) -> None:
        """Pass the server's bytes on until it ends, or the budget is used up."""
        while data := await _some(there):
            if budget is not None and len(data) >= budget:
                with suppress(*_GONE):
                    writer.write(data[:budget])
                return
            budget = None if budget is None else budget - len(data)
            with suppress(*_GONE):
                writer.write(data)
                await writer.drain()

    async def _break(
        self,
        fault: Fault,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        broken: asyncio.Event,
    ) -> None:
        if len(self.done) >= self._cuts:
            # Others came first while this one was open.
            fault = "fin"
        else:
            self.done.append(fault)
        with suppress(*_GONE):
            await writer.drain()
        if fault == "rst":
            linger = struct.pack("ii", 1, 0)
            with suppress(*_GONE):
                raw = writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        elif fault in ("half-open", "black hole"):
            if fault == "black hole":
                broken.set()
            # Until the client gives up and leaves.
            while not (reader.at_eof() or writer.is_closing()):
                await asyncio.sleep(0.02)


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


async def _pass(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, broken: asyncio.Event
) -> None:
    while data := await _some(reader):
        if not broken.is_set():
            with suppress(*_GONE):
                writer.write(data)
                await writer.drain()


async def _some(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(65536)
    except OSError:
        return b""
