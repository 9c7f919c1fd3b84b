"""The two kinds of connection that a case opens: a WebSocket, and one HTTP exchange."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import anyio
import httpx
import websockets
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

Json = Any


class Mismatch(AssertionError):
    """The server did not do what a step expects."""


@dataclass
class Message:
    """What came on a channel: an event, or the end of a server-sent stream (`[DONE]`).

    Attributes:
        value: the JSON value, or the text as it is where it is none.
        name, id: those of a server-sent event.
    """

    value: Json
    name: str | None = None
    id: str | None = None


@dataclass
class Channel:
    """One socket or one HTTP exchange, and everything that came on it.

    Attributes:
        seen: what came.
        asked: the `event_id` of each ask that was sent here.
        resumed: responses whose events were asked for again here.
        repeats: True once an ask was sent a second time, which may bring its events again.
    """

    seen: list[Message] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)
    resumed: set[str] = field(default_factory=set)
    repeats: bool = False

    async def next(self) -> Message:
        """Return the next message.

        Raises:
            Mismatch: there is none, and none will come.
        """
        raise NotImplementedError

    async def drop(self) -> None:
        """Lose the connection, as a client does that vanishes."""
        raise NotImplementedError


@dataclass
class Socket(Channel):
    """A WebSocket."""

    socket: websockets.ClientConnection = field(kw_only=True)

    async def next(self) -> Message:
        """Return the next event."""
        try:
            message = Message(json.loads(await self.socket.recv()))
        except websockets.ConnectionClosed as closed:
            raise Mismatch(f"the socket was closed: {closed}") from None
        self.seen.append(message)
        return message

    async def drop(self) -> None:
        """Lose the TCP connection without a closing handshake."""
        self.socket.transport.abort()

    async def code(self) -> int:
        """Read until the server closes, and return its code."""
        try:
            while True:
                await self.socket.recv()
        except websockets.ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd else 1006


@dataclass
class Exchange(Channel):
    """An HTTP exchange, in a task of its own so that other steps go on meanwhile."""

    began: anyio.Event = field(default_factory=anyio.Event)
    ended: anyio.Event = field(default_factory=anyio.Event)
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    response: httpx.Response | None = None
    body: bytes = b""
    whole: bool = False
    lines: tuple[MemoryObjectSendStream[Message], MemoryObjectReceiveStream[Message]] = field(
        default_factory=lambda: anyio.create_memory_object_stream[Message](10_000)
    )

    async def run(self, client: httpx.AsyncClient, request: httpx.Request) -> None:
        """Send the request and read its answer to the end."""
        with self.scope:
            try:
                self.response = await client.send(request, stream=True)
                self.began.set()
                streamed = b""
                async for chunk in self.response.aiter_raw():
                    self.body += chunk
                    if "event-stream" in self.response.headers.get("content-type", ""):
                        *blocks, streamed = (streamed + chunk).split(b"\n\n")
                        for block in blocks:
                            self._take(block.decode())
                self.whole = True
            except httpx.HTTPError:
                pass
            finally:
                self.began.set()
                self.ended.set()
                self.lines[0].close()
                if self.response is not None:
                    with anyio.CancelScope(shield=True):
                        await self.response.aclose()

    def _take(self, block: str) -> None:
        fields = dict(
            line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":")
        )
        if "data" in fields:
            try:
                value = json.loads(fields["data"])
            except ValueError:
                value = fields["data"]
            self.lines[0].send_nowait(Message(value, fields.get("event"), fields.get("id")))

    async def next(self) -> Message:
        """Return the next server-sent event."""
        try:
            message = await self.lines[1].receive()
        except anyio.EndOfStream:
            raise Mismatch(f"the stream ended; its body was {self.body[-300:]!r}") from None
        self.seen.append(message)
        return message

    async def drop(self) -> None:
        """Hang up."""
        self.scope.cancel()
        await self.ended.wait()
        self.lines[1].close()
