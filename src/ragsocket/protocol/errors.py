"""Error codes of `error` events and close codes of sockets, with what a client should do."""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import NamedTuple

from ragsocket.errors import RequestError


class ErrorCode(StrEnum):
    """Codes of `error` events: one client event, or one request, could not be carried out."""

    INVALID_JSON = "invalid_json"
    INVALID_EVENT = "invalid_event"
    UNKNOWN_EVENT_TYPE = "unknown_event_type"
    BINARY_FRAME = "binary_frame"
    UNSUPPORTED_PARAMETER = "unsupported_parameter"
    MODEL_NOT_FOUND = "model_not_found"
    RESPONSE_NOT_FOUND = "response_not_found"
    PREVIOUS_RESPONSE_NOT_FOUND = "previous_response_not_found"
    CONVERSATION_NOT_FOUND = "conversation_not_found"
    ITEM_NOT_FOUND = "item_not_found"
    ITEM_ELSEWHERE = "item_elsewhere"
    FUNCTION_CALL_NOT_FOUND = "function_call_not_found"
    FILE_NOT_FOUND = "file_not_found"
    VECTOR_STORE_NOT_FOUND = "vector_store_not_found"
    FILE_BATCH_NOT_FOUND = "file_batch_not_found"
    UNSUPPORTED_FILE = "unsupported_file"
    FOLDER_READ_ONLY = "folder_read_only"
    QUOTA_EXCEEDED = "quota_exceeded"
    TOO_MANY_FILES = "too_many_files"
    IDEMPOTENCY_CONFLICT = "idempotency_conflict"
    RESUME_GAP = "resume_gap"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    BODY_TOO_LARGE = "body_too_large"
    TOO_MANY_LANES = "too_many_lanes"
    TOO_MANY_RESPONSES = "too_many_responses"
    SERVER_SHUTTING_DOWN = "server_shutting_down"
    ORIGIN_NOT_ALLOWED = "origin_not_allowed"
    HOST_NOT_ALLOWED = "host_not_allowed"
    INPUT_TOO_LARGE = "input_too_large"
    HISTORY_UNAVAILABLE = "history_unavailable"
    ENGINE_NOT_READY = "engine_not_ready"
    INTERNAL_ERROR = "internal_error"
    RESPONSE_ALREADY_COMPLETED = "response_already_completed"
    RESPONSE_NOT_ACTIVE = "response_not_active"
    TOO_MANY_PENDING_STEERS = "too_many_pending_steers"
    SUCCESSOR_CREATION_FAILED = "successor_creation_failed"


class Fact(NamedTuple):
    """What a code means to whoever receives it.

    Attributes:
        meaning: what was wrong.
        retry: True if the same request may work later.
    """

    meaning: str
    retry: bool


EVENT_ERRORS: dict[str, Fact] = {
    ErrorCode.INVALID_JSON: Fact("the frame is not one JSON value", False),
    ErrorCode.INVALID_EVENT: Fact("a field is missing, unknown or wrong; `param` names it", False),
    ErrorCode.UNKNOWN_EVENT_TYPE: Fact("there is no client event of that type", False),
    ErrorCode.BINARY_FRAME: Fact("events are text frames", False),
    ErrorCode.UNSUPPORTED_PARAMETER: Fact("a field of the standard that is not honoured", False),
    ErrorCode.MODEL_NOT_FOUND: Fact("there is no such model here; the message lists them", False),
    ErrorCode.RESPONSE_NOT_FOUND: Fact("there is no such response", False),
    ErrorCode.PREVIOUS_RESPONSE_NOT_FOUND: Fact(
        "there is no such response to go on from; one that is not stored is known on its own "
        "connection alone. Hand the whole conversation in",
        False,
    ),
    ErrorCode.CONVERSATION_NOT_FOUND: Fact("there is no such conversation", False),
    ErrorCode.ITEM_NOT_FOUND: Fact("there is no such item where it was looked for", False),
    ErrorCode.ITEM_ELSEWHERE: Fact(
        "the item came before the conversation, which can only read it", False
    ),
    ErrorCode.FILE_NOT_FOUND: Fact("there is no such file, or not in that vector store", False),
    ErrorCode.VECTOR_STORE_NOT_FOUND: Fact("there is no such vector store", False),
    ErrorCode.FILE_BATCH_NOT_FOUND: Fact("there is no such file batch in that store", False),
    ErrorCode.UNSUPPORTED_FILE: Fact("the file is of a kind that is not read", False),
    ErrorCode.FOLDER_READ_ONLY: Fact("the folder of documents changes by itself alone", False),
    ErrorCode.QUOTA_EXCEEDED: Fact("the files or vector stores are as many as may be", False),
    ErrorCode.TOO_MANY_FILES: Fact("too many files are in progress; wait for some", True),
    ErrorCode.IDEMPOTENCY_CONFLICT: Fact("the `event_id` was used for another ask", False),
    ErrorCode.RESUME_GAP: Fact(
        "the events asked for are gone; what follows stands for all of them: a snapshot, or the "
        "terminal event, which holds the whole answer",
        False,
    ),
    ErrorCode.NOT_FOUND: Fact("there is nothing at that path", False),
    ErrorCode.METHOD_NOT_ALLOWED: Fact("the path is not for that method", False),
    ErrorCode.BODY_TOO_LARGE: Fact("the body of the request is over the limit", False),
    ErrorCode.TOO_MANY_LANES: Fact("the connection has as many lanes as it may", False),
    ErrorCode.TOO_MANY_RESPONSES: Fact("too many unfinished responses; wait for one", True),
    ErrorCode.SERVER_SHUTTING_DOWN: Fact("the server restarts; connect again", True),
    ErrorCode.ORIGIN_NOT_ALLOWED: Fact("pages of that origin may not connect", False),
    ErrorCode.HOST_NOT_ALLOWED: Fact("the server does not go by that host name", False),
    ErrorCode.HISTORY_UNAVAILABLE: Fact("the history cannot be read or written", True),
    ErrorCode.ENGINE_NOT_READY: Fact("the server is still starting; see `/readyz`", True),
    ErrorCode.INTERNAL_ERROR: Fact("a fault of the server; the log knows the reference", True),
}
"""Codes that an `error` event can carry."""

STEER_ERRORS: dict[str, Fact] = {
    ErrorCode.RESPONSE_NOT_FOUND: Fact("there is no such response", False),
    ErrorCode.RESPONSE_ALREADY_COMPLETED: Fact("the answer was whole before; ask anew", False),
    ErrorCode.RESPONSE_NOT_ACTIVE: Fact(
        "the answer has not begun, is being stored, or was stopped before", False
    ),
    ErrorCode.TOO_MANY_PENDING_STEERS: Fact(
        "the answer was steered already and is about to end; steer its successor", True
    ),
    ErrorCode.SUCCESSOR_CREATION_FAILED: Fact(
        "the server restarts, or the stopped answer could not be stored", True
    ),
    ErrorCode.HISTORY_UNAVAILABLE: Fact("the history cannot be read", True),
}
"""Codes that `response.steer.failed` can carry; the input comes back with each."""

FAILURES: dict[str, Fact] = {
    ErrorCode.INPUT_TOO_LARGE: Fact(
        "the question alone, or with `truncation` disabled all of it, is over the prompt budget",
        False,
    ),
    ErrorCode.PREVIOUS_RESPONSE_NOT_FOUND: Fact(
        "the response to go on from was forgotten while this one waited", False
    ),
    ErrorCode.FUNCTION_CALL_NOT_FOUND: Fact("no call asked for a function's output", False),
    ErrorCode.ENGINE_NOT_READY: Fact("the server is still starting; see `/readyz`", True),
    ErrorCode.HISTORY_UNAVAILABLE: Fact(
        "the answer could not be stored, or history not read", True
    ),
    ErrorCode.INTERNAL_ERROR: Fact("a fault of the server; the log knows the reference", True),
    ErrorCode.UNSUPPORTED_PARAMETER: Fact(
        "it asks for what the model or the index here cannot do", False
    ),
    ErrorCode.VECTOR_STORE_NOT_FOUND: Fact("there is no such vector store", False),
    "embedding_unavailable": Fact("the embeddings server could not be used", True),
    "upstream_unauthorized": Fact("the model's server refused this server's key", False),
    "upstream_model_not_found": Fact("the model's server does not know the model", False),
    "upstream_rate_limited": Fact("the model's server is asked too often", True),
    "upstream_rejected": Fact("the model's server rejected the request", False),
    "upstream_unavailable": Fact("the model's server cannot be reached or is failing", True),
    "upstream_timeout": Fact("the model's server was silent for too long", True),
    "upstream_interrupted": Fact("the model's answer broke off", True),
    "upstream_garbage": Fact("the model's server sent what cannot be read", False),
    "upstream_failed": Fact("the model failed while it answered", True),
}
"""Codes that `response.ragsocket.code` of a failed response can carry."""


class Close(NamedTuple):
    """One close code: what it means, and what a client should do about it."""

    meaning: str
    retry: bool
    resume: bool


class CloseCode(IntEnum):
    """Close codes that this server sends."""

    NORMAL = 1000
    PROTOCOL_ERROR = 1002
    INVALID_UTF8 = 1007
    TOO_BIG = 1009
    INTERNAL = 1011
    RESTART = 1012
    MALFORMED = 4400
    FORBIDDEN = 4403
    SLOW_READER = 4460


CLOSE_CODES: dict[CloseCode, Close] = {
    CloseCode.NORMAL: Close("the client closed the socket", retry=False, resume=True),
    CloseCode.PROTOCOL_ERROR: Close("the WebSocket protocol was broken", retry=False, resume=True),
    CloseCode.INVALID_UTF8: Close("a text frame was not UTF-8", retry=False, resume=True),
    CloseCode.TOO_BIG: Close("a frame was larger than the limit", retry=False, resume=True),
    CloseCode.INTERNAL: Close("a fault of this server, or a peer that stopped answering pings",
                              retry=True, resume=True),
    CloseCode.RESTART: Close("the server restarts", retry=True, resume=True),
    CloseCode.MALFORMED: Close("too many malformed frames within a minute",
                               retry=False, resume=False),
    CloseCode.FORBIDDEN: Close("the page's origin or the host name is not allowed",
                               retry=False, resume=False),
    CloseCode.SLOW_READER: Close("the client read too slowly", retry=True, resume=True),
}  # fmt: skip


def not_supported(field: str, reason: str) -> RequestError:
    """Return the refusal of a field without which the answer would be another."""
    return RequestError(
        ErrorCode.UNSUPPORTED_PARAMETER,
        f"{field} is not supported: {reason}. Leave it out.",
        param=field,
    )
