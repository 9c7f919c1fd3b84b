"""What the server says, and how it is written down.

Event types without the prefix `ragsocket:` are the standard's; a test holds every one of them
to the `openai` package's types.

Over 400 lines because all that a server says is looked up in one place.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from pydantic import BaseModel, Field

from ragsocket.errors import RequestError
from ragsocket.protocol.input_items import InputMessage
from ragsocket.protocol.resources import (
    FileCitation,
    OutputItem,
    OutputText,
    ReasoningText,
    Response,
    Wire,
)


def _absent(value: object) -> bool:
    return value is None


Optional = Field(default=None, exclude_if=_absent)


class ServerEvent(Wire):
    """Base of the numbered events of a response."""

    type: str
    stream_id: Annotated[str | None, Optional] = None
    sequence_number: int


class ResponseCreated(ServerEvent):
    """The response exists; `event_id` is the one of the ask."""

    type: Literal["response.created"] = "response.created"
    response: Response
    event_id: Annotated[str | None, Optional] = None


class ResponseQueued(ServerEvent):
    """The response waits for its lane or its conversation."""

    type: Literal["response.queued"] = "response.queued"
    response: Response


class ResponseInProgress(ServerEvent):
    """The response is being worked on."""

    type: Literal["response.in_progress"] = "response.in_progress"
    response: Response


class Terminal(ServerEvent):
    """Base of the events that end a response.

    Where one is all that comes for an ask which was answered before, `event_id` is that of the ask.
    """

    response: Response
    event_id: Annotated[str | None, Optional] = None


class ResponseCompleted(Terminal):
    """Terminal: the answer is whole."""

    type: Literal["response.completed"] = "response.completed"


class ResponseIncomplete(Terminal):
    """Terminal: the answer ends at its cut, or the model stopped early."""

    type: Literal["response.incomplete"] = "response.incomplete"


class ResponseFailed(Terminal):
    """Terminal: the answer could not be produced; the text so far is kept."""

    type: Literal["response.failed"] = "response.failed"


class OutputItemAdded(ServerEvent):
    """An item begins."""

    type: Literal["response.output_item.added"] = "response.output_item.added"
    output_index: int
    item: OutputItem


class OutputItemDone(ServerEvent):
    """An item is final."""

    type: Literal["response.output_item.done"] = "response.output_item.done"
    output_index: int
    item: OutputItem


class FileSearchInProgress(ServerEvent):
    """A search was begun."""

    type: Literal["response.file_search_call.in_progress"] = "response.file_search_call.in_progress"
    output_index: int
    item_id: str


class FileSearchSearching(ServerEvent):
    """The documents are being searched."""

    type: Literal["response.file_search_call.searching"] = "response.file_search_call.searching"
    output_index: int
    item_id: str


class FileSearchCompleted(ServerEvent):
    """The search is done."""

    type: Literal["response.file_search_call.completed"] = "response.file_search_call.completed"
    output_index: int
    item_id: str


class ContentPartAdded(ServerEvent):
    """A part of a message, or of reasoning, begins."""

    type: Literal["response.content_part.added"] = "response.content_part.added"
    item_id: str
    output_index: int
    content_index: int
    part: Annotated[OutputText | ReasoningText, Field(discriminator="type")]


class ContentPartDone(ServerEvent):
    """A part of a message, or of reasoning, is final."""

    type: Literal["response.content_part.done"] = "response.content_part.done"
    item_id: str
    output_index: int
    content_index: int
    part: Annotated[OutputText | ReasoningText, Field(discriminator="type")]


class AnnotationAdded(ServerEvent):
    """A mark of the text names a file."""

    type: Literal["response.output_text.annotation.added"] = "response.output_text.annotation.added"
    item_id: str
    output_index: int
    content_index: int
    annotation_index: int
    annotation: FileCitation


class OutputTextDone(ServerEvent):
    """The text is final; it is authoritative over the gathered deltas."""

    type: Literal["response.output_text.done"] = "response.output_text.done"
    item_id: str
    output_index: int
    content_index: int
    logprobs: tuple[()] = ()
    text: str


class ReasoningTextDone(ServerEvent):
    """What the model thought is final."""

    type: Literal["response.reasoning_text.done"] = "response.reasoning_text.done"
    item_id: str
    output_index: int
    content_index: int
    text: str


class CallArgumentsDone(ServerEvent):
    """The arguments of a function call are whole."""

    type: Literal["response.function_call_arguments.done"] = "response.function_call_arguments.done"
    item_id: str
    output_index: int
    arguments: str


class OutputTextDelta(Wire):
    """More text."""

    type: Literal["response.output_text.delta"] = "response.output_text.delta"
    stream_id: Annotated[str | None, Optional] = None
    item_id: str
    output_index: int
    content_index: int = 0
    logprobs: tuple[()] = ()
    sequence_number: int = 0
    delta: str = ""


class ReasoningTextDelta(Wire):
    """More of what the model thinks before it answers; never part of the text."""

    type: Literal["response.reasoning_text.delta"] = "response.reasoning_text.delta"
    stream_id: Annotated[str | None, Optional] = None
    item_id: str
    output_index: int
    content_index: int = 0
    sequence_number: int = 0
    delta: str = ""


class CallArgumentsDelta(Wire):
    """More of the arguments of a function call."""

    type: Literal["response.function_call_arguments.delta"] = (
        "response.function_call_arguments.delta"
    )
    stream_id: Annotated[str | None, Optional] = None
    item_id: str
    output_index: int
    sequence_number: int = 0
    delta: str = ""


Delta = OutputTextDelta | ReasoningTextDelta | CallArgumentsDelta
"""The events that come by the thousand; the two fields that change stand last."""


class Steer(Wire):
    """A steering that was accepted."""

    id: str
    previous_response_id: str


class SteerAccepted(ServerEvent):
    """The response ends here, and the input is answered in its place."""

    type: Literal["response.steer.accepted"] = "response.steer.accepted"
    steer: Steer


class SteerError(Wire):
    """Why a steering came to nothing."""

    type: Literal["invalid_request_error"] = "invalid_request_error"
    code: str
    message: str


class RefusedSteer(Wire):
    """A steering that came to nothing, with its input; `id` if it had been accepted."""

    id: Annotated[str | None, Optional] = None
    previous_response_id: str
    input: str | tuple[InputMessage, ...]


class SteerFailed(Wire):
    """The input of a steering is handed back, for nothing answers it."""

    type: Literal["response.steer.failed"] = "response.steer.failed"
    event_id: Annotated[str | None, Optional] = None
    stream_id: Annotated[str | None, Optional] = None
    sequence_number: int = 0
    error: SteerError
    steer: RefusedSteer


class Fault(Wire):
    """What was wrong, and what would be right."""

    type: Literal["invalid_request_error", "server_error", "rate_limit_error"]
    code: str
    message: str
    param: str | None = None


class ErrorDetail(Fault):
    """The nested form of an error; `event_id` is that of the event at fault."""

    event_id: str | None = None


class ErrorBody(Wire):
    """An error as the body of an HTTP answer."""

    error: Fault


class Error(Wire):
    """A fault of one client event; the socket lives on.

    `error.event_id` is the `event_id` of the event at fault. The outer fields repeat the
    inner ones, since clients of both forms exist.
    """

    type: Literal["error"] = "error"
    status: int
    code: str
    message: str
    param: str | None = None
    sequence_number: int = 0
    stream_id: Annotated[str | None, Optional] = None
    error: ErrorDetail

    @classmethod
    def of(
        cls, error: RequestError, *, event_id: str | None = None, stream_id: str | None = None
    ) -> Error:
        """Build both forms of one error.

        Args:
            error: what was wrong.
            event_id: that of the event at fault, if it had one.
            stream_id: its lane, if it named one.
        """
        kind: Literal["invalid_request_error", "server_error", "rate_limit_error"] = (
            "server_error"
            if error.status >= 500
            else "rate_limit_error"
            if error.status == 429
            else "invalid_request_error"
        )
        code, message, param = error.code, error.message, error.param
        detail = ErrorDetail(type=kind, code=code, message=message, param=param, event_id=event_id)
        return cls(
            status=error.status, code=code, message=message, param=param, stream_id=stream_id,
            error=detail,
        )  # fmt: skip


class Limits(Wire):
    """What a connection may do."""

    max_frame_bytes: int
    max_lanes: int
    max_unfinished_responses: int
    detach_grace_s: float


class Hello(Wire):
    """Greets on `/ws`; `conversation` is the default lane's."""

    type: Literal["ragsocket:hello"] = "ragsocket:hello"
    conversation: str
    limits: Limits


class CancelDone(Wire):
    """Answers a cancel that found nothing to stop."""

    type: Literal["ragsocket:cancel.done"] = "ragsocket:cancel.done"
    event_id: Annotated[str | None, Optional] = None
    response_ids: tuple[str, ...] = ()


class Pong(Wire):
    """Answers a ping."""

    type: Literal["ragsocket:pong"] = "ragsocket:pong"
    event_id: Annotated[str | None, Optional] = None


REJECTED_TYPES = frozenset({"error", "response.steer.failed"})
"""What stands alone in the log of a response that never came to be."""

TERMINAL_TYPES = frozenset({"response.completed", "response.incomplete", "response.failed"})

SERVER_EVENTS: tuple[type[Wire], ...] = (
    ResponseCreated,
    ResponseQueued,
    ResponseInProgress,
    OutputItemAdded,
    FileSearchInProgress,
    FileSearchSearching,
    FileSearchCompleted,
    ContentPartAdded,
    OutputTextDelta,
    AnnotationAdded,
    OutputTextDone,
    ReasoningTextDelta,
    ReasoningTextDone,
    CallArgumentsDelta,
    CallArgumentsDone,
    ContentPartDone,
    OutputItemDone,
    ResponseCompleted,
    ResponseIncomplete,
    ResponseFailed,
    SteerAccepted,
    SteerFailed,
    Error,
    Hello,
    CancelDone,
    Pong,
)


def encode(event: BaseModel) -> bytes:
    """Return the bytes of an event, the same for every door."""
    return event.model_dump_json().encode()


class DeltaWriter:
    """Writes the deltas of one item at the cost of one string.

    All but two fields of a delta stay the same for a whole item, so the model is encoded once
    and only the number and the text are put in. A test compares the bytes with the model's own.

    Args:
        blank: a delta of the item, number 0 and without text.
    """

    __slots__ = ("_head", "_text")

    def __init__(self, blank: Delta) -> None:
        tail = b'0,"delta":""}'
        encoded = encode(blank)
        assert encoded.endswith(tail)
        self._head = encoded[: -len(tail)]
        self._text = msgspec.json.Encoder().encode

    def write(self, sequence_number: int, delta: str) -> bytes:
        """Return the encoded event."""
        return b'%b%d,"delta":%b}' % (self._head, sequence_number, self._text(delta))
