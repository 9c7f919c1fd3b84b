"""A `TokenStream`, offered to LlamaIndex as an LLM, so that its synthesizers can use it.

LlamaIndex's own callback wrappers are left out on purpose: they cost more than the token itself
and do not close what they wrap. Whoever wants events listens to `on_event`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, NoReturn

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    LLMMetadata,
    MessageRole,
)
from llama_index.core.llms import LLM
from pydantic import PrivateAttr

from ragsocket.engine.base import LimitReached, Sampling, TextDelta, Usage
from ragsocket.engine.token_stream import Message, TokenStream

_ROLES: dict[MessageRole, Literal["system", "user", "assistant"]] = {
    MessageRole.SYSTEM: "system",
    MessageRole.DEVELOPER: "system",
    MessageRole.USER: "user",
    MessageRole.ASSISTANT: "assistant",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
}


class UpstreamLLM(LLM):
    """A LlamaIndex LLM that reads from a `TokenStream`. Cheap to make, one per answer.

    A cancel of whatever awaits it closes the model's connection at once; so does closing the
    generator that `astream_chat` returns. The methods without `await` refuse: they would block
    the event loop for as long as the model speaks. Errors are the stream's `EngineError`s.
    """

    _tokens: TokenStream = PrivateAttr()
    _sampling: Sampling = PrivateAttr()
    _metadata: LLMMetadata = PrivateAttr()
    _on_event: Callable[[Usage | LimitReached], None] | None = PrivateAttr()

    def __init__(
        self,
        tokens: TokenStream,
        *,
        model: str,
        context_window: int,
        num_output: int,
        sampling: Sampling | None = None,
        on_event: Callable[[Usage | LimitReached], None] | None = None,
    ) -> None:
        """Wrap a stream.

        Args:
            tokens: where the text comes from.
            model: one of `tokens.models`.
            context_window: tokens of prompt and answer together.
            num_output: tokens that LlamaIndex keeps free for the answer.
            sampling: used where a call does not say otherwise.
            on_event: told the token counts and limits of every call made.
        """
        super().__init__()
        self._tokens = tokens
        self._sampling = sampling or Sampling()
        self._on_event = on_event
        self._metadata = LLMMetadata(
            context_window=context_window,
            num_output=num_output,
            is_chat_model=True,
            model_name=model,
        )

    @classmethod
    def class_name(cls) -> str:
        """The name in LlamaIndex's records."""
        return "ragsocket_upstream"

    @property
    def metadata(self) -> LLMMetadata:
        """The model's sizes; `is_chat_model` is true."""
        return self._metadata

    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        """Stream the answer to a conversation; the request leaves at the first `__anext__`.

        Args:
            messages: text messages of a system, a user or an assistant.
            kwargs: `temperature`, `top_p`, `max_tokens`; LlamaIndex's other hints are ignored.

        Raises:
            ValueError: a message is none of those.
        """
        return self._chat([_message(message) for message in messages], self._with(kwargs))

    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """The whole answer to a conversation; see `astream_chat`."""
        text = await self._whole([_message(message) for message in messages], self._with(kwargs))
        return _response(text, None)

    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """Stream the answer to a prompt, which is sent as one user message."""
        return self._completion([Message("user", prompt)], self._with(kwargs))

    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        """The whole answer to a prompt, which is sent as one user message."""
        text = await self._whole([Message("user", prompt)], self._with(kwargs))
        return CompletionResponse(text=text)

    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> NoReturn:
        """Refused; use `achat`."""
        _refuse("chat")

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> NoReturn:
        """Refused; use `acomplete`."""
        _refuse("complete")

    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> NoReturn:
        """Refused; use `astream_chat`."""
        _refuse("stream_chat")

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> NoReturn:
        """Refused; use `astream_complete`."""
        _refuse("stream_complete")

    def _with(self, kwargs: dict[str, Any]) -> Sampling:
        named = {
            "temperature": kwargs.get("temperature"),
            "top_p": kwargs.get("top_p"),
            "max_output_tokens": kwargs.get("max_tokens"),
        }
        given = {name: value for name, value in named.items() if value is not None}
        return replace(self._sampling, **given) if given else self._sampling

    async def _chat(self, messages: list[Message], sampling: Sampling) -> ChatResponseAsyncGen:
        said = ""
        stream = self._tokens.stream(messages, model=self._metadata.model_name, sampling=sampling)
        try:
            async for event in stream:
                if isinstance(event, TextDelta):
                    said += event.text
                    yield _response(said, event.text)
                elif self._on_event is not None and isinstance(event, Usage | LimitReached):
                    self._on_event(event)
        finally:
            # Python does not close an inner generator with the outer one.
            await stream.aclose()

    async def _completion(
        self, messages: list[Message], sampling: Sampling
    ) -> CompletionResponseAsyncGen:
        stream = self._chat(messages, sampling)
        try:
            async for response in stream:
                said = response.message.content or ""
                yield CompletionResponse(text=said, delta=response.delta)
        finally:
            await stream.aclose()

    async def _whole(self, messages: list[Message], sampling: Sampling) -> str:
        said = ""
        async for response in self._chat(messages, sampling):
            said = response.message.content or ""
        return said


def _message(message: ChatMessage) -> Message:
    role = _ROLES.get(message.role)
    if role is None:
        raise ValueError(f"a message of role {message.role.value!r} cannot be sent")
    if any(block.block_type != "text" for block in message.blocks):
        raise ValueError("only text can be sent")
    return Message(role, message.content or "")


def _response(said: str, delta: str | None) -> ChatResponse:
    return ChatResponse(message=ChatMessage(role=MessageRole.ASSISTANT, content=said), delta=delta)


def _refuse(name: str) -> NoReturn:
    raise NotImplementedError(
        f"{name} would block the event loop while the model speaks; use a{name}"
    )
