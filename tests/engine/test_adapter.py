"""LlamaIndex LLM objects as token streams: awaited ones, and ones that only block."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import Any

import anyio
import anyio.to_thread
import pytest
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseGen,
    LLMMetadata,
)
from llama_index.core.llms import CustomLLM, MockLLM
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from pydantic import PrivateAttr

from ragsocket.engine.adapter import AHEAD, LlamaIndexTokenStream, stop_reading
from ragsocket.engine.base import (
    Call,
    Function,
    Functions,
    Image,
    JsonFormat,
    ModelEvent,
    Sampling,
    TextDelta,
    Usage,
)
from ragsocket.engine.llm import UpstreamLLM
from ragsocket.engine.token_stream import Message, OpenAICompatible
from ragsocket.errors import ConfigError, EngineError, RequestError
from upstream import Script, Upstream, words

ASK = [Message("user", "q")]


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Both event loops."""
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
def no_gc() -> Iterator[None]:
    """A stop must never depend on the garbage collector."""
    gc.disable()
    yield
    gc.enable()


class Blocking(CustomLLM):
    """A model that streams synchronously: each `next` waits for a permit of the test."""

    _permits: threading.Semaphore = PrivateAttr(default_factory=lambda: threading.Semaphore(0))
    _made: int = PrivateAttr(default=0)
    _ended: threading.Event = PrivateAttr(default_factory=threading.Event)
    _kwargs: dict[str, Any] = PrivateAttr(default_factory=dict)
    _failure: Exception | None = PrivateAttr(default=None)
    with_delta: bool = True
    count: int = 1000

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name="blocking")

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        raise AssertionError("never whole")

    @llm_completion_callback()
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        self._kwargs = kwargs

        def generate() -> CompletionResponseGen:
            text = ""
            try:
                for word in words(self.count):
                    self._permits.acquire()
                    if self._failure is not None:
                        raise self._failure
                    self._made += 1
                    text += word
                    yield CompletionResponse(text=text, delta=word if self.with_delta else None)
            finally:
                self._ended.set()

        return generate()


class Awaiting(MockLLM):
    """A model with an `astream_chat` of its own."""

    _responses: Callable[[], AsyncGenerator[ChatResponse]] = PrivateAttr()

    @llm_chat_callback()
    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        return self._responses()


class Unwilling(MockLLM):
    """A model whose async method exists only to say that there is none."""

    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        raise NotImplementedError


class OnlyPretending(MockLLM):
    """A model that refuses both ways."""

    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        raise NotImplementedError


def ask(
    stream: LlamaIndexTokenStream, sampling: Sampling | None = None
) -> AsyncGenerator[ModelEvent]:
    """Ask the usual question."""
    return stream.stream(ASK, model=stream.models[0], sampling=sampling or Sampling())


async def text_of(events: AsyncGenerator[ModelEvent]) -> str:
    """All the text."""
    return "".join([event.text async for event in events if isinstance(event, TextDelta)])


def response(text: str, delta: str | None, **extra: Any) -> ChatResponse:
    """A LlamaIndex response."""
    message = ChatMessage(role="assistant", content=text)
    return ChatResponse(message=message, delta=delta, additional_kwargs=extra)


# Classes that await


@pytest.mark.usefixtures("no_gc")
@pytest.mark.parametrize("way", ["cancel", "close"])
async def test_awaited_model_stops_at_once(way: str) -> None:
    """A stop reaches the socket of an async class, in the middle of its read."""
    async with Upstream() as upstream:
        upstream.queue(Script(gated=True))
        client = OpenAICompatible(upstream.url, ["scripted"])
        llm = UpstreamLLM(client, model="scripted", context_window=4096, num_output=64)
        stream = LlamaIndexTokenStream(llm)
        assert (stream.threaded, stream.models) == (False, ("scripted",))
        events = ask(stream)
        read = anyio.Event()

        async def answer() -> None:
            got = 0
            while got < 4:
                event = await anext(events)
                assert isinstance(event, TextDelta)
                got += event.text.count("w")
            read.set()
            if way == "close":
                await events.aclose()
            else:
                await anext(events)

        async with anyio.create_task_group() as group:
            group.start_soon(answer)
            request = await upstream.request(0)
            request.release(4)
            await read.wait()
            if way == "cancel":
                group.cancel_scope.cancel()
        assert (await request.closed()).written == 4
        await client.aclose()


@pytest.mark.usefixtures("no_gc")
async def test_closing_unwinds_what_a_library_nests() -> None:
    """Generators that a library nests and keeps in cycles are unwound without the collector."""
    unwound: list[str] = []

    async def socket() -> AsyncGenerator[ChatResponse]:
        try:
            yield response("a", "a")
            await anyio.sleep_forever()
        finally:
            unwound.append("socket")

    class Cycle:
        def __init__(self) -> None:
            self.inner = socket()
            self.iterator = self.outer()

        async def outer(self) -> AsyncGenerator[ChatResponse]:
            async for item in self.inner:
                yield item

    llm = Awaiting(max_tokens=1)
    llm._responses = lambda: Cycle().iterator
    events = ask(LlamaIndexTokenStream(llm))
    assert await anext(events) == TextDelta("a", 1)
    await events.aclose()
    assert unwound == ["socket"]


async def test_stopping_takes_no_longer_than_it_may() -> None:
    """A generator that never waits is not read to the end in order to stop it."""
    made = 0

    async def endless() -> AsyncGenerator[int]:
        nonlocal made
        while True:
            made += 1
            yield made

    stream = endless()
    await anext(stream)
    await stop_reading(stream)
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    assert made < 10_000


async def test_delta_is_derived() -> None:
    """Where a class gives no delta, it is what the text grew by; counts are passed on."""

    async def responses() -> AsyncGenerator[ChatResponse]:
        yield response("", None)
        yield response("ab", None)
        yield response("abc", "c")
        yield response("abcd", None, prompt_tokens=3, completion_tokens=4)

    llm = Awaiting(max_tokens=1)
    llm._responses = responses
    events = [event async for event in ask(LlamaIndexTokenStream(llm))]
    assert events == [TextDelta("ab"), TextDelta("c"), TextDelta("d"), Usage(3, 4, False)]


async def test_failure_of_an_awaited_model() -> None:
    """Whatever a class raises becomes one error with the cause chained."""
    cause = RuntimeError("secret detail")

    async def responses() -> AsyncGenerator[ChatResponse]:
        yield response("a", "a")
        raise cause

    llm = Awaiting(max_tokens=1)
    llm._responses = responses
    with pytest.raises(EngineError) as caught:
        await text_of(ask(LlamaIndexTokenStream(llm)))
    assert (caught.value.code, caught.value.__cause__) == ("upstream_failed", cause)
    assert "secret" not in caught.value.message


# Classes that block


@pytest.mark.parametrize("with_delta", [True, False])
async def test_blocking_model_streams(with_delta: bool) -> None:
    """A synchronous class streams through its thread, and gets only the sampling that was given."""
    llm = Blocking(count=200, with_delta=with_delta)
    stream = LlamaIndexTokenStream(llm)
    assert (stream.threaded, stream.models) == (True, ("blocking",))
    llm._permits.release(200)
    sampling = Sampling(temperature=0.2, max_output_tokens=9)
    assert await text_of(ask(stream, sampling)) == "".join(words(200))
    assert llm._kwargs == {"temperature": 0.2, "max_tokens": 9}


@pytest.mark.parametrize(
    ("named", "fields"),
    [
        ("tools", {"functions": Functions([Function("f")])}),
        ("text", {"sampling": Sampling(format=JsonFormat())}),
        ("reasoning", {"sampling": Sampling(reasoning_effort="low")}),
    ],
)
async def test_what_cannot_be_said_is_refused_by_name(named: str, fields: dict[str, Any]) -> None:
    """An LLM object takes neither functions nor formats, and nobody is left to believe it does."""
    stream = LlamaIndexTokenStream(Blocking())
    with pytest.raises(RequestError) as caught:
        await anext(stream.stream(ASK, **{"model": "blocking", "sampling": Sampling(), **fields}))
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", named)


async def test_calls_outputs_and_pictures_of_the_history_are_handed_over() -> None:
    """They stand where LlamaIndex's own classes look for them."""
    heard: list[ChatMessage] = []

    class Listening(Awaiting):
        @llm_chat_callback()
        async def astream_chat(
            self, messages: Sequence[ChatMessage], **kwargs: Any
        ) -> ChatResponseAsyncGen:
            heard.extend(messages)
            return self._responses()

    llm = Listening(max_tokens=None)
    llm._responses = lambda: saying("yes")
    messages = [
        Message("user", "q", images=(Image("https://a/b.png", "low"),)),
        Message("assistant", "", calls=(Call("c1", "f", "{}"),)),
        Message("tool", "done", call_id="c1"),
    ]
    stream = LlamaIndexTokenStream(llm)
    said = stream.stream(messages, model=stream.models[0], sampling=Sampling())
    assert [event async for event in said] == [TextDelta("yes")]
    assert [block.block_type for block in heard[0].blocks] == ["image", "text"]
    assert heard[1].additional_kwargs["tool_calls"][0]["function"]["name"] == "f"
    assert heard[2].role == "tool"
    assert heard[2].additional_kwargs == {"tool_call_id": "c1"}


async def saying(text: str) -> AsyncGenerator[ChatResponse]:
    """A whole answer."""
    message = ChatMessage(role="assistant", content=text)
    yield ChatResponse(message=message, delta=text)


async def test_blocking_model_does_not_stall_the_loop() -> None:
    """While a synchronous model computes, the event loop goes on."""
    llm = Blocking(count=1)
    events = ask(LlamaIndexTokenStream(llm))
    turns = 0

    async def meanwhile() -> None:
        nonlocal turns
        for _ in range(1000):
            await asyncio.sleep(0)
            turns += 1
        llm._permits.release()

    async with anyio.create_task_group() as group:
        group.start_soon(meanwhile)
        assert await text_of(events) == "w0 "
    assert turns == 1000


@pytest.mark.usefixtures("no_gc")
@pytest.mark.parametrize("way", ["cancel", "close"])
async def test_blocking_model_stops_at_the_next_token(way: str) -> None:
    """A stop takes effect at once for the reader, and for the model at its next token."""
    llm = Blocking()
    events = ask(LlamaIndexTokenStream(llm))
    read = anyio.Event()

    async def answer() -> None:
        got = 0
        while got < 3:
            event = await anext(events)
            assert isinstance(event, TextDelta)
            got += event.tokens
        read.set()
        if way == "close":
            await events.aclose()
        else:
            await anext(events)

    async with anyio.create_task_group() as group:
        group.start_soon(answer)
        llm._permits.release(3)
        await read.wait()
        if way == "cancel":
            group.cancel_scope.cancel()
    assert not llm._ended.is_set()
    llm._permits.release(1000)
    assert await anyio.to_thread.run_sync(llm._ended.wait, 10)
    assert llm._made == 4


async def test_blocking_model_waits_for_its_reader() -> None:
    """A synchronous model gets no further ahead of a slow reader than the bound."""
    llm = Blocking()
    events = ask(LlamaIndexTokenStream(llm))
    llm._permits.release(1)
    assert await anext(events) == TextDelta("w0 ", 1)
    llm._permits.release(999)

    def ahead() -> bool:
        for _ in range(1000):
            if llm._made >= AHEAD + 2:
                return True
            threading.Event().wait(0.005)
        return False

    assert await anyio.to_thread.run_sync(ahead)
    assert llm._made == AHEAD + 2
    await events.aclose()
    assert await anyio.to_thread.run_sync(llm._ended.wait, 10)
    assert llm._made == AHEAD + 2


async def test_failure_of_a_blocking_model() -> None:
    """What came before a failure in the thread is shown, then it becomes one error."""
    llm = Blocking()
    llm._permits.release(2)
    events = ask(LlamaIndexTokenStream(llm))
    text = ""
    while text != "w0 w1 ":
        event = await anext(events)
        assert isinstance(event, TextDelta)
        text += event.text
    llm._failure = ValueError("secret detail")
    llm._permits.release()
    with pytest.raises(EngineError) as caught:
        await anext(events)
    assert caught.value.code == "upstream_failed"
    assert caught.value.__cause__ is llm._failure


async def test_mock_llm() -> None:
    """LlamaIndex's own mock, which blocks as well, works as it is."""
    stream = LlamaIndexTokenStream(MockLLM(max_tokens=5), model="mock")
    assert (stream.threaded, stream.models) == (True, ("mock",))
    assert await text_of(ask(stream)) == "text text text text text"
    await stream.aclose()


async def test_async_in_name_only() -> None:
    """A class whose async method only says that there is none gets the thread."""
    stream = LlamaIndexTokenStream(Unwilling(max_tokens=2))
    for _ in range(2):
        assert await text_of(ask(stream)) == "text text"
    assert stream.threaded


async def test_a_class_that_refuses_both_ways() -> None:
    """A class that turns out to stream in no way fails as any other model."""
    with pytest.raises(EngineError) as caught:
        await text_of(ask(LlamaIndexTokenStream(OnlyPretending(max_tokens=1))))
    assert caught.value.code == "upstream_failed"


def test_no_llm_is_refused() -> None:
    """Something that cannot stream at all is refused when the server starts."""
    with pytest.raises(ConfigError, match="not a LlamaIndex LLM"):
        LlamaIndexTokenStream(object())  # type: ignore[arg-type]
