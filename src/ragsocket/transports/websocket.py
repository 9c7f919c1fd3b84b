"""`WS /v1/responses` and `WS /ws`: the same events, with and without a memory of their own.

One connection has one reader, which never waits for a send, and one writer, the only sender.
The writer sends what the feed holds: the event logs of the responses that are followed, and what is
for this socket alone: errors about its events, pongs, repeated terminal events.

Over 400 lines because all that a client event can do is looked up in one place.
"""

from __future__ import annotations

import time
from collections import deque
from weakref import WeakValueDictionary

import anyio
from anyio.abc import TaskGroup
from starlette.websockets import WebSocket, WebSocketDisconnect

from ragsocket.errors import RequestError
from ragsocket.protocol.client_events import (
    Ping,
    ResponseCancel,
    ResponseCreate,
    ResponseResume,
    ResponseSteer,
)
from ragsocket.protocol.decode import decode, envelope
from ragsocket.protocol.errors import CloseCode, ErrorCode
from ragsocket.protocol.server_events import (
    TERMINAL_TYPES,
    CancelDone,
    Hello,
    Limits,
    Pong,
)
from ragsocket.responses import steering
from ragsocket.responses.asking import fingerprint, same_ask
from ragsocket.responses.runner import Runner
from ragsocket.responses.running import Conversation, Lane, Running
from ragsocket.responses.unstored import Unstored
from ragsocket.settings import Settings
from ragsocket.transports.feed import Feed
from ragsocket.transports.guard import Guard

DEFAULT_LANE = ""
CLOSE_WITHIN_S = 2.0
"""How long the closing handshake may take."""

SLOW_CLOSE_WITHIN_S = 10.0
"""How long with a client that has yet to read what lies in the buffers on the way."""


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
        conversation_id: str | None = None,
    ) -> None:
        """Prepare a connection; nothing happens before `run`.

        Args:
            socket: the accepted socket.
            runner: makes responses.
            settings: limits and times.
            owner: who is at the other end.
            remembers: True on `/ws`, where each lane keeps a conversation of its own.
            conversation_id: what the default lane is to take up and follow, or None.
        """
        self._socket = socket
        self._runner = runner
        self._lineage = runner.lineage
        self._settings = settings
        self._owner = owner
        self._remembers = remembers
        self._conversation_id = conversation_id
        self._followed: Conversation | None = None
        self._lanes: dict[str, Lane] = {}
        # Weak: an ask is remembered for as long as its log is kept.
        self._by_event_id: WeakValueDictionary[str, Running] = WeakValueDictionary()
        self._unstored = Unstored()
        self._feed = Feed(self._send, lambda: self.close(CloseCode.SLOW_READER, at_once=True))
        self._close = CloseCode.NORMAL
        self._closing = False
        self._sending = anyio.CancelScope()
        self._tasks: TaskGroup | None = None
        self._malformed: deque[float] = deque()

    async def run(self) -> None:
        """Serve the socket until either side closes it."""
        if self._conversation_id is not None:
            await self._take_up(self._conversation_id)
        if self._remembers:
            conversation = self._lane(DEFAULT_LANE).conversation
            assert conversation is not None
            self._feed.say(Hello(conversation=conversation.id, limits=_limits(self._settings)))
        if self._followed is not None:
            self._follow_all(self._followed)
        try:
            async with anyio.create_task_group() as self._tasks:
                self._tasks.start_soon(self._read_until_gone)
                with self._sending:
                    await self._write()
                self._unfollow()
                if self._closing:
                    slow = self._close is CloseCode.SLOW_READER
                    with anyio.move_on_after(SLOW_CLOSE_WITHIN_S if slow else CLOSE_WITHIN_S):
                        await self._socket.close(self._close)
                self._tasks.cancel_scope.cancel()
        finally:
            self._unfollow()

    def _unfollow(self) -> None:
        """Follow nothing any more, since nothing more is sent."""
        if self._followed is not None:
            self._followed.watchers.remove(self._feed.meet)
            self._followed = None
        self._feed.unfollow_all()

    async def _take_up(self, conversation_id: str) -> None:
        """Go on with a conversation in the default lane; with one that is not there, say so."""
        try:
            conversation = self._lineage.conversation(conversation_id, self._owner)
            await self._lineage.find(conversation)
        except RequestError as error:
            self._feed.refuse(error, None)
        else:
            self._followed = conversation
            self._lanes[DEFAULT_LANE] = Lane(conversation)

    def _follow_all(self, conversation: Conversation) -> None:
        """Follow what runs or waits in a conversation, as it stands, and all that comes later."""
        conversation.watchers.append(self._feed.meet)
        for run in conversation.unfinished:
            if len(run.log):
                self._feed.direct(run.lifecycle.snapshot().data)
                self._feed.follow(run, start=len(run.log))

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
        self._feed.wake()

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
        if self._sending.cancel_called:
            # Nobody could be told what came of it.
            return
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
            elif isinstance(event, ResponseSteer):
                self._steer(event)
            elif isinstance(event, ResponseResume):
                self._resume(event)
            elif isinstance(event, Ping):
                self._feed.say(Pong(event_id=event.event_id))
        except RequestError as error:
            self._feed.refuse(error, event.event_id, getattr(event, "stream_id", None))
            if isinstance(event, ResponseCreate):
                self._unstored.forget(event.previous_response_id or "")

    def _create(self, request: ResponseCreate) -> None:
        lane = self._lanes.get(request.stream_id or DEFAULT_LANE)
        run = self._asked_here(request) or self._lineage.asked_before(
            request, owner=self._owner, lane=lane
        )
        if run is None:
            run = self._ask(request)
        if request.event_id is not None:
            self._by_event_id[request.event_id] = run
        self._feed.follow(run, event_id=request.event_id)

    def _ask(self, request: ResponseCreate) -> Running:
        if len(self._unfinished()) >= self._settings.max_unfinished:
            raise RequestError(
                ErrorCode.TOO_MANY_RESPONSES,
                f"this connection has {self._settings.max_unfinished} unfinished responses, "
                "which is the limit; wait for one to end.",
                status=429,
            )
        return self._runner.create(
            request,
            owner=self._owner,
            grace_s=self._settings.detach_grace_s,
            lane=self._lane(request.stream_id or DEFAULT_LANE),
            unstored=self._unstored,
            with_results=self._remembers,
        )

    def _asked_here(self, request: ResponseCreate) -> Running | None:
        """Return the response to the same ask on this connection, of no conversation.

        The same again is a sign of doubt and not a second question. Within a conversation it is
        known on every connection.
        """
        earlier = self._by_event_id.get(request.event_id or "")
        if (
            earlier is None
            or earlier.forgotten
            or earlier.rejection is not None
            or earlier.conversation is not None
            or request.conversation_id is not None
        ):
            return None
        same_ask(fingerprint(earlier.request), request)
        return earlier

    def _cancel(self, request: ResponseCancel) -> None:
        answered = False
        for run in self._targets(request):
            if run.unfinished:
                run.stop("cancelled", after=request.after)
                answered = True
            elif self._feed.follows(run):
                # Its terminal event is on its way here, after what comes before it.
                answered = True
            elif run.log.last is not None and run.log.last.type in TERMINAL_TYPES:
                self._feed.direct(run.log.last.data)
                answered = True
        if answered:
            return
        if request.response_id is not None:
            assert self._tasks is not None
            self._tasks.start_soon(self._cancel_late, request)
        else:
            self._feed.say(CancelDone(event_id=request.event_id))

    def _resume(self, request: ResponseResume) -> None:
        run = self._lineage.get(request.response_id, owner=self._owner)
        if run is None:
            assert self._tasks is not None
            self._tasks.start_soon(self._resume_late, request)
            return
        if run.log.sealed and run.log.last is not None and _after(request) >= len(run.log):
            self._feed.direct(run.log.last.data)
            return
        self._feed.follow(run, start=_after(request), event_id=request.event_id)

    async def _resume_late(self, request: ResponseResume) -> None:
        """Answer for a response whose events are gone with its terminal event."""
        try:
            end = await self._lineage.stored_end(request.response_id, owner=self._owner)
        except RequestError as error:
            self._feed.refuse(error, request.event_id)
            return
        if _after(request) < end.number:
            self._feed.gap(request.event_id)
        self._feed.direct(end.data)

    def _steer(self, request: ResponseSteer) -> None:
        target = self._lineage.get(request.previous_response_id, owner=self._owner)
        elsewhere = target and not target.response.store and target.unstored is not self._unstored
        if target is None or elsewhere:
            assert self._tasks is not None
            self._tasks.start_soon(self._steer_late, request)
            return
        try:
            grace_s = self._settings.detach_grace_s
            successor = self._runner.steer(target, request, grace_s=grace_s)
        except RequestError as error:
            self._feed.say(steering.failed(request, error))
        else:
            self._feed.follow(successor)

    async def _steer_late(self, request: ResponseSteer) -> None:
        """Answer a steering of a response that at best history knows."""
        try:
            id = request.previous_response_id
            error = steering.too_late(await self._lineage.stored(id, owner=self._owner))
        except RequestError as refused:
            error = refused
        self._feed.say(steering.failed(request, error))

    def _targets(self, request: ResponseCancel) -> list[Running]:
        if request.response_id is not None:
            named = self._lineage.get(request.response_id, owner=self._owner)
            return [named] if named else []
        if request.create_event_id is not None:
            named = self._asked(request.create_event_id)
            return [named] if named else []
        lane = self._lanes.get(request.stream_id or DEFAULT_LANE)
        return lane.unfinished if lane else []

    def _asked(self, event_id: str) -> Running | None:
        """Return the response to an ask of this connection, or of a conversation that it holds."""
        named = self._by_event_id.get(event_id)
        for lane in self._lanes.values():
            if named is None and lane.conversation is not None:
                ask = lane.conversation.asks.get(event_id)
                named = self._lineage.get(ask.response_id, owner=self._owner) if ask else None
        return None if named is None or named.forgotten else named

    async def _cancel_late(self, request: ResponseCancel) -> None:
        """Answer a cancel of a response that ended so long ago that only history knows it."""
        assert request.response_id is not None
        try:
            end = await self._lineage.stored_end(request.response_id, owner=self._owner)
        except RequestError as error:
            self._feed.refuse(error, request.event_id)
        else:
            self._feed.direct(end.data)

    def _unfinished(self) -> list[Running]:
        """This connection's unfinished responses."""
        return [run for lane in self._lanes.values() for run in lane.unfinished]

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
            conversation = self._lineage.new_conversation(self._owner) if self._remembers else None
            lane = self._lanes[name] = Lane(conversation)
        return lane

    def _fault(self, error: RequestError, frame: str) -> None:
        """Answer a frame that is no event, and close when there are too many of them."""
        known = envelope(frame)
        self._feed.refuse(error, known.event_id, known.stream_id)
        self._unstored.forget(str(known.previous_response_id))
        now = time.monotonic()
        self._malformed.append(now)
        while self._malformed[0] < now - 60:
            self._malformed.popleft()
        if len(self._malformed) > self._settings.malformed_budget:
            self.close(CloseCode.MALFORMED)

    async def _write(self) -> None:
        """Send until told to close or the peer is gone; the only place that sends."""
        try:
            while not self._closing:
                await self._feed.something()
                # A drain closes when every answer has ended, so there is an end to what is sent.
                while await self._feed.send_round() and self._close is not CloseCode.MALFORMED:
                    pass
        except WebSocketDisconnect:
            # The peer vanished while something was sent; its answers go on for their grace.
            self._closing = False

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
    connection = Connection(
        socket,
        runner,
        settings,
        owner=owner,
        remembers=remembers,
        conversation_id=socket.query_params.get("conversation") if remembers else None,
    )
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
