"""Steering: when an answer can be steered, and what is said when it cannot."""

from __future__ import annotations

from ragsocket.errors import RequestError
from ragsocket.protocol.client_events import ResponseCreate, ResponseSteer
from ragsocket.protocol.errors import ErrorCode
from ragsocket.protocol.resources import Response
from ragsocket.protocol.server_events import SteerFailed
from ragsocket.responses.running import Running


def check(target: Running) -> None:
    """Make sure that an answer can be stopped, and gone on from where it stops.

    Raises:
        RequestError: it cannot.
    """
    if not target.unfinished:
        raise too_late(target.response)
    stop = target.lifecycle.stop
    if stop is not None and stop.reason == "steered":
        raise RequestError(
            ErrorCode.TOO_MANY_PENDING_STEERS,
            "this response was steered already; steer its successor once it is created.",
        )
    if stop is not None or target.closing or not target.had_its_turn:
        raise RequestError(
            ErrorCode.RESPONSE_NOT_ACTIVE,
            "this response is not being answered at the moment; cancel it, or ask anew.",
        )


async def ended(target: Running) -> None:
    """Wait for the end of a response that was steered.

    Raises:
        RequestError: there is nothing to go on from, for what was kept could not be stored.
    """
    await target.done.wait()
    if target.response.status == "failed":
        raise RequestError(
            ErrorCode.SUCCESSOR_CREATION_FAILED,
            "the response that was steered could not be stored; ask anew.",
        )


def too_late(response: Response) -> RequestError:
    """Return why a response that has ended cannot be steered."""
    if response.status == "completed":
        return RequestError(
            ErrorCode.RESPONSE_ALREADY_COMPLETED,
            "this response is complete; ask anew, with its id as previous_response_id.",
        )
    return RequestError(
        ErrorCode.RESPONSE_NOT_ACTIVE,
        "this response was stopped or has failed; ask anew, with its id as previous_response_id.",
    )


def failed(
    request: ResponseSteer | ResponseCreate, error: RequestError, *, steer_id: str | None = None
) -> SteerFailed:
    """Return the event that hands the input of a steering back.

    Args:
        request: the steering, or the ask that was made of it.
        error: why it came to nothing.
        steer_id: its id, if it had been accepted.
    """
    return SteerFailed.model_validate(
        {
            "event_id": request.event_id,
            "stream_id": getattr(request, "stream_id", None),
            "error": {"code": error.code, "message": error.message},
            "steer": {
                "id": steer_id,
                "previous_response_id": request.previous_response_id,
                "input": request.input,
            },
        }
    )
