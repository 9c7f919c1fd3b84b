"""Any LlamaIndex LLM, offered as a `TokenStream`.

A class with a real `astream_chat` is awaited in the task that answers, so that a cancel reaches
its socket. A class that only streams synchronously would block the event loop; it runs in a
thread of its own, and a stop takes effect at its next token.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import anyio
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ImageBlock,
    MessageRole,
    TextBlock,
)
from llama_index.core.llms import LLM, CustomLLM

from ragsocket.engine.base import Functions, ModelEvent, Sampling, TextDelta, Usage
from ragsocket.engine.chat_body import message_body
from ragsocket.engine.chat_chunks import upstream_error
from ragsocket.engine.token_stream import Message
from ragsocket.errors import ConfigError, EngineError, RequestError

logger = logging.getLogger("ragsocket.engine")

# Tokens that a synchronous model may be ahead of the reader.
AHEAD = 64
# Tokens that a client library may have read already when it is stopped.
READ_AHEAD = 4096
CLOSE_S = 1.0


class LlamaIndexTokenStream:
    """A `TokenStream` from a LlamaIndex LLM object. Its own timeouts are the only ones.

    Args:
        llm: a LlamaIndex LLM.
        model: the name it is asked for by; None takes the one in its metadata.

    Attributes:
        models: that one name.
        threaded: True if the class only streams synchronously.

    Raises:
        ConfigError: it is no LLM, or cannot stream.
    """

    def __init__(self, llm: LLM, *, model: str | None = None) -> None:
        self._llm = llm
        self.threaded = _only_synchronous(llm)
        self.models: Sequence[str] = (model or llm.metadata.model_name,)

    async def aclose(self) -> None:
        """Nothing is held open here; the LLM object belongs to whoever made it."""

    async def stream(
        self,
        messages: Sequence[Message],
        *,
        model: str,
        sampling: Sampling,
        functions: Functions | None = None,
    ) -> AsyncGenerator[ModelEvent]:
        """See `TokenStream.stream`. LlamaIndex has no way to say the newer half of it.

        Raises:
            RequestError: functions, JSON or a degree of reasoning are asked for.
            EngineError: the model failed.
        """
        _check(functions, sampling)
        chat = [_chat_message(message) for message in messages]
        last: ChatResponse | None = None
        shown = 0
        try:
            responses = await self._begin(chat, _kwargs(sampling))
            try:
                async for batch in responses:
                    texts = []
                    for last in batch:
                        text = last.delta
                        if text is None:
                            text = (last.message.content or "")[shown:]
                        if text:
                            shown += len(text)
                            texts.append(text)
                    if texts:
                        yield TextDelta("".join(texts), len(texts))
            finally:
                await responses.aclose()
        except EngineError:
            raise
        except Exception as error:
            logger.warning("the model %s failed", type(self._llm).__name__, exc_info=error)
            raise upstream_error("upstream_failed") from error
        if last is not None and (usage := _usage(last)) is not None:
            yield usage

    async def _begin(
        self, chat: list[ChatMessage], kwargs: dict[str, Any]
    ) -> AsyncGenerator[list[ChatResponse]]:
        if not self.threaded:
            try:
                return _awaited(await self._llm.astream_chat(chat, **kwargs))
            except NotImplementedError:
                # Integrations without an async client say so only when they are called.
                self.threaded = True
        return _threaded(lambda: self._llm.stream_chat(chat, **kwargs))


async def _awaited(responses: AsyncIterator[ChatResponse]) -> AsyncGenerator[list[ChatResponse]]:
    try:
        async for response in responses:
            yield [response]
    finally:
        await stop_reading(responses)


async def _threaded(
    iterate: Callable[[], Iterator[ChatResponse]],
) -> AsyncGenerator[list[ChatResponse]]:
    bridge = _Bridge(iterate)
    try:
        async for batch in bridge.batches():
            yield batch
    finally:
        bridge.stop()


async def stop_reading(stream: AsyncIterator[Any]) -> None:
    """Stop an async generator of LlamaIndex so that the model's connection closes now.

    `aclose()` closes the outermost of several nested generators, and the socket only when the
    garbage collector comes by. A read that is cancelled unwinds them all; so this makes one.
    It takes no longer than a second, whatever the task's own cancellation is.
    """
    with anyio.CancelScope(shield=True) as scope:
        scope.cancel()
        with contextlib.suppress(Exception):
            for _ in range(READ_AHEAD):
                await anext(stream)
    if isinstance(stream, AsyncGenerator):
        with anyio.move_on_after(CLOSE_S, shield=True), contextlib.suppress(Exception):
            await stream.aclose()


class _Bridge:
    """Hands what a blocking iterator yields to the event loop; the thread waits when it is ahead.

    One thread for the whole answer, because models and context variables may be bound to it; a
    daemon, because nobody can interrupt a model in the middle of a token.
    """

    def __init__(self, iterate: Callable[[], Iterator[ChatResponse]]) -> None:
        self._iterate = iterate
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        self._room = threading.Condition()
        self._waiting: list[ChatResponse] = []
        self._stopped = False
        self._ended = False
        self._failure: Exception | None = None

    async def batches(self) -> AsyncGenerator[list[ChatResponse]]:
        """What came since the last time, as long as anything comes."""
        run = contextvars.copy_context().run
        threading.Thread(
            target=run, args=(self._work,), name="ragsocket-model", daemon=True
        ).start()
        while True:
            await self._ready.wait()
            self._ready.clear()
            with self._room:
                batch, self._waiting = self._waiting, []
                ended = self._ended
                self._room.notify()
            if batch:
                yield batch
            if ended:
                if self._failure is not None:
                    raise self._failure
                return

    def stop(self) -> None:
        """Let the thread end at its next token, without waiting for it."""
        with self._room:
            self._stopped = True
            self._room.notify()

    def _work(self) -> None:
        failure: Exception | None = None
        try:
            responses = self._iterate()
            try:
                for response in responses:
                    if not self._hand_over(response):
                        break
            finally:
                # A generator's own clean-up closes its file or socket in the thread it is used in.
                if (close := getattr(responses, "close", None)) is not None:
                    close()
        except Exception as error:
            failure = error
        except BaseException as error:
            # Ending a thread must not end the event loop.
            failure = RuntimeError("the model ended its thread")
            failure.__cause__ = error
        with self._room:
            self._failure, self._ended = failure, True
        self._wake()

    def _hand_over(self, response: ChatResponse) -> bool:
        with self._room:
            while len(self._waiting) >= AHEAD and not self._stopped:
                self._room.wait()
            if self._stopped:
                return False
            self._waiting.append(response)
            first = len(self._waiting) == 1
        if first:
            self._wake()
        return True

    def _wake(self) -> None:
        # The loop may be gone by now; then nobody waits.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._ready.set)


def _only_synchronous(llm: object) -> bool:
    """True if `astream_chat` is the one of CustomLLM, which runs `stream_chat` on the loop.

    Raises:
        ConfigError: neither way of streaming is there.
    """
    cls = type(llm)
    owner = next((base for base in cls.__mro__ if "astream_chat" in vars(base)), None)
    asynchronous = owner is not None and owner is not CustomLLM
    if not isinstance(llm, LLM) or not (asynchronous or callable(getattr(llm, "stream_chat", 0))):
        raise ConfigError(
            f"{cls.__name__} is not a LlamaIndex LLM that can stream: "
            "it needs astream_chat or stream_chat."
        )
    return not asynchronous


def _check(functions: Functions | None, sampling: Sampling) -> None:
    refused = {
        "tools": functions is not None,
        "text": sampling.format is not None or sampling.verbosity is not None,
        "reasoning": sampling.reasoning_effort is not None,
    }
    for param, asked in refused.items():
        if asked:
            raise RequestError(
                "unsupported_parameter",
                f"{param} is not supported by the model here. Leave it out.",
                param=param,
            )


def _chat_message(message: Message) -> ChatMessage:
    if message.images:
        pictures = [ImageBlock(url=image.url, detail=image.detail) for image in message.images]
        return ChatMessage(
            role=MessageRole(message.role), blocks=[*pictures, TextBlock(text=message.content)]
        )
    body = message_body(message)
    # Where LlamaIndex's OpenAI classes look for calls, and for what an output belongs to.
    extra = {name: body[name] for name in ("tool_calls", "tool_call_id") if name in body}
    return ChatMessage(
        role=MessageRole(message.role), content=message.content, additional_kwargs=extra
    )


def _kwargs(sampling: Sampling) -> dict[str, Any]:
    named = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_output_tokens,
        "stop": list(sampling.stop) or None,
        "seed": sampling.seed,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
    }
    return {name: value for name, value in named.items() if value is not None}


def _usage(response: ChatResponse) -> Usage | None:
    """The token counts, where LlamaIndex's OpenAI classes leave them."""
    counts = response.additional_kwargs
    asked, said = counts.get("prompt_tokens"), counts.get("completion_tokens")
    if isinstance(asked, int) and isinstance(said, int):
        return Usage(asked, said, estimated=False)
    return None
