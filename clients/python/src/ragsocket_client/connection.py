"""One socket over as many connections as it takes, and the answers that come through it.

Over 400 lines because a connection is told with everything that can become of it.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import json
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidMessage,
    InvalidStatus,
    InvalidURI,
    WebSocketException,
)

from ragsocket_client.answer import TERMINAL, Answer
from ragsocket_client.errors import (
    AuthExpired,
    ConnectionLost,
    Interrupted,
    RagsocketError,
)
from ragsocket_client.wire import CLOSE_CODES

OPEN_WITHIN_S = 10.0
CLOSE_WITHIN_S = 1.0
FIRST_TRIES = 4
ENDED_KEPT = 1000
"""How many answers that have ended are known by their ids: their end may be said again."""

FIRST_WAIT_S = 0.25
LONGEST_WAIT_S = 30.0
MAX_EVENT_BYTES = 64 * 1024 * 1024
FATAL = 4000
"""Close codes from here on are meant, unless the server's list says otherwise."""

NOT_AUTHENTICATED = 4401
MOST_DENIED = 2
"""So many tokens in a row that are not taken are the end."""

LOOPBACK = ("localhost", "127.0.0.1", "::1")

Token = str | Callable[[], str | Awaitable[str]] | None


@dataclass(frozen=True, slots=True)
class Connecting:
    """The first connection is being opened."""


@dataclass(frozen=True, slots=True)
class Ready:
    """Connected."""


@dataclass(frozen=True, slots=True)
class Resuming:
    """The connection was lost and is being opened again."""


@dataclass(frozen=True, slots=True)
class Offline:
    """There is no connection; the next try is at `retry_at` (seconds as of `time.time`)."""

    retry_at: float


@dataclass(frozen=True, slots=True)
class Closed:
    """There will be no connection any more.

    Attributes:
        code: what the socket was closed with; None if it never opened.
        reason: for people.
        retryable: whether a new client may have more luck.
    """

    code: int | None
    reason: str
    retryable: bool


State = Connecting | Ready | Resuming | Offline | Closed


class _NoToken(Exception):
    """The function that makes tokens raised."""

    def __init__(self, why: Exception) -> None:
        super().__init__(str(why))
        self.why = why


class Connection:
    """See the module.

    Attributes:
        state: where it stands.
    """

    def __init__(
        self,
        url: str,
        token: Token,
        heartbeat_s: float,
        tasks: asyncio.TaskGroup,
        on_state: Callable[[State], None],
    ) -> None:
        """Prepare.

        Args:
            url: of the socket.
            token: who we are, or what to call for it at every connect.
            heartbeat_s: how often the peer is pinged, and how long it may take to answer.
            tasks: owns what is sent beside the reading.
            on_state: told of every change of the state.
        """
        self.state: State = Connecting()
        self._url = url
        self._token = token
        self._heartbeat_s = heartbeat_s
        self._tasks = tasks
        self._on_state = on_state
        self._socket: ClientConnection | None = None
        self._answers: dict[str, Answer] = {}
        self._sent: set[str] = set()
        self._by_id: dict[str, Answer] = {}
        self._ended_ids: deque[str] = deque(maxlen=ENDED_KEPT)
        self._steering: dict[str, Answer] = {}
        self._hurry = asyncio.Event()
        self._changed = asyncio.Event()
        self._error: RagsocketError | None = None
        self._heard = False

    async def open(self) -> None:
        """Open the first connection.

        Raises:
            AuthExpired: the token is not taken.
            ConnectionLost: there is no server, or it does not let us in.
        """
        for tries_left in reversed(range(FIRST_TRIES)):
            try:
                self._socket = await self._connect()
                break
            except _NoToken as error:
                # There is somebody to tell it to.
                raise error.why from None
            except (OSError, TimeoutError, WebSocketException) as error:
                # Somebody is there who did not finish; anything else will be the same next time.
                broken = isinstance(error, InvalidMessage | ConnectionResetError)
                if not tries_left or not broken:
                    raise _why(error, self._url) from error
        self._become(Ready())

    async def run(self) -> None:
        """Read, and connect again, until cancelled or told never to come back."""
        waits = denied = 0
        while True:
            self._heard = False
            code: int | None = None
            try:
                if self._socket is None:
                    self._become(Resuming())
                    self._socket = await self._connect()
                    self._become(Ready())
                    self._take_up()
                code = await self._read(self._socket)
            except (OSError, TimeoutError, WebSocketException, _NoToken) as error:
                if isinstance(error, InvalidStatus) and self._is_final(error, waits):
                    self._close(_why(error, self._url))
                    return
            finally:
                self._socket = None
            denied = denied + 1 if code == NOT_AUTHENTICATED else 0 if self._heard else denied
            if code is not None and not _comes_back(code, self._token, denied):
                self._close(_closed(code, self._url), code=code)
                return
            # What brought something was no dead end, however short it lived.
            waits = 0 if self._heard else waits + 1
            await self._pause(waits)

    def begin(self, answer: Answer) -> None:
        """Ask for an answer, as soon as there is a connection."""
        if self._refuses(answer):
            return
        self._answers[answer.asked["event_id"]] = answer
        if answer.target is not None and answer.target.id is not None:
            self._steering[answer.target.id] = answer
        if self._socket is not None:
            self._again(answer)

    def follow(self, answer: Answer) -> None:
        """Follow an answer that somebody else asked for."""
        if self._refuses(answer):
            return
        assert answer.id is not None
        self._answers[answer.id] = self._by_id[answer.id] = answer
        if self._socket is not None:
            self._again(answer)

    def cancel(self, answer: Answer) -> None:
        """Stop an answer: now, or as soon as there is a connection again."""
        key = self._key(answer)
        if key not in self._answers:
            return
        if key not in self._sent:
            self._forget(answer)
            answer.drop()
        elif self._socket is not None:
            self._send_cancel(answer)

    async def leave(self) -> None:
        """Stop every answer that goes on, wait a moment for their ends, and close the socket."""
        unfinished = list(self._answers.values())
        for answer in unfinished:
            answer.stop()
        socket = self._socket
        if socket is None:
            return
        try:
            async with asyncio.timeout(CLOSE_WITHIN_S):
                for answer in unfinished:
                    await answer.wait()
        except TimeoutError:
            pass  # the server stops it when its grace is over
        await socket.close()

    async def ready_again(self, error: RagsocketError, tries: int) -> None:
        """Wait a little, longer after more tries in vain, and until there is a connection.

        Raises:
            RagsocketError: there will be none.
        """
        await asyncio.sleep(_wait(tries))
        while not isinstance(self.state, Ready):
            if isinstance(self.state, Closed):
                raise error
            self._changed.clear()
            await self._changed.wait()

    def end(self, reason: str) -> None:
        """Fail what still goes on; nothing follows."""
        self._close(ConnectionLost(reason), code=1000)

    async def _connect(self) -> ClientConnection:
        token = self._token
        if callable(token):
            try:
                made = token()
                token = await made if inspect.isawaitable(made) else made
            except Exception as error:
                # Whoever makes them cannot just now; an accident like a lost connection.
                raise _NoToken(error) from error
        host = urlsplit(self._url).hostname or ""
        return await connect(
            self._url,
            additional_headers={"Authorization": f"Bearer {token}"} if token else None,
            open_timeout=OPEN_WITHIN_S,
            ping_interval=self._heartbeat_s,
            ping_timeout=self._heartbeat_s,
            close_timeout=min(CLOSE_WITHIN_S, self._heartbeat_s),
            max_size=MAX_EVENT_BYTES,
            compression=None,
            proxy=None if host in LOOPBACK else True,
        )

    async def _read(self, socket: ClientConnection) -> int | None:
        """Hand every event to its answer; return the code that the socket was closed with."""
        try:
            while True:
                self._take(json.loads(await socket.recv()))
                self._heard = True
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd else None

    def _take(self, event: dict[str, Any]) -> None:
        kind = str(event.get("type"))
        if kind == "error":
            self._take_error(event)
        elif kind == "ragsocket:cancel.done":
            answer = self._answers.get(str(event.get("event_id")).removeprefix("cancel:"))
            if answer is not None and answer.cancel_wanted:
                self._forget(answer)
                answer.drop()
        elif kind == "response.steer.failed":
            self._take_steer_failed(event)
        elif kind.startswith("response.") and (answer := self._whose(event)) is not None:
            if not answer.take(event):  # type: ignore[arg-type]
                self._send_resume(answer)
            elif answer.ended:
                self._forget(answer)
                waiting = self._steering.get(answer.id or "")
                if waiting is not None and answer.reason != "steered":
                    self._ask_instead(waiting)

    def _whose(self, event: dict[str, Any]) -> Answer | None:
        """Return the answer that an event belongs to: it names the response, or an item of it."""
        response = event.get("response")
        if response is None:
            item = event.get("item_id") or event.get("item", {}).get("id")
            if item is None:
                return self._by_id.get(event.get("steer", {}).get("previous_response_id"))
            return self._by_id.get(f"resp_{item.split('_')[1]}")
        answer = self._by_id.get(response["id"])
        if answer is None and event["type"] == "response.created":
            answer = self._answers.get(event.get("event_id") or "")
            if answer is not None:
                self._by_id[response["id"]] = answer
            elif waiting := self._steering.get(response["previous_response_id"] or ""):
                # Somebody else's input was answered in the same place.
                self._ask_instead(waiting)
        elif answer is None and event["type"] in TERMINAL:
            answer = self._answered_long_ago(response)
        return answer

    def _answered_long_ago(self, response: dict[str, Any]) -> Answer | None:
        """Return the answer whose ask was answered when nobody heard: it gets its end alone.

        That end does not name the ask. But a conversation answers one after the other, so it is
        the first one of it that has no name yet.
        """
        its: dict[str, Any] | None = response.get("conversation")
        conversation = its["id"] if its else None
        if conversation is None or response["id"] in self._ended_ids:
            return None
        for key, answer in self._answers.items():
            if answer.id is None and key in self._sent:
                if answer.asked.get("conversation") == conversation:
                    return answer
        return None

    def _take_error(self, event: dict[str, Any]) -> None:
        about = str(event["error"].get("event_id"))
        what, _, key = about.rpartition(":")
        answer = self._answers.get(key)
        if answer is None or answer.ended or event["code"] == "resume_gap":
            return
        if event["code"] == "server_shutting_down" and not what:
            # It is asked again on the next connection.
            self._sent.discard(key)
            if answer.cancel_wanted:
                self.cancel(answer)
            return
        if answer.cancel_wanted:
            answer.drop()
        elif what and answer.last >= 0:
            # It is not there to be resumed or stopped any more.
            answer.fail(
                Interrupted(
                    "the server no longer knows this answer.",
                    reason="worker_lost",
                    response_id=answer.id,
                    text=answer.text,
                )
            )
        else:
            answer.refused(event)  # type: ignore[arg-type]
        self._forget(answer)

    def _take_steer_failed(self, event: dict[str, Any]) -> None:
        answer = self._answers.get(str(event.get("event_id")))
        if answer is None or answer.id is not None or answer.target is None:
            return
        again = event["error"]["code"] in ("too_many_pending_steers", "response_not_active")
        if again and not answer.target.ended:
            # It may have been taken before the connection was lost; the target's end will tell.
            return
        self._ask_instead(answer)

    def _ask_instead(self, answer: Answer) -> None:
        """Ask in the ordinary way what came too late to steer."""
        if answer.target is not None and answer.target.id is not None:
            self._steering.pop(answer.target.id, None)
        answer.asks_anew()
        self._again(answer)

    def _take_up(self) -> None:
        """Go on with everything that is unfinished, on a new socket."""
        for answer in list(self._answers.values()):
            answer.taken_up()
            self._again(answer)

    def _again(self, answer: Answer) -> None:
        """Ask, or go on where it stood."""
        target = answer.target
        if answer.id is not None:
            self._send_resume(answer)
        elif target is not None and target.ended:
            # Following its end once more brings what came in its place.
            self._send_resume(target, again=1)
        else:
            self._send(answer.asked)
        self._sent.add(self._key(answer))
        if answer.cancel_wanted:
            self._send_cancel(answer)

    def _send_resume(self, answer: Answer, *, again: int = 0) -> None:
        self._send(
            {
                "type": "response.resume",
                "event_id": f"resume:{self._key(answer)}",
                "response_id": answer.id,
                "starting_after": answer.last - again,
            }
        )

    def _send_cancel(self, answer: Answer) -> None:
        key = self._key(answer)
        target = {"response_id": answer.id} if answer.id else {"create_event_id": key}
        event = {"type": "response.cancel", "event_id": f"cancel:{key}", "after": answer.shown}
        self._send({**event, **target})

    def _send(self, event: dict[str, Any]) -> None:
        if self._socket is not None:
            self._tasks.create_task(self._write(self._socket, json.dumps(event)))

    async def _write(self, socket: ClientConnection, frame: str) -> None:
        try:
            await socket.send(frame)
        except ConnectionClosed:
            pass  # it is said again on the next one

    def _key(self, answer: Answer) -> str:
        return str(answer.asked.get("event_id") or answer.id)

    def _forget(self, answer: Answer) -> None:
        self._answers.pop(self._key(answer), None)
        self._sent.discard(self._key(answer))
        if answer.id is not None:
            self._by_id.pop(answer.id, None)
            self._ended_ids.append(answer.id)
        if answer.target is not None and answer.target.id is not None:
            self._steering.pop(answer.target.id, None)

    def _refuses(self, answer: Answer) -> bool:
        if self._error is not None:
            answer.fail(self._error)
        return self._error is not None

    def _become(self, state: State) -> None:
        self.state = state
        self._changed.set()
        self._on_state(state)

    def _close(self, error: RagsocketError, *, code: int | None = None) -> None:
        self._error = error
        for answer in list(self._answers.values()):
            its = copy.copy(error)
            its.response_id, its.text = answer.id, answer.text
            answer.fail(its)
        self._answers.clear()
        known = CLOSE_CODES.get(code) if code else None
        unknown = not isinstance(error, AuthExpired) and (code or 0) < FATAL
        retryable = known.retry if known else unknown
        self._become(Closed(code, error.message, retryable))

    def _is_final(self, error: InvalidStatus, waits: int) -> bool:
        """Whether a handshake that was answered by a refusal is not worth another."""
        status = error.response.status_code
        if status == 401 and callable(self._token):
            return waits > 1
        return status in (400, 401, 403, 404, 426)

    async def _pause(self, waits: int) -> None:
        wait = _wait(waits)
        self._become(Offline(time.time() + wait))
        self._hurry.clear()
        try:
            async with asyncio.timeout(wait):
                await self._hurry.wait()
        except TimeoutError:
            pass

    def hurry(self) -> None:
        """Try again now, for example because the network is back."""
        self._hurry.set()


def _wait(tries: int) -> float:
    return random.uniform(0, min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** min(tries, 20)))


def _comes_back(code: int, token: Token, denied: int) -> bool:
    if code == NOT_AUTHENTICATED:
        return callable(token) and denied < MOST_DENIED
    known = CLOSE_CODES.get(code)
    return known.retry if known else code < FATAL


def _closed(code: int, url: str) -> RagsocketError:
    known = CLOSE_CODES.get(code)
    why = known.meaning if known else "the server closed the socket"
    if code == NOT_AUTHENTICATED:
        return AuthExpired(f"{url}: {why} ({code}).", code="not_authenticated")
    return ConnectionLost(f"{url}: {why} ({code}).", close_code=code)


def _why(error: Exception, url: str) -> RagsocketError:
    if isinstance(error, InvalidStatus) and error.response.status_code in (401, 403):
        return AuthExpired(f"{url} does not let us in ({error}).", code="not_authenticated")
    if isinstance(error, InvalidHandshake):
        return ConnectionLost(f"what answers at {url} opens no socket there ({error}).")
    if isinstance(error, InvalidURI):
        return ConnectionLost(f"{url} is no address of a socket.")
    return ConnectionLost(f"nothing answers at {url} ({error or type(error).__name__}).")
