"""From bytes to a client event, or to an error that names the fault. Nothing else parses bytes."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ValidationError

from ragsocket.errors import RequestError
from ragsocket.protocol.client_events import (
    CLIENT_EVENT,
    CLIENT_EVENT_TYPES,
    ENVELOPE,
    TOOL_TYPES,
    AnyClientEvent,
    Envelope,
)
from ragsocket.protocol.errors import ErrorCode
from ragsocket.protocol.input_items import INPUT_TAGS
from ragsocket.protocol.resources import COMBINATIONS, COMPARISONS

_UNIONS = ("filters", "format", "response_format", "tool_choice")
_TAGS = INPUT_TAGS | {
    *TOOL_TYPES,
    *COMPARISONS,
    *COMBINATIONS,
    *("allowed_tools", "text", "json_object", "json_schema", "image_url"),
}

Whole = Literal["frame", "body"]
"""What is validated: a text frame of a socket, or what came with an HTTP request."""

_SEND: dict[Whole, str] = {
    "frame": "Send one JSON object per text frame",
    "body": "Send one JSON object as the body",
}
_NAMES: dict[Whole, str] = {"frame": "event", "body": "request"}


def decode(frame: str | bytes) -> AnyClientEvent:
    """Return the client event that a text frame holds.

    Raises:
        RequestError: the frame is not JSON, not an event, or has a field that is not right.
    """
    try:
        return CLIENT_EVENT.validate_json(frame)
    except ValidationError as error:
        raise explain(error, union_tags=CLIENT_EVENT_TYPES) from None


def envelope(frame: str | bytes) -> Envelope:
    """Return what can be read of a frame that `decode` refused."""
    try:
        return ENVELOPE.validate_json(frame)
    except ValidationError:
        return Envelope()


def explain(
    error: ValidationError, *, union_tags: tuple[str, ...] = (), what: Whole = "frame"
) -> RequestError:
    """Turn pydantic's findings into one error: the first fault, and what would be right.

    Args:
        error: what the validation found.
        union_tags: the discriminator values of the model's union; they lead the locations.
        what: what was validated.
    """
    findings = error.errors(include_url=False, include_context=False)
    # A union reports each form that did not fit; the form that fitted furthest was meant.
    same_field = [found for found in findings if found["loc"][:2] == findings[0]["loc"][:2]]
    first = max(same_field, key=lambda found: len(found["loc"]))
    kind = first["type"]
    location = _without_tags([part for part in first["loc"] if part not in union_tags])
    param = _dotted(location)
    if kind == "json_invalid":
        return RequestError(
            ErrorCode.INVALID_JSON,
            f"the {what} is not JSON: {first['msg'].removeprefix('Invalid JSON: ')[:200]}. "
            f"{_SEND[what]}.",
        )
    if kind in ("union_tag_invalid", "union_tag_not_found") and not location:
        known = ", ".join(union_tags)
        return RequestError(
            ErrorCode.UNKNOWN_EVENT_TYPE, f"the event's type must be one of: {known}.", param="type"
        )
    if kind in ("model_attributes_type", "model_type", "dict_type") and not location:
        said = "an event is a JSON object with a type" if what == "frame" else _SEND[what]
        return RequestError(ErrorCode.INVALID_EVENT, f"{said}.")
    if kind == "extra_forbidden":
        return RequestError(
            ErrorCode.INVALID_EVENT, f"{param} is not a field of this {_NAMES[what]}.", param=param
        )
    if kind == "missing":
        return RequestError(ErrorCode.INVALID_EVENT, f"{param} is missing.", param=param)
    depth = len(first["loc"])
    reason = " or ".join(dict.fromkeys(_reason(f) for f in same_field if len(f["loc"]) == depth))
    return RequestError(
        ErrorCode.INVALID_EVENT, f"{param}: {reason}." if param else f"{reason}.", param=param
    )


def _reason(finding: Any) -> str:
    if finding["type"] == "union_tag_not_found":
        return "its type is missing"
    text: str = finding["msg"].removeprefix("Value error, ").rstrip(".")
    if finding["type"] == "union_tag_invalid":
        return f"its type must be one of {text.rpartition(': ')[2]}"
    return text[0].lower() + text[1:300]


def _without_tags(location: list[int | str]) -> list[int | str]:
    """Leave out what pydantic writes for the chosen form of a union, and for a validator."""
    kept: list[int | str] = []
    before: int | str = ""
    for part in location:
        if isinstance(part, str) and not part.isidentifier():
            continue
        if not (part in _TAGS and (isinstance(before, int) or before in _UNIONS)):
            kept.append(part)
        before = part
    return kept


def _dotted(location: list[int | str]) -> str | None:
    """Write a location as people do: `input[0].content`."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part.isidentifier() and part not in ("str", "tuple"):
            path += f".{part}" if path else part
    return path or None
