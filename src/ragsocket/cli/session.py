"""The conversation of `ragsocket chat`, over the Python client: ask, show, stop.

The client opens a lost connection again by itself and goes on after the last event that came; what
is left to do here is to tell the person at the keys.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from math import inf
from typing import Any, Protocol

import anyio

from ragsocket.errors import ConfigError
from ragsocket.protocol.errors import ErrorCode
from ragsocket_client import (
    Answer,
    AuthExpired,
    Client,
    Closed,
    ConnectionLost,
    Interrupted,
    RagsocketError,
    Ready,
    Refused,
    connect,
)
from ragsocket_client.wire import SearchResult, ServerEvent

STOP_WITHIN_S = 10.0
"""How long a server may take to confirm a stop."""

BACK_WITHIN_S = 60.0
"""How long a question waits for a lost server."""

ENDINGS = {
    "cancelled": "(stopped)",
    "steered": "(somebody asked something else in its place)",
    "max_output_tokens": "(cut off: the answer reached its limit of tokens)",
    "content_filter": "(cut off by the model's content filter)",
}
FIX = (
    "Start a server with `ragsocket serve`, or name another one, as ws://127.0.0.1:8000, with --url"
)
FAILED = "The answer failed"
_HAPPENED = {
    Refused: "Refused",
    Interrupted: "The answer was cut off",
    ConnectionLost: "The connection was lost",
    AuthExpired: "The connection was lost",
}


class Display(Protocol):
    """Where an answer is shown."""

    def sources(self, results: list[SearchResult]) -> None:
        """Show the passages that the answer is made from."""

    def text(self, more: str) -> None:
        """Show more of the answer."""

    def cited(self, files: list[str]) -> None:
        """Show the files that the answer names."""

    def note(self, text: str) -> None:
        """Show what happened to the answer or the connection, beside the answer."""

    def fault(self, text: str) -> None:
        """Show what went wrong."""


@asynccontextmanager
async def opened(
    url: str, display: Display, conversation: str | None = None
) -> AsyncIterator[Session]:
    """Open a connection for as long as the block lasts; leaving it stops the answer.

    Args:
        url: of the server; with the path of its socket, or without.
        display: where answers are shown.
        conversation: the one to go on with; a new one if it is None.

    Raises:
        ConfigError: there is no ragsocket at this address; the message names the fix.
    """
    try:
        client = connect(url)
    except ValueError as error:
        raise ConfigError(f"--url: {error}") from error
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(client)
            # Whoever opens a socket need not be a ragsocket.
            models = (await client.http("GET", "/v1/models"))["data"]
        except (RagsocketError, KeyError, TypeError) as error:
            raise ConfigError(f"{_no_ragsocket(url, error)} {FIX}") from error
        yield Session(client, display, conversation, url=url, model=str(models[0]["id"]))


class Session:
    """One conversation with a server after the other.

    Attributes:
        url: of the server.
        model: what answers.
    """

    def __init__(
        self,
        client: Client,
        display: Display,
        conversation: str | None,
        *,
        url: str,
        model: str,
    ) -> None:
        """Use `opened`."""
        self.url = url
        self.model = model
        self._client = client
        self._display = display
        self._conversation = client.conversation(conversation)
        self._exchange: _Exchange | None = None

    @property
    def conversation(self) -> str | None:
        """The id of the conversation; None before its first question."""
        return self._conversation.id

    @property
    def closed(self) -> bool:
        """Whether the server will take no question any more."""
        return isinstance(self._client.state, Closed)

    def forget(self) -> None:
        """Begin a new conversation."""
        self._conversation = self._client.conversation()

    async def ask(self, question: str) -> bool:
        """Ask, show the answer as it comes, and return whether there is one.

        A stopped answer counts as one; one that was cut off otherwise does not.
        """
        error = await self._asked(question)
        if error is not None and error.code == ErrorCode.CONVERSATION_NOT_FOUND:
            self._display.note("(the server no longer has this conversation: a new one)")
            self.forget()
            error = await self._asked(question)
        if error is not None:
            self._display.fault(f"{_HAPPENED.get(type(error), FAILED)}: {error.message}")
        return error is None

    def stop(self) -> None:
        """Stop the answer that is being shown; a second time, wait for it no longer."""
        if self._exchange is not None:
            self._exchange.stop()

    async def _asked(self, question: str) -> RagsocketError | None:
        exchange = _Exchange(self._conversation.ask(question), self._display)
        self._exchange = exchange
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._tell_of_the_connection, exchange)
                error = await exchange.show()
                tasks.cancel_scope.cancel()
        finally:
            self._exchange = None
        return error

    async def _tell_of_the_connection(self, exchange: _Exchange) -> None:
        async for state in self._client.states():
            if isinstance(state, Ready):
                exchange.back()
            elif not isinstance(state, Closed):
                exchange.lost()


class _Exchange:
    """One answer, as it is shown."""

    def __init__(self, answer: Answer, display: Display) -> None:
        self._answer = answer
        self._display = display
        self._scope = anyio.CancelScope()
        self._stopped = False
        self._lost = False
        self._text = ""
        self._in_line = False

    async def show(self) -> RagsocketError | None:
        """Show it to its end, and return why there is no whole answer."""
        try:
            with self._scope:
                await self._follow()
        except RagsocketError as error:
            return error
        if self._scope.cancelled_caught and not self._stopped:
            return ConnectionLost(f"nothing has answered for {BACK_WITHIN_S:.0f} seconds.")
        if self._scope.cancelled_caught:
            self.note("(stopped, not confirmed)")
        elif self._answer.response is None:
            self.note("(stopped)")
        return None

    def stop(self) -> None:
        """Stop the answer; a second time, or when nobody is there, wait for it no longer."""
        if self._stopped or self._lost:
            self._scope.cancel()
        self._stopped = True
        self._answer.stop()
        self._scope.deadline = anyio.current_time() + STOP_WITHIN_S

    def lost(self) -> None:
        """Tell that there is no connection, and give it a while to come back."""
        if not self._lost:
            self._lost = True
            self.note("(the connection was lost: trying again; Ctrl-C gives up)")
            self._scope.deadline = min(self._scope.deadline, anyio.current_time() + BACK_WITHIN_S)

    def back(self) -> None:
        """Tell that there is a connection again."""
        if self._lost:
            self._lost = False
            self.note("(connected again)")
            if not self._stopped:
                self._scope.deadline = inf

    def note(self, text: str) -> None:
        """Show a line beside the answer."""
        self._finish_line()
        self._display.note(text)

    async def _follow(self) -> None:
        try:
            async for event in self._answer:
                self._take(event)
        finally:
            # The end is authoritative: it may know of more than came here.
            whole = self._answer.text
            if self._answer.response is not None and whole.startswith(self._text):
                self._show(whole[len(self._text) :])
            self._finish_line()
        files = [mark["filename"] for mark in self._answer.citations]
        if files:
            self._display.cited(list(dict.fromkeys(files)))
        if ending := ENDINGS.get(self._answer.reason or ""):
            self._display.note(ending)

    def _take(self, event: ServerEvent) -> None:
        if event["type"] == "response.output_text.delta":
            self._show(event["delta"])
        elif event["type"] == "response.output_item.done":
            if event["item"]["type"] == "file_search_call":
                self._display.sources(self._answer.sources)

    def _show(self, more: str) -> None:
        if more:
            self._text += more
            self._display.text(more)
            self._in_line = not more.endswith("\n")

    def _finish_line(self) -> None:
        if self._in_line:
            self._display.text("\n")
            self._in_line = False


def _no_ragsocket(url: str, error: Any) -> str:
    if isinstance(error, RagsocketError):
        return error.message if error.message.endswith(".") else f"{error.message}."
    return f"what answers at {url} is no ragsocket."
