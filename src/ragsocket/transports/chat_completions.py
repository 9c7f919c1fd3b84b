"""`/v1/chat/completions` and `/v1/models`: the doors that every chat front end knows.

A request tells the whole conversation, so nothing is remembered between two of them; the answer
itself is stored as a response like any other. Going away stops it at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Request
from pydantic import ValidationError
from starlette.responses import Response

from ragsocket.errors import RequestError
from ragsocket.protocol.chat import (
    AnswerMessage,
    CalledFunction,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatCompletionCreate,
    ChatDelta,
    ChatMessage,
    ChatSchemaFormat,
    ChatToolChoice,
    ChatUsage,
    ChunkChoice,
    CompletionDetails,
    FinishReason,
    FunctionDelta,
    ModelCard,
    ModelList,
    PromptDetails,
    ToolCall,
    ToolCallDelta,
)
from ragsocket.protocol.client_events import ResponseCreate
from ragsocket.protocol.decode import explain
from ragsocket.protocol.errors import ErrorCode
from ragsocket.protocol.resources import (
    FileSearchCall,
    FunctionCall,
    OutputMessage,
    Reasoning,
    SearchResult,
)
from ragsocket.responses.lifecycle import Entry
from ragsocket.responses.runner import Runner
from ragsocket.responses.running import Running
from ragsocket.settings import Settings
from ragsocket.transports.front_ends import is_housekeeping
from ragsocket.transports.stream import Following, answers, described, read_body


class Chat(Following):
    """What both forms of an answer share: its name, its passages, and what ends it badly."""

    def __init__(self, run: Running, *, media_type: str, heartbeat: bytes | None = None) -> None:
        super().__init__(run, media_type=media_type, heartbeat=heartbeat)
        self._id = "chatcmpl-" + run.id.removeprefix("resp_")

    def ends_badly(self, entry: Entry) -> bool:
        """Return True for a failure, and for an answer that somebody stopped."""
        stopped = entry.type == "response.incomplete" and self._run.lifecycle.stop is not None
        return stopped or entry.type in ("error", "response.failed")

    def _message(self) -> AnswerMessage:
        """Return the answer, once it has ended."""
        output = self._run.response.output
        told = [item for item in output if isinstance(item, OutputMessage)]
        thought = [item for item in output if isinstance(item, Reasoning)]
        calls = [
            ToolCall(
                id=item.call_id,
                function=CalledFunction(name=item.name, arguments=item.arguments),
            )
            for item in output
            if isinstance(item, FunctionCall) and item.status == "completed"
        ]
        text = _joined(told)
        return AnswerMessage(
            content=text if told or not calls else None,
            reasoning_content=_joined(thought) or None,
            tool_calls=tuple(calls) or None,
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
            prompt_tokens_details=PromptDetails(
                cached_tokens=usage.input_tokens_details.cached_tokens
            ),
            completion_tokens=usage.output_tokens,
            completion_tokens_details=CompletionDetails(
                reasoning_tokens=usage.output_tokens_details.reasoning_tokens
            ),
            total_tokens=usage.total_tokens,
        )

    def _finish_reason(self) -> FinishReason:
        reason = self._run.response.ragsocket.reason
        if reason == "max_output_tokens":
            return "length"
        if reason == "content_filter":
            return "content_filter"
        return "tool_calls" if self._message().tool_calls else "stop"


def _joined(items: Sequence[OutputMessage | Reasoning]) -> str:
    return "".join(part.text for item in items for part in item.content)


class WholeAnswer(Chat):
    """The answer as one JSON object."""

    def __init__(self, run: Running) -> None:
        super().__init__(run, media_type="application/json")

    def render_entry(self, entry: Entry) -> bytes:
        """Return the answer at its end."""
        if self.ends_badly(entry) or entry.type not in ENDS:
            return b""
        response = self._run.response
        choice = ChatChoice(message=self._message(), finish_reason=self._finish_reason())
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
        self._calls = -1
        # All but the text stays the same for a whole answer, so the model is encoded once.
        blank = self._chunk(ChatDelta(content=""))
        head, mark, self._tail = blank.partition(b'"content":""')
        self._head = head + mark[:-2]
        self._encode = msgspec.json.Encoder().encode
        self._renders: dict[str, Callable[[dict[str, Any]], ChatDelta | None]] = {
            "response.output_item.added": self._begin_call,
            "response.output_item.done": self._keep_sources,
            "response.function_call_arguments.delta": self._add_arguments,
            "response.reasoning_text.delta": self._add_thought,
        }

    def render_entry(self, entry: Entry) -> bytes:
        """Return the chunks for an entry."""
        if entry.delta is not None:
            return self._open() + self._head + self._encode(entry.delta) + self._tail
        if (render := self._renders.get(entry.type)) is not None:
            delta = render(msgspec.json.decode(entry.data))
            return b"" if delta is None else self._open() + self._chunk(delta)
        if self.ends_badly(entry):
            return self._broken_off() if self._opened else b""
        if entry.type in ENDS:
            last = self._open() + self._chunk(ChatDelta(), finish_reason=self._finish_reason())
            if self._include_usage:
                last += self._event(choices=(), usage=self._usage())
            return last + b"data: [DONE]\n\n"
        return b""

    def _add_thought(self, event: dict[str, Any]) -> ChatDelta:
        return ChatDelta(reasoning_content=event["delta"])

    def _keep_sources(self, event: dict[str, Any]) -> None:
        if event["item"]["type"] == "file_search_call":
            results = event["item"]["results"] or ()
            self._found = tuple(SearchResult.model_validate(result) for result in results)

    def _begin_call(self, event: dict[str, Any]) -> ChatDelta | None:
        item = event["item"]
        if item["type"] != "function_call":
            return None
        self._calls += 1
        return self._call(
            FunctionDelta(name=item["name"], arguments=""), id=item["call_id"], type="function"
        )

    def _add_arguments(self, event: dict[str, Any]) -> ChatDelta:
        return self._call(FunctionDelta(arguments=event["delta"]))

    def _call(self, function: FunctionDelta, **fields: Any) -> ChatDelta:
        return ChatDelta(
            tool_calls=(ToolCallDelta(index=self._calls, function=function, **fields),)
        )

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
        responses=answers("text/event-stream", ChatCompletion),
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
    async def model(
        request: Request, model: Annotated[str, Path(description="The model's name.")]
    ) -> ModelCard:
        """Look a model up."""
        runner: Runner = request.app.state.runner
        return ModelCard(id=runner.model(model), created=since)

    return doors


def _question(ask: ChatCompletionCreate) -> ResponseCreate:
    """Return the same question in the words of `response.create`.

    Raises:
        RequestError: it does not end with a question of the user, or what a function gave.
    """
    *_, last = ask.messages
    asks = last.role == "user" and (last.plain().strip() or last.images)
    if not asks and last.role != "tool":
        raise RequestError(
            ErrorCode.INVALID_EVENT,
            "messages: the last message must be the user's and hold text or a picture, or be what "
            "a function gave (role tool).",
            param="messages",
        )
    _check_outputs(ask.messages)
    told = [m.plain() for m in ask.messages if m.role in ("system", "developer")]
    fields: dict[str, Any] = {
        "input": [item for message in ask.messages for item in _items(message)],
        "model": ask.model,
        "temperature": ask.temperature,
        "top_p": ask.top_p,
        "presence_penalty": ask.presence_penalty,
        "frequency_penalty": ask.frequency_penalty,
        "max_output_tokens": (
            ask.max_tokens if ask.max_completion_tokens is None else ask.max_completion_tokens
        ),
        "metadata": ask.metadata,
        "tool_choice": _tool_choice(ask),
        "parallel_tool_calls": ask.parallel_tool_calls,
        "sampling": {"stop": ask.stop or (), "seed": ask.seed},
        "text": _text_config(ask),
        "reasoning": {"effort": ask.reasoning_effort} if ask.reasoning_effort else None,
        "user": ask.user,
        "safety_identifier": ask.safety_identifier,
        "service_tier": ask.service_tier,
        "prompt_cache_key": ask.prompt_cache_key,
    }
    if ask.tools:
        fields["tools"] = [
            {"type": "function", **tool.function.model_dump(exclude_none=True)}
            for tool in ask.tools
        ]
        if ask.retrieval is not None:
            fields["tools"].append({"type": "file_search"})
    if ask.retrieval is not None:
        fields["retrieval"] = ask.retrieval
    elif is_housekeeping(told, last.plain()):
        fields["retrieval"] = {"mode": "none"}
    try:
        return ResponseCreate.model_validate(fields)
    except ValidationError as error:
        raise explain(error, what="body") from None


def _check_outputs(messages: Sequence[ChatMessage]) -> None:
    called: set[str | None] = set()
    for place, message in enumerate(messages):
        called.update(call.id for call in message.tool_calls or ())
        if message.role == "tool" and message.tool_call_id not in called:
            raise RequestError(
                ErrorCode.FUNCTION_CALL_NOT_FOUND,
                f"messages[{place}].tool_call_id: no call before it has this id.",
                param=f"messages[{place}].tool_call_id",
            )


def _items(message: ChatMessage) -> list[dict[str, Any]]:
    """Return a message as input items: its text, and the calls that it makes."""
    if message.role == "tool":
        output = {"call_id": message.tool_call_id, "output": message.plain()}
        return [{"type": "function_call_output", **output}]
    calls = [
        {
            "type": "function_call",
            "call_id": call.id,
            "name": call.function.name,
            "arguments": call.function.arguments,
        }
        for call in message.tool_calls or ()
    ]
    content: str | list[dict[str, Any]] = message.plain()
    if message.images:
        pictures = [
            {"type": "input_image", "image_url": one.url, "detail": one.detail}
            for one in message.images
        ]
        content = [{"type": "input_text", "text": content}, *pictures]
    if calls and not content:
        return calls
    return [{"role": message.role, "content": content}, *calls]


def _tool_choice(ask: ChatCompletionCreate) -> object:
    if isinstance(ask.tool_choice, ChatToolChoice):
        return {"type": "function", "name": ask.tool_choice.function.name}
    return ask.tool_choice or "auto"


def _text_config(ask: ChatCompletionCreate) -> dict[str, Any]:
    config: dict[str, Any] = {"verbosity": ask.verbosity}
    if isinstance(ask.response_format, ChatSchemaFormat):
        schema = ask.response_format.json_schema.model_dump(exclude_none=True)
        config["format"] = {"type": "json_schema", **schema}
    elif ask.response_format is not None:
        config["format"] = ask.response_format
    return config
