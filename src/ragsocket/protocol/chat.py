"""Chat completions: the shapes of the older API that every chat front end speaks.

A request is a whole conversation, and its fields are in the same three classes as those of
`response.create`: honoured, hints, refused by name.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from ragsocket.protocol.client_events import HINT, RetrievalOptions, StopText, StopTexts
from ragsocket.protocol.errors import not_supported
from ragsocket.protocol.input_items import ImageDetail, ImageUrl
from ragsocket.protocol.resources import (
    Flag,
    FunctionName,
    Integer,
    JsonObjectFormat,
    Number,
    PlainFormat,
    ReasoningEffort,
    SearchResult,
    Verbosity,
    Wire,
)
from ragsocket.protocol.server_events import Optional

CHAT_REFUSED: dict[str, str] = {
    "audio": "answers are text",
    "function_call": "it is the older form of tool_choice, which works",
    "functions": "it is the older form of tools, which work",
    "logit_bias": "token biases are not passed on",
    "logprobs": "log probabilities are not passed on",
    "moderation": "this server does not moderate",
    "store": "an answer is kept, as every response is",
    "top_logprobs": "log probabilities are not passed on",
    "web_search_options": "this server searches its documents, not the web",
}
"""Fields that are refused by name, with the reason that the error gives."""

_ASKS_FOR_NOTHING: tuple[object, ...] = (None, False, 0, {}, [], "")
"""Values of those fields that change nothing; front ends send them."""


class TextPart(Wire):
    """A piece of text."""

    type: Literal["text"] = "text"
    text: str


class Picture(Wire):
    """Where a picture is, or the picture itself as a data URL."""

    url: ImageUrl
    detail: ImageDetail = "auto"


class ImagePart(Wire):
    """A picture, for models that take them."""

    type: Literal["image_url"] = "image_url"
    image_url: Picture


class CalledFunction(Wire):
    """The function of a call; `arguments` is JSON, as the model wrote it."""

    name: FunctionName
    arguments: str


class ToolCall(Wire):
    """The model asks its client to run a function; a `tool` message hands the output in."""

    id: Annotated[str, Field(min_length=1, max_length=128)]
    type: Literal["function"] = "function"
    function: CalledFunction
    index: Integer | None = Field(None, exclude=True)


class ChatMessage(Wire):
    """A message of the conversation; an answer of this server may be handed back as it came."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: (
        str | tuple[Annotated[TextPart | ImagePart, Field(discriminator="type")], ...] | None
    ) = None
    tool_calls: tuple[ToolCall, ...] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    annotations: Any = None
    audio: None = None
    function_call: None = None
    sources: Any = None

    @model_validator(mode="after")
    def _fits_its_role(self) -> ChatMessage:
        if self.images and self.role != "user":
            raise ValueError("only messages of the user may hold image_url")
        if self.tool_calls and self.role != "assistant":
            raise ValueError("only messages of the assistant may hold tool_calls")
        if (self.tool_call_id is None) is (self.role == "tool"):
            raise ValueError("tool_call_id belongs to messages of the role tool, and to each")
        return self

    def plain(self) -> str:
        """Return the text of all parts."""
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        return "".join(part.text for part in self.content if isinstance(part, TextPart))

    @property
    def images(self) -> tuple[Picture, ...]:
        """The pictures among its parts."""
        if self.content is None or isinstance(self.content, str):
            return ()
        return tuple(part.image_url for part in self.content if isinstance(part, ImagePart))


class ChatFunction(Wire):
    """A function that the client runs when the model calls it; `parameters` is a JSON schema."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: Flag | None = None


class ChatTool(Wire):
    """A tool of the model: a function."""

    type: Literal["function"] = "function"
    function: ChatFunction


class NamedFunction(Wire):
    """The name of a function."""

    name: FunctionName


class ChatToolChoice(Wire):
    """The answer is a call of this function."""

    type: Literal["function"] = "function"
    function: NamedFunction


class ChatSchema(Wire):
    """A JSON schema, by name."""

    model_config = ConfigDict(serialize_by_alias=True)

    name: FunctionName
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    description: str | None = None
    strict: Flag | None = None


class ChatSchemaFormat(Wire):
    """JSON that fits a schema."""

    type: Literal["json_schema"] = "json_schema"
    json_schema: ChatSchema


def _listed(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Stops = Annotated[StopTexts, BeforeValidator(_listed, json_schema_input_type=StopText | StopTexts)]


class StreamOptions(Wire):
    """What a stream carries beside the text."""

    include_usage: Flag = Field(False, description="A last chunk holds the token counts.")
    include_obfuscation: Flag | None = Field(None, description="No effect.", json_schema_extra=HINT)


class ChatCompletionCreate(Wire):
    """Answer a conversation, which is told as a whole."""

    messages: Annotated[tuple[ChatMessage, ...], Field(min_length=1)] = Field(
        description="The conversation; last comes a message of the user, or what a function gave.",
        examples=[[{"role": "user", "content": "When are dogs allowed in the huts?"}]],
    )
    model: str | None = Field(None, description="Model to use; none is the default.")
    stream: Flag | None = Field(None, description="Answer in chunks, as server-sent events.")
    stream_options: StreamOptions | None = Field(
        None, description="`include_usage` puts the token counts into a last chunk."
    )
    retrieval: RetrievalOptions | None = Field(
        None, description="How to search (an extra of this server)."
    )
    temperature: Annotated[float, Field(strict=True, ge=0, le=2)] | None = Field(
        None, description="Passed on to the model."
    )
    top_p: Annotated[float, Field(strict=True, ge=0, le=1)] | None = Field(
        None, description="Passed on to the model."
    )
    max_tokens: Annotated[int, Field(strict=True, ge=1)] | None = Field(
        None, description="Older name of `max_completion_tokens`."
    )
    max_completion_tokens: Annotated[int, Field(strict=True, ge=1)] | None = Field(
        None, description="Upper bound of generated tokens."
    )
    n: Literal[1] | None = Field(None, description="One answer; more are refused.")
    modalities: tuple[Literal["text"], ...] | None = Field(
        None, description="Answers are text; anything else is refused."
    )
    response_format: (
        Annotated[PlainFormat | JsonObjectFormat | ChatSchemaFormat, Field(discriminator="type")]
        | None
    ) = Field(None, description="Text, or JSON; passed on to the model.")
    metadata: dict[str, str] | None = Field(None, description="Kept with the response.")
    tools: tuple[ChatTool, ...] | None = Field(
        None,
        description="Functions that the model may call. With them the documents are searched "
        "only if `retrieval` is there.",
    )
    tool_choice: Literal["auto", "none", "required"] | ChatToolChoice | None = Field(
        None, description="`none`: no function, no search. `required`, or one by name: a call."
    )
    parallel_tool_calls: Flag | None = Field(
        None, description="`false`: at most one call in an answer."
    )
    stop: Stops | None = Field(
        None, description="Texts at which the model stops, without saying them; four at most."
    )
    seed: Integer | None = Field(None, description="Passed on to the model.")
    presence_penalty: Number | None = Field(None, description="Passed on to the model.")
    frequency_penalty: Number | None = Field(None, description="Passed on to the model.")
    reasoning_effort: ReasoningEffort | None = Field(None, description="Passed on to the model.")
    verbosity: Verbosity | None = Field(None, description="Passed on to the model.")
    user: str | None = Field(None, description="Echoed.", json_schema_extra=HINT)
    safety_identifier: str | None = Field(None, description="Echoed.", json_schema_extra=HINT)
    service_tier: str | None = Field(None, description="Echoed.", json_schema_extra=HINT)
    prompt_cache_key: str | None = Field(None, description="Echoed.", json_schema_extra=HINT)
    prompt_cache_options: Any = Field(None, description="No effect.", json_schema_extra=HINT)
    prompt_cache_retention: Any = Field(None, description="No effect.", json_schema_extra=HINT)
    prediction: Any = Field(None, description="No effect.", json_schema_extra=HINT)

    @model_validator(mode="before")
    @classmethod
    def _refuse_by_name(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        for name, reason in CHAT_REFUSED.items():
            asks = data.get(name) not in _ASKS_FOR_NOTHING
            if asks and (name, data[name]) != ("store", True):
                raise not_supported(name, reason)
        return {name: value for name, value in data.items() if name not in CHAT_REFUSED}


class PromptDetails(Wire):
    """What of the prompt the model had read before."""

    cached_tokens: int


class CompletionDetails(Wire):
    """What of the answer was reasoning."""

    reasoning_tokens: int


class ChatUsage(Wire):
    """Token counts."""

    prompt_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens: int
    completion_tokens_details: CompletionDetails
    total_tokens: int


FinishReason = Literal["stop", "length", "content_filter", "tool_calls"]


class AnswerMessage(Wire):
    """The answer. `reasoning_content` (an extra) is what the model thought before it."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    reasoning_content: Annotated[str | None, Optional] = None
    tool_calls: Annotated[tuple[ToolCall, ...] | None, Optional] = None


class ChatChoice(Wire):
    """The one answer."""

    index: Literal[0] = 0
    message: AnswerMessage
    logprobs: None = None
    finish_reason: FinishReason


class ChatCompletion(Wire):
    """A whole answer. `sources` are the passages (an extra): `[n]` in the text is the n-th."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: tuple[ChatChoice]
    usage: ChatUsage
    sources: tuple[SearchResult, ...] = ()


class FunctionDelta(Wire):
    """More of a call's function; the name is in the first piece."""

    name: Annotated[str | None, Optional] = None
    arguments: str


class ToolCallDelta(Wire):
    """More of a call; its id is in the first piece."""

    index: int
    id: Annotated[str | None, Optional] = None
    type: Annotated[Literal["function"] | None, Optional] = None
    function: FunctionDelta


class ChatDelta(Wire):
    """What a chunk adds to the answer."""

    role: Annotated[Literal["assistant"] | None, Optional] = None
    content: Annotated[str | None, Optional] = None
    reasoning_content: Annotated[str | None, Optional] = None
    tool_calls: Annotated[tuple[ToolCallDelta, ...] | None, Optional] = None


class ChunkChoice(Wire):
    """The one answer; `finish_reason` is in its last chunk."""

    index: Literal[0] = 0
    delta: ChatDelta
    logprobs: None = None
    finish_reason: FinishReason | None = None


class ChatChunk(Wire):
    """A piece of an answer. `sources` (an extra) stand in the first one."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: tuple[ChunkChoice, ...]
    usage: Annotated[ChatUsage | None, Optional] = None
    sources: Annotated[tuple[SearchResult, ...] | None, Optional] = None


class ModelCard(Wire):
    """A model that can be asked for."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "ragsocket"


class ModelList(Wire):
    """Every model that can be asked for; the first is the default."""

    object: Literal["list"] = "list"
    data: tuple[ModelCard, ...]
