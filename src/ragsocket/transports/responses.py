"""`/v1/responses` over HTTP: ask for JSON or server-sent events, look up, replay, stop, forget.

The events are the very bytes that sockets get. Going away from an answer stops it at once; one
that was looked up belongs to whoever asked for it, and goes on.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from pydantic import TypeAdapter, ValidationError
from starlette.responses import Response as HttpResponse

from ragsocket.errors import RequestError
from ragsocket.protocol.client_events import ResponseCreate
from ragsocket.protocol.decode import explain
from ragsocket.protocol.errors import ErrorCode
from ragsocket.protocol.examples import examples
from ragsocket.protocol.listing import RESULTS, ItemList, as_listed
from ragsocket.protocol.resources import Feedback, Response, ResponseDeleted
from ragsocket.protocol.server_events import TERMINAL_TYPES
from ragsocket.responses.kept import Kept
from ragsocket.responses.lifecycle import Entry
from ragsocket.responses.runner import Runner
from ragsocket.responses.running import Running
from ragsocket.settings import Settings
from ragsocket.transports.listing import Included, Paging, page
from ragsocket.transports.stream import (
    Following,
    answers,
    as_json,
    described,
    read_body,
    read_model,
)

DONE = b"data: [DONE]\n\n"
STREAM = {
    "type": "boolean",
    "default": False,
    "description": "Answer as server-sent events; sockets always stream.",
}

_JSON: TypeAdapter[Any] = TypeAdapter(Any)

ResponseId = Annotated[str, Path(description="The response, `resp_…`.")]
Stream = Annotated[bool, Query(description="Answer with its events, as server-sent events.")]
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
    example = examples()["response.completed"]["response"]

    def kept(request: Request) -> Kept:
        runner: Runner = request.app.state.runner
        return Kept(runner.lineage, owner)

    @doors.post(
        "/v1/responses",
        response_class=HttpResponse,
        responses=answers("text/event-stream", Response, example=example),
        openapi_extra=described(ResponseCreate, stream=STREAM),
    )
    async def create(request: Request) -> HttpResponse:
        """Answer, as one JSON object or with `stream` as server-sent events.

        Going away stops the answer at once, unless it is asked for in the `background`: then it is
        returned as soon as it exists. An answer that fails is a resource that says so.
        """
        settings: Settings = request.app.state.settings
        runner: Runner = request.app.state.runner
        ask, stream = _ask(await read_body(request, settings.max_frame_bytes))
        run = runner.create(ask, owner=owner, grace_s=0)
        if stream:
            return _events(run, start=0)
        if ask.background:
            await run.accepted.wait()
            if run.rejection is not None:
                raise run.rejection
            return as_json(run.present())
        return WholeResponse(run, media_type="application/json")

    @doors.get(
        "/v1/responses/{response_id}",
        response_class=HttpResponse,
        responses=answers("text/event-stream", Response, example=example),
    )
    async def look_up(
        request: Request,
        response_id: ResponseId,
        *,
        stream: Stream = False,
        starting_after: StartingAfter = None,
    ) -> HttpResponse:
        """Look a response up, or with `stream` follow it from an event on.

        A snapshot stands for events that are gone: of a long answer the oldest ones, and all of
        them a minute after its end, when it is the terminal event, which holds the whole answer.
        """
        runner: Runner = request.app.state.runner
        run = runner.lineage.get(response_id, owner=owner)
        start = 0 if starting_after is None else starting_after + 1
        if not stream:
            if starting_after is not None:
                raise RequestError(
                    ErrorCode.INVALID_EVENT,
                    "starting_after: it goes with stream=true; without it there are no events.",
                    param="starting_after",
                )
            return as_json(
                run.present()
                if run is not None
                else await runner.lineage.stored(response_id, owner=owner)
            )
        if run is not None:
            return _events(run, start=min(start, len(run.log)))
        end = await runner.lineage.stored_end(response_id, owner=owner)
        body = (_line(end) if start <= end.number else b"") + DONE
        return HttpResponse(body, media_type="text/event-stream")

    @doors.post(
        "/v1/responses/{response_id}/cancel",
        response_class=HttpResponse,
        responses={200: {"model": Response}},
    )
    async def cancel(request: Request, response_id: ResponseId) -> HttpResponse:
        """Stop a response and return it as it ended; of one that has ended nothing changes."""
        runner: Runner = request.app.state.runner
        run = runner.lineage.get(response_id, owner=owner)
        if run is None:
            return as_json(await runner.lineage.stored(response_id, owner=owner))
        run.stop("cancelled")
        await run.done.wait()
        if run.rejection is not None:
            raise run.rejection
        return as_json(run.present())

    @doors.delete(
        "/v1/responses/{response_id}",
        response_class=HttpResponse,
        responses={200: {"model": ResponseDeleted}},
    )
    async def forget(request: Request, response_id: ResponseId) -> HttpResponse:
        """Forget a response: what was asked, what was answered, and what was thought of it.

        One that still runs is stopped first. What goes on from it goes on without it.
        """
        await kept(request).forget(response_id)
        return as_json(ResponseDeleted(id=response_id))

    @doors.get(
        "/v1/responses/{response_id}/input_items",
        response_class=HttpResponse,
        responses={200: {"model": ItemList}},
    )
    async def input_items(
        request: Request, response_id: ResponseId, part: Paging, include: Included
    ) -> HttpResponse:
        """List the items that were handed in with a response, not those of its history."""
        items = await kept(request).input(response_id)
        return as_json(page(as_listed(items, with_results=RESULTS in include), part))

    @doors.post(
        "/v1/responses/{response_id}/feedback",
        response_class=HttpResponse,
        responses={200: {"model": Response}},
        openapi_extra=described(Feedback),
    )
    async def rate(request: Request, response_id: ResponseId) -> HttpResponse:
        """Keep what somebody thought of an answer; it takes the place of what was kept before.

        It is shown with the response as `ragsocket.feedback`. A `rating` of null without a text
        takes it back.
        """
        feedback = await read_model(request, Feedback)
        return as_json(await kept(request).rate(response_id, feedback))

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
