"""Chat completions: the shapes of the older API that every chat front end speaks.

A request is a whole conversation, and its fields are in the same three classes as those of
`response.create`: honoured, hints, refused by name.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ragsocket.errors import RequestError
from ragsocket.protocol.client_events import HINT, RetrievalOptions
from ragsocket.protocol.errors import ErrorCode
from ragsocket.protocol.resources import PlainFormat, SearchResult, Wire
from ragsocket.protocol.server_events import Optional

CHAT_REFUSED: dict[str, str] = {
    "audio": "answers are text",
    "frequency_penalty": "it is not passed on",
    "function_call": "functions cannot be called here",
    "functions": "functions cannot be called here",
    "logit_bias": "token biases are not passed on",
    "logprobs": "log probabilities are not passed on",
    "moderation": "this server does not moderate",
    "presence_penalty": "it is not passed on",
    "reasoning_effort": "reasoning settings are not passed on",
    "stop": "texts that stop the model are not passed on",
    "store": "an answer is kept, as every response is",
    "tools": "functions cannot be called here",
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


class ChatMessage(Wire):
    """A message of the conversation; an answer of this server may be handed back as it came."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | tuple[TextPart, ...] | None = None
    name: str | None = None
    refusal: str | None = None
    annotations: Any = None

    def plain(self) -> str:
        """Return the text of all parts."""
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        return "".join(part.text for part in self.content)


class StreamOptions(Wire):
    """What a stream carries beside the text."""

    include_usage: bool = Field(False, description="A last chunk holds the token counts.")
    include_obfuscation: bool | None = Field(None, description="No effect.", json_schema_extra=HINT)


class ChatCompletionCreate(Wire):
    """Answer a conversation, which is told as a whole."""

    messages: Annotated[tuple[ChatMessage, ...], Field(min_length=1)] = Field(
        description="The conversation; the last message is the user's.",
        examples=[[{"role": "user", "content": "When are dogs allowed in the huts?"}]],
    )
    model: str | None = Field(None, description="Model to use; none is the default.")
    stream: bool | None = Field(None, description="Answer in chunks, as server-sent events.")
    stream_options: StreamOptions | None = Field(
        None, description="`include_usage` puts the token counts into a last chunk."
    )
    retrieval: RetrievalOptions | None = Field(
        None, description="How to search (an extra of this server)."
    )
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(
        None, description="Passed on to the model."
    )
    top_p: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Passed on to the model."
    )
    max_tokens: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Older name of `max_completion_tokens`."
    )
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Upper bound of generated tokens."
    )
    n: Literal[1] | None = Field(None, description="One answer; more are refused.")
    modalities: tuple[Literal["text"], ...] | None = Field(
        None, description="Answers are text; anything else is refused."
    )
    response_format: PlainFormat | None = Field(None, description="Answers are plain text.")
    metadata: dict[str, str] | None = Field(None, description="Kept with the response.")
    tool_choice: Literal["auto", "none"] | None = Field(
        None, description="`none` answers without searching."
    )
    seed: int | None = Field(None, description="No effect.", json_schema_extra=HINT)
    parallel_tool_calls: bool | None = Field(None, description="No effect.", json_schema_extra=HINT)
    user: str | None = Field(None, description="Echoed.", json_schema_extra=HINT)
    safety_identifier: str | None = Field(None, description="Echoed.", json_schema_extra=HINT)
    service_tier: str | None = Field(None, description="Echoed.", json_schema_extra=HINT)
    prompt_cache_key: str | None = Field(None, description="Echoed.", json_schema_extra=HINT)
    prompt_cache_options: Any = Field(None, description="No effect.", json_schema_extra=HINT)
    prompt_cache_retention: Any = Field(None, description="No effect.", json_schema_extra=HINT)
    prediction: Any = Field(None, description="No effect.", json_schema_extra=HINT)
    verbosity: Any = Field(None, description="No effect.", json_schema_extra=HINT)

    @model_validator(mode="before")
    @classmethod
    def _refuse_by_name(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        for name, reason in CHAT_REFUSED.items():
            asks = data.get(name) not in _ASKS_FOR_NOTHING
            if asks and (name, data[name]) != ("store", True):
                raise RequestError(
                    ErrorCode.UNSUPPORTED_PARAMETER,
                    f"{name} is not supported: {reason}. Leave it out.",
                    param=name,
                )
        return {name: value for name, value in data.items() if name not in CHAT_REFUSED}


class ChatUsage(Wire):
    """Token counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


FinishReason = Literal["stop", "length", "content_filter"]


class AnswerMessage(Wire):
    """The answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


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


class ChatDelta(Wire):
    """What a chunk adds to the answer."""

    role: Annotated[Literal["assistant"] | None, Optional] = None
    content: Annotated[str | None, Optional] = None


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
