"""What the HTTP doors share: reading a bounded body, and following one event log.

The body is written by the response object itself and not by a generator, so that a client that
goes away ends the following at once, wherever it stands.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, TypeVar

import anyio
from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from ragsocket.errors import RequestError
from ragsocket.protocol.decode import explain
from ragsocket.protocol.errors import ErrorCode
from ragsocket.protocol.server_events import Error, ErrorBody, Fault
from ragsocket.responses.lifecycle import Entry
from ragsocket.responses.running import Running
from ragsocket.settings import Settings

M = TypeVar("M", bound=BaseModel)

HEARTBEAT_S = 15.0
"""A stream that is silent for longer is cut by common proxies."""

FAILURE_STATUS = {
    "upstream_rate_limited": 429,
    "upstream_timeout": 504,
    ErrorCode.VECTOR_STORE_NOT_FOUND: 404,
    ErrorCode.INPUT_TOO_LARGE: 400,
    ErrorCode.UNSUPPORTED_PARAMETER: 400,
    ErrorCode.FUNCTION_CALL_NOT_FOUND: 400,
    ErrorCode.ENGINE_NOT_READY: 503,
    ErrorCode.HISTORY_UNAVAILABLE: 503,
    ErrorCode.INTERNAL_ERROR: 500,
}
"""HTTP status of a failure before the first byte; 502 for every other fault of the model."""


def _errors(description: str, status: int, code: str, message: str) -> dict[str, Any]:
    example = _error_body(RequestError(code, message, status=status)).model_dump()
    content = {"application/json": {"example": example}}
    return {"model": ErrorBody, "description": description, "content": content}


def _error_body(error: RequestError) -> ErrorBody:
    said = Error.of(error).error
    return ErrorBody(error=Fault(**said.model_dump(exclude={"event_id"})))


ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": _errors(
        "The request cannot be carried out as it is; `code` and `param` say why.",
        400,
        ErrorCode.INVALID_EVENT,
        "temprature is not a field of this request.",
    ),
    "5XX": _errors(
        "The server, or the model's, cannot do it now.",
        502,
        "upstream_unavailable",
        "The model's server cannot be reached or is failing.",
    ),
}
"""What every door answers with beside its own, for FastAPI's `responses`."""


def answers(
    kind: str, model: type[BaseModel] | None = None, *, example: object = None
) -> dict[int | str, dict[str, Any]]:
    """Return the description of what a door answers with when all goes well, for FastAPI.

    Args:
        kind: media type of its stream.
        model: what it answers with where no stream is asked for; None if it always streams.
        example: such an answer, or if there is no model an example of the stream.
    """
    # An event stream has no schema of its own: each tool reads its events into other shapes.
    shown = {} if example is None else {"example": example}
    if model is None:
        return {200: {"description": "The answer, as it is written.", "content": {kind: shown}}}
    description = "The answer as one JSON object or, with `stream`, as its events."
    content = {"application/json": shown, kind: {}}
    return {200: {"model": model, "description": description, "content": content}}


def error_response(error: RequestError, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return the HTTP form of an error: the same words as the `error` event."""
    body = _error_body(error).model_dump()
    return JSONResponse(body, status_code=error.status, headers=headers)


def as_json(resource: BaseModel) -> Response:
    """Return a resource as the whole of an answer."""
    return Response(resource.model_dump_json(), media_type="application/json")


def described(body: type[BaseModel], **fields: dict[str, Any]) -> dict[str, Any]:
    """Return what a door that reads its own body adds to its description, for FastAPI.

    Definitions are written out where they are used: those of a schema that stands inside
    another document would be looked for at that document's root.

    Args:
        body: the model.
        fields: schemas of those that mean something else at this door than in the model.
    """
    schema = body.model_json_schema()
    definitions = schema.pop("$defs", {})

    def written_out(part: Any) -> Any:
        if isinstance(part, list):
            return [written_out(one) for one in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            named = definitions[part["$ref"].rpartition("/")[2]]
            return written_out({**named, **{k: v for k, v in part.items() if k != "$ref"}})
        # Its mapping names definitions, and is no more than a hint.
        return {k: written_out(v) for k, v in part.items() if k != "discriminator"}

    schema["properties"] |= fields
    content = {"application/json": {"schema": written_out(schema)}}
    return {"requestBody": {"required": True, "content": content}}


async def read_body(request: Request, most_bytes: int) -> bytes:
    """Return the body of a request, which is read no further than the limit.

    Raises:
        RequestError: it is longer.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most_bytes:
            raise RequestError(
                ErrorCode.BODY_TOO_LARGE,
                f"the body is larger than {most_bytes} bytes, which is the limit.",
                status=413,
            )
    return bytes(body)


async def read_model(request: Request, model: type[M], *, empty: bytes = b"") -> M:
    """Return what the body of a request says.

    Args:
        request: whose body is read.
        model: what it should be.
        empty: what an empty body stands for.

    Raises:
        RequestError: it is too long, or not what it should be; the message names the field.
    """
    settings: Settings = request.app.state.settings
    body = await read_body(request, settings.max_frame_bytes)
    try:
        return model.model_validate_json(body or empty)
    except ValidationError as error:
        raise explain(error, what="body") from None


class Following(Response, ABC):
    """A streaming answer that forwards one response's event log until its end.

    The headers wait for the first thing to send, so that what fails before is an HTTP error.
    """

    def __init__(
        self,
        run: Running,
        *,
        media_type: str,
        start: int = 0,
        heartbeat: bytes | None = None,
        farewell: bytes = b"",
    ) -> None:
        """Subscribe now, so that the response is never without its first follower.

        Args:
            run: the response to follow.
            media_type: of the body.
            start: first sequence_number wanted; a snapshot stands for what is gone by then.
            heartbeat: sent after every `HEARTBEAT_S` without an event, or None.
            farewell: sent after the last event.
        """
        headers = {"Cache-Control": "no-store"}
        super().__init__(media_type=media_type, headers=headers)
        del self.headers["content-length"]
        self._wake = anyio.Event()
        self._heartbeat = heartbeat
        self._farewell = farewell
        self._run = run
        self._began = False
        self._scope = anyio.CancelScope()
        self._instead, start = run.catch_up(start)
        self._subscription = run.follow(self._wake_up, start=start, on_cut=self._scope.cancel)

    @abstractmethod
    def render_entry(self, entry: Entry) -> bytes:
        """Return what the client is sent for an entry; empty for nothing."""

    @abstractmethod
    def ends_badly(self, entry: Entry) -> bool:
        """Return True for an entry after which the client must not think it has it all."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward until the log or the client ends."""
        refusal: RequestError | None = None
        try:
            async with anyio.create_task_group() as tasks:

                async def until_gone() -> None:
                    while (await receive())["type"] != "http.disconnect":
                        pass
                    tasks.cancel_scope.cancel()

                tasks.start_soon(until_gone)
                # Cancelled for a client that is too slow; the answer ends abnormally then.
                with self._scope:
                    refusal = await self._forward(send)
                tasks.cancel_scope.cancel()
        finally:
            self._subscription.close()
        if refusal is not None:
            await error_response(refusal)(scope, receive, send)

    async def _forward(self, send: Send) -> RequestError | None:
        """Send the log; returns what to refuse with if it ended badly before the first byte."""
        if self._instead is not None:
            await self._begin(send)
            first = self.render_entry(self._instead)
            await send({"type": "http.response.body", "body": first, "more_body": True})
        while not self._subscription.exhausted:
            entries = self._subscription.take()
            body = b"".join(self.render_entry(entry) for entry in entries)
            bad = bool(entries) and self.ends_badly(entries[-1])
            if bad and not body and not self._began:
                return self._failure()
            if body:
                await self._begin(send)
                await send({"type": "http.response.body", "body": body, "more_body": True})
            if entries:
                self._subscription.delivered = entries[-1].number
            if bad:
                # Without its last chunk the answer ends abnormally, which is the one way to
                # say so that every HTTP client understands.
                return None
            if not entries:
                await self._wait(send)
        await self._begin(send)
        await send({"type": "http.response.body", "body": self._farewell, "more_body": False})
        return None

    async def _begin(self, send: Send) -> None:
        if not self._began:
            self._began = True
            # Which one it is may have been found out since: the same ask may be answered already.
            self.headers["X-Response-Id"] = self._run.response.id
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )

    async def _wait(self, send: Send) -> None:
        with anyio.move_on_after(HEARTBEAT_S) as silence:
            await self._wake.wait()
        self._wake = anyio.Event()
        if silence.cancelled_caught and self._heartbeat and self._began:
            await send({"type": "http.response.body", "body": self._heartbeat, "more_body": True})

    def _wake_up(self) -> None:
        self._wake.set()

    def _failure(self) -> RequestError:
        if self._run.rejection is not None:
            return self._run.rejection
        response = self._run.response
        code = response.ragsocket.code or f"response_{response.ragsocket.reason}"
        message = response.error.message if response.error else "the answer was stopped."
        return RequestError(code, message, status=FAILURE_STATUS.get(code, 502))
