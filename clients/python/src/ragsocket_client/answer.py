"""One answer as it comes in, whatever becomes of the connection meanwhile."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Unpack, cast

from ragsocket_client import errors
from ragsocket_client.wire import (
    AskFields,
    Error,
    FileCitation,
    OutputText,
    Response,
    SearchResult,
    ServerEvent,
    Usage,
)

if TYPE_CHECKING:
    from ragsocket_client.client import Conversation
    from ragsocket_client.connection import Connection

TERMINAL = ("response.completed", "response.incomplete", "response.failed")


RESULTS = "file_search_call.results"
LOST = "worker_lost"
"""The server died and kept nothing of the answer; what there is of it is what came here."""

Status = Literal["queued", "in_progress", "completed", "incomplete", "cancelled", "failed"]


class Answer:
    """An answer. Iterate it for events, `texts()` for pieces of text, `await` it for all of it.

    Leaving the loop, the `async with` block or the `await` before the end stops the answer, at
    the model too. A lost connection does not: it is opened again, and the answer goes on after
    the last event that came.

    Attributes:
        id: the response's id; None until the server has taken the question.
        text: the answer so far, and at the end exactly what history keeps.
        sources: the passages that it is made from; `[n]` in the text is the n-th.
        citations: the marks in the text.
        response: the whole resource, once it has ended.
        conversation: the conversation that it belongs to; None if it was resumed by its id.
        target: the answer that it was steered from, if it was.
    """

    def __init__(
        self,
        connection: Connection,
        ask: dict[str, Any],
        conversation: Conversation | None = None,
        *,
        id: str | None = None,
        seen: int = -1,
        target: Answer | None = None,
    ) -> None:
        """Prepare; the connection does the rest.

        Args:
            connection: the way to the server.
            ask: the client event that asks; empty for an answer that somebody else asked for.
            conversation: what it belongs to.
            id: the response, if it is known.
            seen: number of the last event that need not be handed out.
            target: the answer that it takes the place of, if it steers.
        """
        self.id = id
        self.text = ""
        self.sources: list[SearchResult] = []
        self.citations: list[FileCitation] = []
        self.response: Response | None = None
        self.conversation = conversation
        self.target = target
        self._connection = connection
        self._ask = ask
        self._next = 0
        self._missing = -1
        self._seen = seen
        self._shown = seen
        self._events: deque[ServerEvent] = deque()
        self._more = asyncio.Event()
        self._cancelled = False
        self._error: errors.RagsocketError | None = None
        self._ended = asyncio.Event()

    @property
    def status(self) -> Status:
        """Where it stands."""
        if self.response is not None:
            return self.response["status"]
        if self._error is not None:
            return "failed"
        if self._ended.is_set():
            return "cancelled"
        return "in_progress" if self._next > 1 else "queued"

    @property
    def reason(self) -> str | None:
        """Why it ended: `completed`, `cancelled`, `steered`, `max_output_tokens` and so on."""
        return self.response["ragsocket"]["reason"] if self.response else None

    @property
    def usage(self) -> Usage | None:
        """Token counts, once it has ended."""
        return self.response["usage"] if self.response else None

    @property
    def timings(self) -> dict[str, float | None]:
        """Milliseconds of search, to the first text, and in all, once it has ended."""
        if self.response is None:
            return {}
        facts = self.response["ragsocket"]
        return {
            "retrieval_ms": facts["retrieval_ms"],
            "ttft_ms": facts["ttft_ms"],
            "total_ms": facts["total_ms"],
        }

    def __aiter__(self) -> AsyncGenerator[ServerEvent]:
        """Return the events; ending the iteration early stops the answer."""
        return self._iterate()

    async def texts(self) -> AsyncGenerator[str]:
        """Yield the text as it comes; leaving stops the answer.

        What the end of the answer adds to the pieces comes as a last one.

        Raises:
            RagsocketError: why there is no whole answer.
        """
        told = ""
        events = self._iterate()
        try:
            async for event in events:
                if event["type"] == "response.output_text.delta":
                    told += event["delta"]
                    yield event["delta"]
                elif event["type"] in TERMINAL or _is_snapshot(event):
                    # It holds all of the text, and may hold more than was told.
                    whole = _text_of(cast("Response", event["response"]))  # type: ignore[typeddict-item]
                    if whole.startswith(told) and (rest := whole[len(told) :]):
                        told = whole
                        yield rest
        finally:
            await events.aclose()

    def __await__(self) -> Generator[Any, None, str]:
        """Wait for the end, and return the text."""
        return self._whole().__await__()

    async def __aenter__(self) -> Answer:
        """Begin a block that stops the answer when it is left."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the answer if it goes on."""
        self.stop()

    def stop(self) -> None:
        """Ask for the end, unless it is there; `cancel` waits for it, too."""
        if not self._ended.is_set() and not self._cancelled:
            self._cancelled = True
            # Nothing is handed out any more, so that what was is what history keeps.
            self._events.clear()
            self._connection.cancel(self)

    async def cancel(self) -> None:
        """Stop the answer, and wait until the server has said where it ended."""
        self.stop()
        await self._ended.wait()

    def steer(self, input: str | list[Any]) -> Answer:
        """Stop this answer and return the one to `input`, which comes at once in its place.

        Raises:
            RagsocketError: this answer belongs to no conversation of this client.
        """
        if self.conversation is None:
            raise errors.Refused("an answer that was resumed by its id cannot be steered.")
        return self.conversation.steer(self, input)

    def regenerate(self, **fields: Unpack[AskFields]) -> Answer:
        """Ask the same question again, in the place of this answer."""
        return self._instead(self._ask["input"], fields)

    def edit(self, input: str | list[Any], **fields: Unpack[AskFields]) -> Answer:
        """Ask something else in the place of this answer's question."""
        return self._instead(input, fields)

    def _instead(self, input: Any, fields: AskFields) -> Answer:
        if self.conversation is None or self.response is None:
            raise errors.Refused("only an answer of a conversation that has ended can be replaced.")
        before = self.response["previous_response_id"]
        if before is None:
            fields.setdefault("from_start", True)
        else:
            fields.setdefault("previous_response_id", before)
        return self.conversation.ask(input, **fields)

    async def _whole(self) -> str:
        async for _ in self._iterate():
            pass
        return self.text

    async def _iterate(self) -> AsyncGenerator[ServerEvent]:
        try:
            while True:
                while self._events:
                    event = self._events.popleft()
                    self._shown = _number(event)
                    yield event
                if self._ended.is_set():
                    break
                self._more.clear()
                await self._more.wait()
        finally:
            self.stop()
        if self._error is not None:
            raise self._error

    # What follows is for the connection.

    @property
    def asked(self) -> dict[str, Any]:
        """The event that asks."""
        return self._ask

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self._ended.is_set()

    @property
    def cancel_wanted(self) -> bool:
        """Whether it is to stop."""
        return self._cancelled

    @property
    def shown(self) -> int:
        """Number of the last event that was handed out."""
        return self._shown

    @property
    def last(self) -> int:
        """Number of the last event that came."""
        return self._next - 1

    def taken_up(self) -> None:
        """Follow it on a new connection, on which everything after the last event comes."""
        self._missing = -1

    def asks_anew(self) -> None:
        """Ask in the ordinary way, since there is nothing to steer any more."""
        self.target = None
        self._ask["type"] = "response.create"
        del self._ask["previous_response_id"]
        self._ask["include"] = [RESULTS]
        if self.conversation is not None:
            self._ask |= self.conversation.place

    def take(self, event: ServerEvent) -> bool:
        """Take a numbered event; False if one before it is missing."""
        number = _number(event)
        kind = event["type"]
        terminal = kind in TERMINAL
        if number < self._next or self._ended.is_set():
            return True
        if number > self._next and not terminal and not _is_snapshot(event):
            # Asked for once; what comes meanwhile says the same.
            noticed, self._missing = self._missing, self._next
            return noticed == self._next
        self._next = number + 1
        self._note(event)
        if number > self._seen and not (self._cancelled and not terminal):
            self._events.append(event)
        if terminal:
            self._end()
        self._more.set()
        return True

    def fail(self, error: errors.RagsocketError) -> None:
        """End with an error."""
        if not self._ended.is_set():
            self._error = error
            self._end()

    def drop(self) -> None:
        """End without an answer: it was stopped before the server had the question."""
        self._end()

    def refused(self, event: Error) -> None:
        """End with what an `error` event says."""
        self.fail(errors.from_event(event, response_id=self.id, text=self.text))

    async def wait(self) -> None:
        """Wait for the end."""
        await self._ended.wait()

    def _note(self, event: ServerEvent) -> None:
        if event["type"] == "response.output_text.delta":
            self.text += event["delta"]
        elif event["type"] == "response.output_text.annotation.added":
            self.citations.append(event["annotation"])
        elif event["type"] == "response.output_item.done":
            if event["item"]["type"] == "file_search_call":
                self.sources = event["item"]["results"] or []
        elif "response" in event:
            response = cast("Response", event["response"])  # type: ignore[typeddict-item]
            self.id = response["id"]
            if event["type"] in TERMINAL:
                self.response = response
                if response["ragsocket"]["reason"] != LOST:
                    self._read(response)
                self._error = errors.from_end(response, self.text)
            elif _is_snapshot(event):
                self._read(response)

    def _read(self, response: Response) -> None:
        """Take what a whole resource says over what was gathered."""
        self.text = _text_of(response)
        self.citations = [mark for part in _parts(response) for mark in part["annotations"]]
        for item in response["output"]:
            if item["type"] == "file_search_call" and item["results"] is not None:
                self.sources = item["results"]

    def _end(self) -> None:
        self._ended.set()
        self._more.set()


def _parts(response: Response) -> list[OutputText]:
    return [
        part for item in response["output"] if item["type"] == "message" for part in item["content"]
    ]


def _text_of(response: Response) -> str:
    return "".join(part["text"] for part in _parts(response))


def _number(event: ServerEvent) -> int:
    number = event.get("sequence_number")
    return number if isinstance(number, int) else -1


def _is_snapshot(event: ServerEvent) -> bool:
    response: Any = event.get("response")
    return response is not None and bool(response["ragsocket"].get("snapshot"))
