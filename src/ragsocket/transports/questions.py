"""`/stream-question`: the simplest doors, for `curl` and for a browser's `EventSource`."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query, Request
from pydantic import ValidationError
from starlette.responses import Response

from ragsocket.errors import RequestError
from ragsocket.protocol.client_events import ResponseCreate, RetrievalOptions
from ragsocket.protocol.decode import explain
from ragsocket.protocol.errors import ErrorCode
from ragsocket.responses.lifecycle import Entry
from ragsocket.responses.runner import Runner
from ragsocket.responses.running import Running
from ragsocket.settings import Settings
from ragsocket.transports.stream import Following, answers

EVENT_ID = re.compile(r"(resp_[0-9a-f]{32}):([0-9]{1,9})")

# What fits an address of 64 KiB, the most that is read, with every character written out (`%F0…`).
QueryText = Annotated[
    str,
    Query(
        description="The question.",
        min_length=1,
        max_length=5_000,
        examples=["When are dogs allowed in the huts?"],
    ),
]
LastEventId = Annotated[
    str | None, Header(description="Id of the last event that was seen: go on there.")
]
TopK = Annotated[int | None, Query(ge=1, le=50, description="Passages to use.")]
Mode = Annotated[
    Literal["compact", "refine", "tree_summarize", "no_text"],
    Query(description="How the answer is made of the passages."),
]


class PlainText(Following):
    """The text of the answer and nothing else; ends abnormally if it is not whole."""

    def render_entry(self, entry: Entry) -> bytes:
        """Return the text of a delta."""
        return entry.delta.encode() if entry.delta is not None else b""

    def ends_badly(self, entry: Entry) -> bool:
        """Return True for a failure, and for an answer that somebody stopped."""
        stopped = entry.type == "response.incomplete" and self._run.lifecycle.stop is not None
        return stopped or entry.type in ("error", "response.failed")


class EventStream(Following):
    """Every event, in the form of a browser's `EventSource`."""

    def render_entry(self, entry: Entry) -> bytes:
        """Return an unnamed event whose id says where to go on."""
        if entry.type == "error":
            return b""
        return b"id: %b:%d\ndata: %b\n\n" % (self._run.id.encode(), entry.number, entry.data)

    def ends_badly(self, entry: Entry) -> bool:
        """Return True for a rejection; a failure is told by its own event."""
        return entry.type == "error"


def router(owner: str) -> APIRouter:
    """Return the doors; the runner and the settings are taken from the application's state."""
    doors = APIRouter(tags=["questions"])

    async def ask_text(
        request: Request,
        query_text: QueryText,
        similarity_top_k: TopK = None,
        response_mode: Mode = "compact",
    ) -> Response:
        """Answer in plain text, as it is written. Going away stops the answer at once."""
        run = _create(request, owner, query_text, similarity_top_k, response_mode, grace_s=0)
        return PlainText(run, media_type="text/plain")

    async def ask_events(
        request: Request,
        query_text: QueryText,
        similarity_top_k: TopK = None,
        response_mode: Mode = "compact",
        last_event_id: LastEventId = None,
    ) -> Response:
        """Answer as server-sent events. With `Last-Event-ID` go on there, never ask again."""
        settings: Settings = request.app.state.settings
        if last_event_id:
            return await _resume(request.app.state.runner, owner, last_event_id)
        run = _create(
            request,
            owner,
            query_text,
            similarity_top_k,
            response_mode,
            grace_s=settings.detach_grace_s,
        )
        return _events(run, start=0)

    for path in ("/stream-question", "/stream-question/"):
        doors.add_api_route(
            path,
            ask_text,
            methods=["GET"],
            response_class=Response,
            responses=answers("text/plain", example="At 7:40 [1]."),
            include_in_schema=path.endswith("/"),
        )
    doors.add_api_route(
        "/stream-question/events",
        ask_events,
        methods=["GET"],
        response_class=Response,
        responses={
            **answers("text/event-stream"),
            204: {"description": "Everything was sent; do not come back."},
        },
    )
    return doors


def _create(
    request: Request,
    owner: str,
    query_text: str,
    similarity_top_k: int | None,
    response_mode: Literal["compact", "refine", "tree_summarize", "no_text"],
    *,
    grace_s: float,
) -> Running:
    runner: Runner = request.app.state.runner
    try:
        ask = ResponseCreate(
            input=query_text,
            retrieval=RetrievalOptions(
                similarity_top_k=similarity_top_k, response_mode=response_mode
            ),
        )
    except ValidationError as error:
        raise explain(error) from None
    return runner.create(ask, owner=owner, grace_s=grace_s, with_results=True)


def _events(run: Running, *, start: int) -> EventStream:
    return EventStream(
        run,
        media_type="text/event-stream",
        start=start,
        heartbeat=b": still here\n\n",
    )


async def _resume(runner: Runner, owner: str, last_event_id: str) -> Response:
    """Go on after an event; 204 tells a browser's `EventSource` not to come back."""
    match = EVENT_ID.fullmatch(last_event_id)
    if match is None:
        raise RequestError(
            ErrorCode.INVALID_EVENT,
            "Last-Event-ID is not one of this server's; leave it out to ask anew.",
            param="Last-Event-ID",
        )
    response_id, start = match[1], int(match[2]) + 1
    run = runner.lineage.get(response_id, owner=owner)
    if run is not None:
        if run.log.sealed and start >= len(run.log):
            return Response(status_code=204)
        return _events(run, start=min(start, len(run.log)))
    end = await runner.lineage.stored_end(response_id, owner=owner)
    if start > end.number:
        return Response(status_code=204)
    body = b"id: %b:%d\ndata: %b\n\n" % (response_id.encode(), end.number, end.data)
    return Response(body, media_type="text/event-stream")
