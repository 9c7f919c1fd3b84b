"""The scripted server: it knows nothing of answers, opens or refuses sockets, and sends frames."""

from __future__ import annotations

import asyncio
import json
import socket as sockets
import struct
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, cast

from aiohttp import WSMsgType, web

Event = dict[str, Any]
By = Literal["fin", "rst", "silence"]

CLOSE_WITHIN_S = 0.5


@dataclass(eq=False)
class Knock:
    """A client that wants a socket.

    Attributes:
        token: what it shows, whichever way it shows it.
        verdict: 0 lets it in; a status of HTTP refuses.
        opened: the socket, once it is let in.
    """

    token: str | None
    verdict: asyncio.Future[int]
    opened: asyncio.Future[Socket]


@dataclass(eq=False)
class Socket:
    """One open socket, with the frames that came and that no step has looked at yet.

    Attributes:
        pings: how many `ragsocket:ping` came; each is answered, until the socket falls silent.
    """

    ws: web.WebSocketResponse
    transport: asyncio.Transport
    frames: deque[Event] = field(default_factory=deque)
    pings: int = 0
    silent: bool = False
    gone: bool = False
    more: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Take what comes, until it is gone."""
        try:
            async for message in self.ws:
                if message.type is not WSMsgType.TEXT:
                    continue
                event = json.loads(message.data)
                if event.get("type") == "ragsocket:ping":
                    self.pings += 1
                    await self.send({"type": "ragsocket:pong", "event_id": event.get("event_id")})
                else:
                    self.frames.append(event)
                self.more.set()
        finally:
            self.gone = True
            self.more.set()

    async def send(self, event: Event) -> None:
        """Send an event, unless nothing goes through any more."""
        if not self.silent:
            # A client that left is found out by the next step.
            with suppress(ConnectionError):
                await self.ws.send_str(json.dumps(event))

    async def next(self) -> Event:
        """Return the next frame.

        Raises:
            ConnectionError: the client is gone.
        """
        while not self.frames:
            if self.gone:
                raise ConnectionError("the client has closed the socket")
            self.more.clear()
            await self.more.wait()
        return self.frames.popleft()

    async def until_gone(self) -> None:
        """Wait until the client has closed it."""
        while not self.gone:
            self.more.clear()
            await self.more.wait()

    async def close(self, code: int) -> None:
        """Close with a code."""
        await self.ws.close(code=code)

    def drop(self, by: By) -> None:
        """Break it without a word."""
        if by == "silence":
            # Neither side hears the other, and nothing is closed.
            self.silent = True
            self.transport.pause_reading()
        elif by == "rst":
            linger = struct.pack("ii", 1, 0)
            raw = self.transport.get_extra_info("socket")
            raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, linger)
            self.transport.abort()
        else:
            self.transport.close()


class Server:
    """Listens on a port of its own; use it as an async context manager.

    Attributes:
        url: its address.
        knocks: who wants a socket and was not let in yet.
        answers: what the next requests over HTTP are answered; conversations are made by itself.
        asked: the requests that came.
    """

    def __init__(self) -> None:
        self.url = ""
        self.knocks: deque[Knock] = deque()
        self.answers: deque[Event] = deque()
        self.asked: list[str] = []
        self._made = 0
        self._knocked = asyncio.Event()
        self._open: set[Socket] = set()

    async def __aenter__(self) -> Server:
        """Listen."""
        app = web.Application()
        app.router.add_get("/v1/responses", self._socket)
        app.router.add_route("*", "/{path:.*}", self._http)
        self._runner = web.AppRunner(app, shutdown_timeout=CLOSE_WITHIN_S)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Drop everybody, and stop."""
        self.reset()
        await self._runner.cleanup()

    def reset(self) -> None:
        """Forget the last case."""
        for knock in self.knocks:
            if not knock.verdict.done():
                knock.verdict.set_result(503)
        self.knocks.clear()
        self.answers.clear()
        self.asked.clear()
        self._made = 0
        for socket in tuple(self._open):
            socket.transport.abort()

    async def knock(self) -> Knock:
        """Wait for the next one who wants a socket."""
        while not self.knocks:
            self._knocked.clear()
            await self._knocked.wait()
        return self.knocks.popleft()

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        loop = asyncio.get_running_loop()
        offered = request.headers.get("Sec-WebSocket-Protocol", "").split(",")
        tokens = [one.strip().removeprefix("bearer.") for one in offered if ".v1" not in one]
        shown = request.headers.get("Authorization", "").removeprefix("Bearer ") or tokens[-1:]
        token = shown if isinstance(shown, str) else (shown[0] if shown and shown[0] else None)
        knock = Knock(token, loop.create_future(), loop.create_future())
        self.knocks.append(knock)
        self._knocked.set()
        status = await knock.verdict
        if status:
            return web.Response(status=status)
        ws = web.WebSocketResponse(
            protocols=("ragsocket.v1",), compress=False, timeout=CLOSE_WITHIN_S
        )
        await ws.prepare(request)
        # uvloop's is no subclass.
        socket = Socket(ws, cast("asyncio.Transport", request.transport))
        self._open.add(socket)
        knock.opened.set_result(socket)
        try:
            await socket.run()
        finally:
            self._open.discard(socket)
        return ws

    async def _http(self, request: web.Request) -> web.Response:
        self.asked.append(f"{request.method} {request.path}")
        if self.answers:
            answer = self.answers.popleft()
            after = answer.get("retry_after")
            headers = {"Retry-After": str(after)} if after is not None else {}
            detail = {"type": "error", "code": "", "message": "no.", "param": None}
            body = {"error": detail | answer.get("error", {})}
            return web.json_response(body, status=answer["status"], headers=headers)
        if request.path == "/v1/conversations":
            self._made += 1
            return web.json_response({"id": f"conv_{self._made}", "object": "conversation"})
        return web.json_response({"error": {"message": "there is no such door"}}, status=404)
