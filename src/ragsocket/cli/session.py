"""The socket of `ragsocket chat`: one conversation, over as many connections as it takes.

Speaks to `/ws`, which remembers the conversation for as long as the socket lives. After a lost
connection the conversation is taken up by its name, so nothing that was stored is forgotten.
"""

from __future__ import annotations

import json
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

import anyio
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.protocol import State

from ragsocket import __version__
from ragsocket.errors import ConfigError
from ragsocket.protocol.errors import CLOSE_CODES, CloseCode, ErrorCode
from ragsocket.settings import is_loopback

OPEN_WITHIN_S = 10.0
CLOSE_WITHIN_S = 2.0
STOP_WITHIN_S = 10.0
"""How long a server may take to confirm a stop."""

MAX_EVENT_BYTES = 16 * 1024 * 1024
TERMINAL = ("response.completed", "response.incomplete", "response.failed")

ENDINGS = {
    "cancelled": "(stopped)",
    "shutdown": "(cut off: the server shuts down)",
    "worker_lost": "(cut off: the server was lost)",
    "client_lost": "(cut off: nobody was listening)",
    "max_output_tokens": "(cut off: the answer reached its limit of tokens)",
    "content_filter": "(cut off by the model's content filter)",
}

Event = dict[str, Any]


class Display(Protocol):
    """Where an answer is shown."""

    def sources(self, results: list[Event]) -> None:
        """Show the passages that the answer is made from."""

    def text(self, more: str) -> None:
        """Show more of the answer."""

    def cited(self, files: list[str]) -> None:
        """Show the files that the answer names."""

    def note(self, text: str) -> None:
        """Show what happened to the answer or the connection, beside the answer."""

    def fault(self, text: str) -> None:
        """Show what went wrong."""


class Session:
    """One conversation with a server."""

    def __init__(self, url: str, display: Display) -> None:
        """Prepare; nothing is opened before `connect`.

        Raises:
            ConfigError: the URL is not one of a socket.
        """
        self.url = socket_url(url)
        self._display = display
        self._socket: ClientConnection | None = None
        self._conversation: str | None = None
        self._take_up = False
        self._asked = 0
        self._answer: _Answer | None = None

    async def connect(self) -> None:
        """Open the socket and wait for the greeting.

        Raises:
            ConfigError: there is no ragsocket at this address; the message names the fix.
        """
        self._socket = None
        try:
            socket = await connect(
                self.url,
                open_timeout=OPEN_WITHIN_S,
                close_timeout=CLOSE_WITHIN_S,
                max_size=MAX_EVENT_BYTES,
                compression=None,
                user_agent_header=f"ragsocket/{__version__}",
                proxy=None if is_loopback(urlsplit(self.url).hostname or "") else True,
            )
        except InvalidHandshake as error:
            raise ConfigError(
                f"what answers at {self.url} opens no socket there ({error}): check the address, "
                "whose path is /ws, and any proxy in between."
            ) from error
        except (OSError, InvalidURI) as error:
            raise ConfigError(
                f"nothing answers at {self.url}: start a server with `ragsocket serve`, or name "
                "another with --url."
            ) from error
        try:
            with anyio.fail_after(OPEN_WITHIN_S):
                greeting = json.loads(await socket.recv())
        except ConnectionClosed as error:
            raise ConfigError(f"{self.url} does not let us in: {closing_words(error)}.") from error
        except (TimeoutError, ValueError) as error:
            await socket.close()
            raise ConfigError(
                f"what answers at {self.url} does not greet as a ragsocket does: check the "
                "address, whose path is /ws."
            ) from error
        if not isinstance(greeting, dict) or greeting.get("type") != "ragsocket:hello":
            await socket.close()
            raise ConfigError(f"what answers at {self.url} is no ragsocket: check the address.")
        self._socket = socket

    async def close(self) -> None:
        """Stop the answer that is being shown, and close the socket."""
        if self._answer is not None:
            await self.stop()
            self._answer.scope.cancel()
        if self._socket is not None:
            await self._socket.close()

    async def forget(self) -> None:
        """Begin a new conversation, which is a new socket."""
        await self.close()
        self._conversation, self._take_up, self._socket = None, False, None

    async def ask(self, question: str) -> bool:
        """Ask, show the answer as it comes, and return whether there is one.

        A stopped answer counts as one. A lost connection is told, and opened again first.
        """
        with anyio.CancelScope() as scope:
            answer = self._answer = _Answer(self._display, scope)
            try:
                socket = await self._connected()
                ended = await self._exchange(socket, answer, question)
                if answer.gone and self._take_up:
                    self._display.note("(the server no longer has this conversation: a new one)")
                    self._conversation, self._take_up = None, False
                    ended = await self._exchange(socket, answer, question)
                return ended
            except ConfigError as error:
                self._display.fault(str(error))
            except ConnectionClosed as closed:
                answer.finish_line()
                self._display.fault(f"The connection was lost: {closing_words(closed)}.")
                self._lost()
            finally:
                self._answer = None
        if scope.cancelled_caught:
            # Stopped before anything was asked, or the stop was not confirmed in time.
            self._display.note("(stopped)" if not answer.sent else "(stopped, not confirmed)")
            if answer.sent:
                await self.close()
                self._lost()
            return True
        return False

    async def stop(self) -> None:
        """Stop the answer that is being shown; a second time, wait for it no longer."""
        answer, socket = self._answer, self._socket
        if answer is None:
            return
        if answer.stopped or not answer.sent or socket is None:
            answer.scope.cancel()
            return
        answer.stopped = True
        answer.scope.deadline = anyio.current_time() + STOP_WITHIN_S
        target = (
            {"response_id": answer.response_id}
            if answer.response_id
            else {"create_event_id": answer.event_id}
        )
        try:
            await socket.send(
                json.dumps({"type": "response.cancel", "after": answer.shown, **target})
            )
        except ConnectionClosed:
            pass  # `ask` reads from the same socket, and tells

    async def _connected(self) -> ClientConnection:
        if self._socket is not None and self._socket.state is not State.OPEN:
            why = closing_words(self._socket.protocol.close_exc)
            self._display.note(f"(the connection was lost: {why}; connecting again)")
            self._lost()
        if self._socket is None:
            await self.connect()
        assert self._socket is not None
        return self._socket

    def _lost(self) -> None:
        self._socket = None
        self._take_up = self._conversation is not None

    async def _exchange(self, socket: ClientConnection, answer: _Answer, question: str) -> bool:
        self._asked += 1
        answer.begin(f"ask_{self._asked}")
        ask: Event = {"type": "response.create", "event_id": answer.event_id, "input": question}
        if self._take_up:
            ask["conversation"] = self._conversation
        answer.sent = True
        await socket.send(json.dumps(ask))
        while answer.ended is None:
            answer.take(json.loads(await socket.recv()))
        if answer.conversation is not None:
            self._conversation = answer.conversation
        return answer.ended


class _Answer:
    """One answer as it comes in.

    Attributes:
        scope: holds everything that is awaited for it.
        sent: False until the question was sent.
        shown: number of the last event that was taken while the answer was shown.
        stopped: True once a stop was asked for; no delta is shown from then on.
        ended: None while it goes on, then whether there is an answer.
        gone: True if the server does not know the conversation.
    """

    def __init__(self, display: Display, scope: anyio.CancelScope) -> None:
        self._display = display
        self.scope = scope
        self.sent = False
        self.stopped = False
        self.conversation: str | None = None
        self.begin("")

    def begin(self, event_id: str) -> None:
        """Start anew, under the `event_id` of the ask."""
        self.event_id = event_id
        self.response_id: str | None = None
        self.shown = -1
        self.ended: bool | None = None
        self.gone = False
        self._text = ""

    def take(self, event: Event) -> None:
        """Act on one server event."""
        kind = event["type"]
        if kind == "error":
            self._take_error(event)
        elif kind in TERMINAL:
            if event["response"]["id"] == self.response_id or self.response_id is None:
                self._take_end(kind, event["response"])
        elif kind == "response.created":
            self.response_id = event["response"]["id"]
        if self.stopped or "sequence_number" not in event:
            return
        if kind == "response.output_text.delta":
            self._show(event["delta"])
        elif kind == "response.output_item.done" and event["item"]["type"] == "file_search_call":
            self._display.sources(event["item"].get("results") or [])
        self.shown = event["sequence_number"]

    def finish_line(self) -> None:
        """End the line of an answer that breaks off."""
        if self._text and not self._text.endswith("\n"):
            self._display.text("\n")

    def _show(self, more: str) -> None:
        self._text += more
        self._display.text(more)

    def _take_error(self, event: Event) -> None:
        error = event["error"]
        about = error.get("event_id")
        if about not in (None, self.event_id):
            return
        self.ended = False
        self.gone = error["code"] == ErrorCode.CONVERSATION_NOT_FOUND
        if not self.gone:
            self.finish_line()
            self._display.fault(f"Refused: {error['message']}")

    def _take_end(self, kind: str, response: Event) -> None:
        said = [item for item in response["output"] if item["type"] == "message"]
        parts = [part for item in said for part in item["content"]]
        # The resource is authoritative: the stop may have come after the end of the answer.
        whole = "".join(part["text"] for part in parts)
        if whole.startswith(self._text):
            self._show(whole[len(self._text) :])
        self.finish_line()
        files = [mark["filename"] for part in parts for mark in part.get("annotations", ())]
        if files:
            self._display.cited(list(dict.fromkeys(files)))
        facts = response.get("ragsocket") or {}
        if kind == "response.failed":
            error = response.get("error") or {}
            reference = f" ({facts['reference']})" if facts.get("reference") else ""
            self._display.fault(f"The answer failed: {error.get('message')}{reference}")
        elif kind == "response.incomplete":
            self._display.note(ENDINGS.get(str(facts.get("reason")), "(cut off)"))
        self.conversation = (response.get("conversation") or {}).get("id")
        self.ended = kind != "response.failed"


def socket_url(url: str) -> str:
    """Return the address of a server's socket, also when its page was named instead.

    Raises:
        ConfigError: it is something else.
    """
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    if scheme not in ("ws", "wss") or not parts.hostname:
        raise ConfigError(
            f"--url {url!r} is not the address of a socket: write it as ws://127.0.0.1:8000/ws."
        )
    return urlunsplit((scheme, parts.netloc, parts.path.rstrip("/") or "/ws", parts.query, ""))


def closing_words(closed: BaseException | None) -> str:
    """Return in plain words why a socket was closed."""
    frame = closed.rcvd if isinstance(closed, ConnectionClosed) else None
    if frame is None:
        return "it broke off without a word"
    if frame.code == CloseCode.FORBIDDEN:
        return (
            "the server does not go by this host name; its operator can add it to "
            f"RAGSOCKET_ALLOWED_HOSTS ({frame.code})"
        )
    known = CLOSE_CODES.get(frame.code)  # type: ignore[call-overload]
    words = known.meaning if known else frame.reason or "the server closed it"
    return f"{words} ({frame.code})"
