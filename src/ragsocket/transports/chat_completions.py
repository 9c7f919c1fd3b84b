"""`/v1/chat/completions` and `/v1/models`: the doors that every chat front end knows.

A request tells the whole conversation, so nothing is remembered between two of them; the answer
itself is stored as a response like any other. Going away stops it at once.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.responses import Response

from ragsocket.errors import RequestError
from ragsocket.protocol.chat import (
    AnswerMessage,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatCompletionCreate,
    ChatDelta,
    ChatUsage,
    ChunkChoice,
    FinishReason,
    ModelCard,
    ModelList,
)
from ragsocket.protocol.client_events import ResponseCreate
from ragsocket.protocol.decode import explain
from ragsocket.protocol.errors import ErrorCode
from ragsocket.protocol.resources import FileSearchCall, OutputMessage, SearchResult
from ragsocket.responses.lifecycle import Entry
from ragsocket.responses.runner import Runner
from ragsocket.responses.running import Running
from ragsocket.settings import Settings
from ragsocket.transports.front_ends import is_housekeeping
from ragsocket.transports.stream import Following, described, read_body


class Chat(Following):
    """What both forms of an answer share: its name, its passages, and what ends it badly."""

    def __init__(self, run: Running, *, media_type: str, heartbeat: bytes | None = None) -> None:
        super().__init__(run, media_type=media_type, heartbeat=heartbeat)
        self._id = "chatcmpl-" + run.id.removeprefix("resp_")

    def ends_badly(self, entry: Entry) -> bool:
        """Return True for a failure, and for an answer that somebody stopped."""
        stopped = entry.type == "response.incomplete" and self._run.lifecycle.stop is not None
        return stopped or entry.type in ("error", "response.failed")

    def _text(self) -> str:
        """Return the answer, once it has ended."""
        return "".join(
            part.text
            for item in self._run.response.output
            if isinstance(item, OutputMessage)
            for part in item.content
        )

    def _sources(self) -> tuple[SearchResult, ...]:
        """Return the passages, once the answer has ended."""
        return tuple(
            result
            for item in self._run.response.output
            if isinstance(item, FileSearchCall)
            for result in item.results or ()
        )

    def _usage(self) -> ChatUsage:
        usage = self._run.response.usage
        assert usage is not None
        return ChatUsage(
            prompt_tokens=usage.input_tokens,
            completion_tokens=usage.output_tokens,
            total_tokens=usage.total_tokens,
        )

    def _finish_reason(self) -> FinishReason:
        reason = self._run.response.ragsocket.reason
        if reason == "max_output_tokens":
            return "length"
        return "content_filter" if reason == "content_filter" else "stop"


class WholeAnswer(Chat):
    """The answer as one JSON object."""

    def __init__(self, run: Running) -> None:
        super().__init__(run, media_type="application/json")

    def render_entry(self, entry: Entry) -> bytes:
        """Return the answer at its end."""
        if self.ends_badly(entry) or entry.type not in ENDS:
            return b""
        response = self._run.response
        choice = ChatChoice(
            message=AnswerMessage(content=self._text()), finish_reason=self._finish_reason()
        )
        answer = ChatCompletion(
            id=self._id,
            created=response.created_at,
            model=response.model,
            choices=(choice,),
            usage=self._usage(),
            sources=self._sources(),
        )
        return answer.model_dump_json().encode()


class ChunkStream(Chat):
    """The answer in chunks, as server-sent events; `[DONE]` ends it."""

    def __init__(self, run: Running, *, include_usage: bool) -> None:
        super().__init__(run, media_type="text/event-stream", heartbeat=b": still here\n\n")
        self._include_usage = include_usage
        self._opened = False
        self._found: tuple[SearchResult, ...] | None = None
        # All but the text stays the same for a whole answer, so the model is encoded once.
        blank = self._chunk(ChatDelta(content=""))
        head, mark, self._tail = blank.partition(b'"content":""')
        self._head = head + mark[:-2]
        self._encode = msgspec.json.Encoder().encode

    def render_entry(self, entry: Entry) -> bytes:
        """Return the chunks for an entry."""
        if entry.delta is not None:
            return self._open() + self._head + self._encode(entry.delta) + self._tail
        if entry.type == "response.output_item.done":
            item = msgspec.json.decode(entry.data)["item"]
            if item["type"] == "file_search_call":
                results = item["results"] or ()
                self._found = tuple(SearchResult.model_validate(result) for result in results)
        if self.ends_badly(entry):
            return self._broken_off() if self._opened else b""
        if entry.type in ENDS:
            last = self._open() + self._chunk(ChatDelta(), finish_reason=self._finish_reason())
            if self._include_usage:
                last += self._event(choices=(), usage=self._usage())
            return last + b"data: [DONE]\n\n"
        return b""

    def _chunk(
        self,
        delta: ChatDelta,
        *,
        finish_reason: FinishReason | None = None,
        sources: tuple[SearchResult, ...] | None = None,
    ) -> bytes:
        choice = ChunkChoice(delta=delta, finish_reason=finish_reason)
        return self._event(choices=(choice,), sources=sources)

    def _event(self, **fields: Any) -> bytes:
        response = self._run.response
        chunk = ChatChunk(id=self._id, created=response.created_at, model=response.model, **fields)
        return b"data: %b\n\n" % chunk.model_dump_json().encode()

    def _open(self) -> bytes:
        """Return the first chunk, with the passages; nothing the second time."""
        if self._opened:
            return b""
        self._opened = True
        return self._chunk(ChatDelta(role="assistant", content=""), sources=self._found)

    def _broken_off(self) -> bytes:
        """Return the error in the form that the official clients raise."""
        error = self._failure()
        body = {"message": error.message, "type": "server_error", "code": error.code, "param": None}
        return b"data: %b\n\n" % msgspec.json.encode({"error": body})


ENDS = ("response.completed", "response.incomplete")


def router(owner: str) -> APIRouter:
    """Return the doors; runner and settings are taken from the application's state."""
    doors = APIRouter(tags=["chat completions"])
    since = int(time.time())

    @doors.post(
        "/v1/chat/completions",
        response_class=Response,
        responses={200: {"model": ChatCompletion}},
        openapi_extra=described(ChatCompletionCreate),
    )
    async def complete(request: Request) -> Response:
        """Answer a conversation that is told as a whole. Going away stops the answer at once.

        With `stream` the answer comes in chunks, as server-sent events, the passages (`sources`)
        in the first one.
        """
        settings: Settings = request.app.state.settings
        runner: Runner = request.app.state.runner
        body = await read_body(request, settings.max_frame_bytes)
        try:
            ask = ChatCompletionCreate.model_validate_json(body)
        except ValidationError as error:
            raise explain(error, what="body") from None
        run = runner.create(_question(ask), owner=owner, grace_s=0, with_results=True)
        if not ask.stream:
            return WholeAnswer(run)
        options = ask.stream_options
        return ChunkStream(run, include_usage=options is not None and options.include_usage)

    @doors.get("/v1/models")
    async def models(request: Request) -> ModelList:
        """List the models that can be asked for; the first is the default."""
        runner: Runner = request.app.state.runner
        return ModelList(
            data=tuple(ModelCard(id=name, created=since) for name in runner.engine.models)
        )

    @doors.get("/v1/models/{model:path}")
    async def model(request: Request, model: str) -> ModelCard:
        """Look a model up."""
        runner: Runner = request.app.state.runner
        return ModelCard(id=runner.model(model), created=since)

    return doors


def _question(ask: ChatCompletionCreate) -> ResponseCreate:
    """Return the same question in the words of `response.create`.

    Raises:
        RequestError: it does not end with a question of the user.
    """
    *_, last = ask.messages
    if last.role != "user" or not last.plain().strip():
        raise RequestError(
            ErrorCode.INVALID_EVENT,
            "messages: the last message must be the user's and hold text.",
            param="messages",
        )
    told = [m.plain() for m in ask.messages if m.role in ("system", "developer")]
    fields: dict[str, Any] = {
        "input": [{"role": message.role, "content": message.plain()} for message in ask.messages],
        "model": ask.model,
        "temperature": ask.temperature,
        "top_p": ask.top_p,
        "max_output_tokens": (
            ask.max_tokens if ask.max_completion_tokens is None else ask.max_completion_tokens
        ),
        "metadata": ask.metadata,
        "tool_choice": ask.tool_choice or "auto",
        "user": ask.user,
        "safety_identifier": ask.safety_identifier,
        "service_tier": ask.service_tier,
        "prompt_cache_key": ask.prompt_cache_key,
    }
    if ask.retrieval is not None:
        fields["retrieval"] = ask.retrieval
    elif is_housekeeping(told, last.plain()):
        fields["retrieval"] = {"mode": "none"}
    try:
        return ResponseCreate.model_validate(fields)
    except ValidationError as error:
        raise explain(error, what="body") from None
