"""`/v1/responses` over HTTP: ask for JSON or server-sent events, look up, replay, stop.

The events are the very bytes that sockets get. Going away from an answer stops it at once; one
that was looked up belongs to whoever asked for it, and goes on.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import TypeAdapter, ValidationError
from starlette.responses import Response as HttpResponse

from ragsocket.errors import RequestError
from ragsocket.protocol.client_events import ResponseCreate
from ragsocket.protocol.decode import explain
from ragsocket.protocol.errors import ErrorCode
from ragsocket.protocol.resources import Response
from ragsocket.protocol.server_events import TERMINAL_TYPES
from ragsocket.responses.lifecycle import Entry
from ragsocket.responses.runner import Runner
from ragsocket.responses.running import Running
from ragsocket.settings import Settings
from ragsocket.transports.stream import Following, described, read_body

DONE = b"data: [DONE]\n\n"
STREAM = {
    "type": "boolean",
    "default": False,
    "description": "Answer as server-sent events; sockets always stream.",
}

_JSON: TypeAdapter[Any] = TypeAdapter(Any)

StartingAfter = Annotated[
    int | None, Query(ge=-1, description="With `stream`: the last sequence_number that was seen.")
]


class WholeResponse(Following):
    """The resource at its end, as one JSON object."""

    def render_entry(self, entry: Entry) -> bytes:
        """Return the resource that the terminal event carries."""
        if entry.type not in TERMINAL_TYPES:
            return b""
        return self._run.response.model_dump_json().encode()

    def ends_badly(self, entry: Entry) -> bool:
        """Return True for a rejection; a failure has a resource that tells of it."""
        return entry.type == "error"


class EventLines(Following):
    """Every event as a server-sent event of its name; `[DONE]` ends them."""

    def render_entry(self, entry: Entry) -> bytes:
        """Return an event."""
        return b"" if entry.type == "error" else _line(entry)

    def ends_badly(self, entry: Entry) -> bool:
        """Return True for a rejection; a failure is told by its own event."""
        return entry.type == "error"


def router(owner: str) -> APIRouter:
    """Return the doors; runner and settings are taken from the application's state."""
    doors = APIRouter(tags=["responses"])

    @doors.post(
        "/v1/responses",
        response_class=HttpResponse,
        responses={200: {"model": Response}},
        openapi_extra=described(ResponseCreate, stream=STREAM),
    )
    async def create(request: Request) -> HttpResponse:
        """Answer, as one JSON object or with `stream` as server-sent events.

        Going away stops the answer at once. An answer that fails is a resource that says so.
        """
        settings: Settings = request.app.state.settings
        runner: Runner = request.app.state.runner
        ask, stream = _ask(await read_body(request, settings.max_frame_bytes))
        run = runner.create(ask, owner=owner, grace_s=0)
        if stream:
            return _events(run, start=0)
        return WholeResponse(run, media_type="application/json")

    @doors.get(
        "/v1/responses/{response_id}",
        response_class=HttpResponse,
        responses={200: {"model": Response}},
    )
    async def look_up(
        request: Request,
        response_id: str,
        *,
        stream: bool = False,
        starting_after: StartingAfter = None,
    ) -> HttpResponse:
        """Look a response up, or with `stream` follow it from an event on.

        The events of a response are kept for a minute after its end; later `stream` gives the
        terminal event alone, which holds the whole answer.
        """
        runner: Runner = request.app.state.runner
        run = runner.get(response_id, owner=owner)
        start = 0 if starting_after is None else starting_after + 1
        if not stream:
            if starting_after is not None:
                raise RequestError(
                    ErrorCode.INVALID_EVENT,
                    "starting_after: it goes with stream=true; without it there are no events.",
                    param="starting_after",
                )
            return _resource(
                run.response if run is not None else await runner.stored(response_id, owner=owner)
            )
        if run is not None:
            return _events(run, start=min(start, len(run.log)))
        end = await runner.stored_end(response_id, owner=owner)
        body = (_line(end) if start <= end.number else b"") + DONE
        return HttpResponse(body, media_type="text/event-stream")

    @doors.post(
        "/v1/responses/{response_id}/cancel",
        response_class=HttpResponse,
        responses={200: {"model": Response}},
    )
    async def cancel(request: Request, response_id: str) -> HttpResponse:
        """Stop a response and return it as it ended; of one that has ended nothing changes."""
        runner: Runner = request.app.state.runner
        run = runner.get(response_id, owner=owner)
        if run is None:
            return _resource(await runner.stored(response_id, owner=owner))
        run.stop("cancelled")
        await run.done.wait()
        if run.rejection is not None:
            raise run.rejection
        return _resource(run.response)

    return doors


def _ask(body: bytes) -> tuple[ResponseCreate, bool]:
    """Return what is asked, and whether it is to be streamed.

    Raises:
        RequestError: it is not such a request.
    """
    try:
        fields = _JSON.validate_json(body)
        stream = fields.pop("stream", None) if isinstance(fields, dict) else None
        if stream is not None and not isinstance(stream, bool):
            raise RequestError(
                ErrorCode.INVALID_EVENT, "stream: it must be true or false.", param="stream"
            )
        return ResponseCreate.model_validate(fields), bool(stream)
    except ValidationError as error:
        raise explain(error, what="body") from None


def _events(run: Running, *, start: int) -> EventLines:
    return EventLines(
        run,
        media_type="text/event-stream",
        start=start,
        heartbeat=b": still here\n\n",
        farewell=DONE,
    )


def _line(entry: Entry) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (entry.type.encode(), entry.data)


def _resource(response: Response) -> HttpResponse:
    return HttpResponse(response.model_dump_json(), media_type="application/json")
