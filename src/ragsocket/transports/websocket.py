"""`WS /v1/responses` and `WS /ws`: the same events, with and without a memory of their own.

One connection has one reader, which never waits for a send, and one writer, the only sender.
The writer hands out what stands in the event logs of the connection's responses, and what is
for this socket alone: errors about its events, pongs, repeated terminal events.

Over 400 lines because reader and writer share the state of one connection.
"""

from __future__ import annotations

import time
from asyncio import Event
from collections import deque
from weakref import WeakValueDictionary

import anyio
from anyio.abc import TaskGroup
from pydantic import BaseModel
from starlette.websockets import WebSocket, WebSocketDisconnect

from ragsocket.errors import RequestError
from ragsocket.protocol.client_events import Ping, ResponseCancel, ResponseCreate, ResponseResume
from ragsocket.protocol.decode import decode, envelope
from ragsocket.protocol.errors import CloseCode, ErrorCode
from ragsocket.protocol.server_events import (
    TERMINAL_TYPES,
    CancelDone,
    Error,
    Hello,
    Limits,
    Pong,
    encode,
)
from ragsocket.responses.event_log import Subscription
from ragsocket.responses.runner import Runner
from ragsocket.responses.running import Lane, Running
from ragsocket.settings import Settings
from ragsocket.transports.guard import Guard

DEFAULT_LANE = ""
CLOSE_WITHIN_S = 2.0
"""How long the closing handshake may take."""

MAX_OUTBOX = 1_000
"""Direct answers that may wait for a client that asks and does not read."""


class Connections:
    """The open sockets of the application, so that a shutdown can close them by name."""

    def __init__(self) -> None:
        self._open: set[Connection] = set()
        self._closed = anyio.Event()

    def add(self, connection: Connection) -> None:
        """Remember an open connection."""
        self._open.add(connection)

    def discard(self, connection: Connection) -> None:
        """Forget a closed one."""
        self._open.discard(connection)
        self._closed.set()

    def close_all(self, code: CloseCode) -> None:
        """Ask every connection to send what it has and close with `code`."""
        for connection in self._open:
            connection.close(code)

    async def all_closed(self) -> None:
        """Wait until none is open."""
        while self._open:
            self._closed = anyio.Event()
            await self._closed.wait()


class Connection:
    """One socket, from accept to close."""

    def __init__(
        self,
        socket: WebSocket,
        runner: Runner,
        settings: Settings,
        *,
        owner: str,
        remembers: bool,
    ) -> None:
        """Prepare a connection; nothing happens before `run`.

        Args:
            socket: the accepted socket.
            runner: makes and finds responses.
            settings: limits and times.
            owner: who is at the other end.
            remembers: True on `/ws`, where each lane keeps a conversation of its own.
        """
        self._socket = socket
        self._runner = runner
        self._settings = settings
        self._owner = owner
        self._remembers = remembers
        self._lanes: dict[str, Lane] = {}
        self._runs: dict[Running, str] = {}
        # Weak: an ask is remembered for as long as the runner keeps its log.
        self._by_event_id: WeakValueDictionary[str, Running] = WeakValueDictionary()
        self._following: dict[Running, Subscription] = {}
        self._outbox: deque[bytes] = deque()
        # Set and waited for once per token: anyio's event costs twice as much.
        self._wake = Event()
        self._close = CloseCode.NORMAL
        self._closing = False
        self._sending = anyio.CancelScope()
        self._tasks: TaskGroup | None = None
        self._malformed: deque[float] = deque()

    async def run(self) -> None:
        """Serve the socket until either side closes it."""
        if self._remembers:
            conversation = self._lane(DEFAULT_LANE).conversation
            assert conversation is not None
            self._say(Hello(conversation=conversation.id, limits=_limits(self._settings)))
        try:
            async with anyio.create_task_group() as self._tasks:
                self._tasks.start_soon(self._read_until_gone)
                with self._sending:
                    await self._write()
                if self._closing:
                    with anyio.move_on_after(CLOSE_WITHIN_S):
                        await self._socket.close(self._close)
                self._tasks.cancel_scope.cancel()
        finally:
            for subscription in self._following.values():
                subscription.close()

    def close(self, code: CloseCode, *, at_once: bool = False) -> None:
        """Close with `code`.

        Args:
            code: what the client is told.
            at_once: False sends first what can be sent; True does not wait for a reader
                that may never read.
        """
        if not self._closing:
            self._closing, self._close = True, code
        if at_once:
            self._sending.cancel()
        self._wake.set()

    async def _read_until_gone(self) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                self._sending.cancel()
                return
            frame = message.get("text")
            if frame is None:
                self._fault(
                    RequestError(
                        ErrorCode.BINARY_FRAME, "binary frames have no meaning here; send text."
                    ),
                    "",
                )
            else:
                self._take(frame)

    def _take(self, frame: str) -> None:
        """Act on one text frame, synchronously: nothing can come between it and its effect."""
        try:
            event = decode(frame)
        except RequestError as error:
            self._fault(error, frame)
            return
        try:
            if isinstance(event, ResponseCreate):
                self._create(event)
            elif isinstance(event, ResponseCancel):
                self._cancel(event)
            elif isinstance(event, ResponseResume):
                self._resume(event)
            elif isinstance(event, Ping):
                self._say(Pong(event_id=event.event_id))
        except RequestError as error:
            self._refuse(error, event.event_id, getattr(event, "stream_id", None))

    def _create(self, request: ResponseCreate) -> None:
        if request.event_id is not None:
            earlier = self._by_event_id.get(request.event_id)
            if earlier is not None:
                self._ask_again(earlier, request)
                return
        if len(self._unfinished()) >= self._settings.max_unfinished:
            raise RequestError(
                ErrorCode.TOO_MANY_RESPONSES,
                f"this connection has {self._settings.max_unfinished} unfinished responses, "
                "which is the limit; wait for one to end.",
                status=429,
            )
        run = self._runner.create(
            request,
            owner=self._owner,
            grace_s=self._settings.detach_grace_s,
            lane=self._lane(request.stream_id or DEFAULT_LANE),
            with_results=self._remembers,
        )
        self._runs[run] = request.stream_id or DEFAULT_LANE
        if request.event_id is not None:
            self._by_event_id[request.event_id] = run
        self._following[run] = run.follow(self._wake_up)

    def _ask_again(self, earlier: Running, request: ResponseCreate) -> None:
        """Take the same ask a second time as a sign of doubt, not as a second question."""
        if earlier.request != request:
            raise RequestError(
                ErrorCode.IDEMPOTENCY_CONFLICT,
                "this event_id was used for another response.create on this connection.",
                param="event_id",
                status=409,
            )
        if earlier.log.last is not None and not earlier.unfinished:
            self._direct(earlier.log.last.data)

    def _cancel(self, request: ResponseCancel) -> None:
        answered = False
        for run in self._targets(request):
            if run.unfinished:
                run.stop("cancelled", after=request.after)
                answered = True
            elif run.log.last is not None and run.log.last.type in TERMINAL_TYPES:
                self._direct(run.log.last.data)
                answered = True
        if answered:
            return
        if request.response_id is not None:
            assert self._tasks is not None
            self._tasks.start_soon(self._cancel_late, request)
        else:
            self._say(CancelDone(event_id=request.event_id))

    def _resume(self, request: ResponseResume) -> None:
        run = self._runner.get(request.response_id, owner=self._owner)
        if run is None:
            assert self._tasks is not None
            self._tasks.start_soon(self._resume_late, request)
            return
        if run.log.sealed and run.log.last is not None and _after(request) >= len(run.log):
            self._direct(run.log.last.data)
            return
        before = self._following.get(run)
        start = min(_after(request), len(run.log))
        # First, so that the response is never without a follower in between.
        self._following[run] = run.follow(self._wake_up, start=start)
        if before is not None:
            before.close()
        self._wake.set()

    async def _resume_late(self, request: ResponseResume) -> None:
        """Answer for a response whose events are gone with its terminal event."""
        try:
            end = await self._runner.stored_end(request.response_id, owner=self._owner)
        except RequestError as error:
            self._refuse(error, request.event_id, None)
            return
        if _after(request) < end.number:
            gap = RequestError(
                ErrorCode.RESUME_GAP,
                "the events that were asked for are gone; the terminal event follows, which "
                "holds the whole answer.",
                param="starting_after",
                status=410,
            )
            self._refuse(gap, request.event_id, None)
        self._direct(end.data)

    def _targets(self, request: ResponseCancel) -> list[Running]:
        if request.response_id is not None:
            named = self._runner.get(request.response_id, owner=self._owner)
            return [named] if named else []
        if request.create_event_id is not None:
            named = self._by_event_id.get(request.create_event_id)
            return [named] if named else []
        lane = request.stream_id or DEFAULT_LANE
        return [run for run in self._unfinished() if self._runs[run] == lane]

    async def _cancel_late(self, request: ResponseCancel) -> None:
        """Answer a cancel of a response that ended so long ago that only history knows it."""
        assert request.response_id is not None
        try:
            end = await self._runner.stored_end(request.response_id, owner=self._owner)
        except RequestError as error:
            self._refuse(error, request.event_id, None)
        else:
            self._direct(end.data)

    def _unfinished(self) -> list[Running]:
        """This connection's unfinished responses; the finished ones are dropped on the way."""
        self._runs = {run: lane for run, lane in self._runs.items() if run.unfinished}
        return list(self._runs)

    def _lane(self, name: str) -> Lane:
        lane = self._lanes.get(name)
        if lane is None:
            if len(self._lanes) >= self._settings.max_lanes:
                raise RequestError(
                    ErrorCode.TOO_MANY_LANES,
                    f"a connection has at most {self._settings.max_lanes} lanes; "
                    "use one that there is.",
                    param="stream_id",
                    status=429,
                )
            conversation = self._runner.new_conversation(self._owner) if self._remembers else None
            lane = self._lanes[name] = Lane(conversation)
        return lane

    def _fault(self, error: RequestError, frame: str) -> None:
        """Answer a frame that is no event, and close when there are too many of them."""
        known = envelope(frame)
        self._refuse(error, known.event_id, known.stream_id)
        now = time.monotonic()
        self._malformed.append(now)
        while self._malformed[0] < now - 60:
            self._malformed.popleft()
        if len(self._malformed) > self._settings.malformed_budget:
            self.close(CloseCode.MALFORMED)

    def _refuse(self, error: RequestError, event_id: str | None, stream_id: str | None) -> None:
        self._say(
            Error.of(
                error.code,
                error.message,
                param=error.param,
                status=error.status,
                event_id=event_id,
                stream_id=stream_id,
            )
        )

    def _say(self, event: BaseModel) -> None:
        self._direct(encode(event))

    def _direct(self, data: bytes) -> None:
        self._outbox.append(data)
        if len(self._outbox) > MAX_OUTBOX:
            self.close(CloseCode.SLOW_READER, at_once=True)
        self._wake.set()

    def _wake_up(self) -> None:
        self._wake.set()

    async def _write(self) -> None:
        """Send until told to close or the peer is gone; the only place that sends."""
        try:
            while not self._closing:
                await self._wake.wait()
                self._wake.clear()
                # A drain closes when every answer has ended, so there is an end to what is sent.
                while await self._write_round() and self._close is not CloseCode.MALFORMED:
                    pass
        except WebSocketDisconnect:
            # The peer vanished while something was sent; its answers go on for their grace.
            self._closing = False

    async def _write_round(self) -> bool:
        """Send what there is, a fair share of each response; False if there was nothing."""
        sent = False
        while self._outbox:
            await self._send(self._outbox.popleft())
            sent = True
        for run, subscription in tuple(self._following.items()):
            for entry in subscription.take(64):
                await self._send(entry.data)
                subscription.delivered = entry.number
                sent = True
            if subscription.exhausted:
                subscription.close()
                # Unless a resume has put another in its place.
                if self._following.get(run) is subscription:
                    del self._following[run]
        return sent

    async def _send(self, data: bytes) -> None:
        await self._socket.send({"type": "websocket.send", "text": data.decode()})


async def serve(
    socket: WebSocket,
    runner: Runner,
    settings: Settings,
    guard: Guard,
    connections: Connections,
    *,
    owner: str,
    remembers: bool,
) -> None:
    """Let a socket in or close it with the reason, then serve it."""
    await socket.accept()
    try:
        guard.check(socket)
    except RequestError as error:
        # Accepted first: a close before that reaches a browser as a bare 1006.
        await socket.close(CloseCode.FORBIDDEN, error.code)
        return
    connection = Connection(socket, runner, settings, owner=owner, remembers=remembers)
    connections.add(connection)
    try:
        await connection.run()
    finally:
        connections.discard(connection)


def _after(request: ResponseResume) -> int:
    """Return the first number that is wanted."""
    return 0 if request.starting_after is None else request.starting_after + 1


def _limits(settings: Settings) -> Limits:
    return Limits(
        max_frame_bytes=settings.max_frame_bytes,
        max_lanes=settings.max_lanes,
        max_unfinished_responses=settings.max_unfinished,
        detach_grace_s=settings.detach_grace_s,
    )
