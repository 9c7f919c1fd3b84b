"""Error codes of `error` events and close codes of sockets, with what a client should do."""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import NamedTuple


class ErrorCode(StrEnum):
    """Machine-readable codes of `error` events and of `response.ragsocket.code`."""

    INVALID_JSON = "invalid_json"
    INVALID_EVENT = "invalid_event"
    UNKNOWN_EVENT_TYPE = "unknown_event_type"
    BINARY_FRAME = "binary_frame"
    UNSUPPORTED_PARAMETER = "unsupported_parameter"
    MODEL_NOT_FOUND = "model_not_found"
    RESPONSE_NOT_FOUND = "response_not_found"
    CONVERSATION_NOT_FOUND = "conversation_not_found"
    IDEMPOTENCY_CONFLICT = "idempotency_conflict"
    TOO_MANY_LANES = "too_many_lanes"
    TOO_MANY_RESPONSES = "too_many_responses"
    INPUT_TOO_LARGE = "input_too_large"
    SERVER_SHUTTING_DOWN = "server_shutting_down"
    ORIGIN_NOT_ALLOWED = "origin_not_allowed"
    HOST_NOT_ALLOWED = "host_not_allowed"
    HISTORY_UNAVAILABLE = "history_unavailable"
    ENGINE_NOT_READY = "engine_not_ready"
    INTERNAL_ERROR = "internal_error"


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
