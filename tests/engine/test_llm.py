"""The token stream as a LlamaIndex LLM, under LlamaIndex's own synthesizers."""

from __future__ import annotations

import gc
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, MessageRole
from llama_index.core.response_synthesizers import (
    BaseSynthesizer,
    ResponseMode,
    get_response_synthesizer,
)
from llama_index.core.schema import NodeWithScore, TextNode

from ragsocket.engine.adapter import stop_reading
from ragsocket.engine.base import (
    Functions,
    LimitReached,
    ModelEvent,
    Sampling,
    TextDelta,
    Usage,
)
from ragsocket.engine.llm import UpstreamLLM
from ragsocket.engine.token_stream import Message, OpenAICompatible
from ragsocket.errors import EngineError
from upstream import Request, Script, Upstream, words

NODES = [NodeWithScore(node=TextNode(text=f"passage {i} " * 60), score=1.0) for i in range(3)]
ANSWER = "".join(words(20))


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


@asynccontextmanager
async def serving(*scripts: Script, **options: Any) -> AsyncIterator[tuple[Upstream, UpstreamLLM]]:
    """An upstream with these scripts, and a LlamaIndex LLM on it."""
    async with Upstream() as upstream:
        upstream.queue(*scripts)
        client = OpenAICompatible(upstream.url, ["scripted"])
        try:
            yield (
                upstream,
                UpstreamLLM(
                    client, model="scripted", context_window=4096, num_output=256, **options
                ),
            )
        finally:
            await client.aclose()


def synthesizer(llm: UpstreamLLM, mode: ResponseMode, **options: Any) -> BaseSynthesizer:
    """LlamaIndex's synthesizer of that mode."""
    return get_response_synthesizer(llm=llm, response_mode=mode, **options)


async def test_astream_chat() -> None:
    """Responses carry the text so far and what is new, and the conversation is sent as it is."""
    async with serving() as (upstream, llm):
        messages = [
            ChatMessage(role=MessageRole.SYSTEM, content="s"),
            ChatMessage(role=MessageRole.USER, content="u"),
            ChatMessage(role=MessageRole.ASSISTANT, content="a"),
        ]
        said = ""
        async for response in await llm.astream_chat(messages):
            said += response.delta or ""
            assert response.message.content == said
        assert said == ANSWER
        sent = (await upstream.request(0)).messages
        assert [(m["role"], m["content"]) for m in sent] == [
            ("system", "s"),
            ("user", "u"),
            ("assistant", "a"),
        ]


async def test_other_ways_to_ask() -> None:
    """A whole chat, a whole completion and a streamed completion say the same."""
    async with serving() as (upstream, llm):
        assert (await llm.achat([ChatMessage(content="q")])).message.content == ANSWER
        assert (await llm.acomplete("q")).text == ANSWER
        deltas = [response.delta async for response in await llm.astream_complete("q")]
        assert "".join(delta or "" for delta in deltas) == ANSWER
        assert [request.messages for request in upstream.requests] == [
            [{"role": "user", "content": "q"}]
        ] * 3


async def test_sampling_and_events() -> None:
    """The call's sampling goes over the instance's, and counts and limits are told."""
    seen: list[Usage | LimitReached] = []
    script = Script(finish_reason="length")
    options = {"sampling": Sampling(temperature=0.1, top_p=0.5), "on_event": seen.append}
    async with serving(script, **options) as (upstream, llm):
        await llm.acomplete("q", temperature=0.9, max_tokens=3)
        body = (await upstream.request(0)).body
        assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.9, 0.5, 3)
        assert seen == [Usage(1, 20, estimated=False), LimitReached("max_output_tokens")]


class Watched:
    """A token stream that keeps its generator alive, and notes when it is closed."""

    models = ("watched",)

    def __init__(self) -> None:
        self.closed = False
        self.made: list[object] = []

    def stream(
        self,
        messages: Sequence[Message],
        *,
        model: str,
        sampling: Sampling,
        functions: Functions | None = None,
    ) -> AsyncGenerator[ModelEvent]:
        async def speak() -> AsyncGenerator[ModelEvent]:
            try:
                while True:
                    yield TextDelta("a")
            finally:
                self.closed = True

        generator = speak()
        self.made.append(generator)
        return generator

    async def aclose(self) -> None: ...


@pytest.mark.parametrize("method", ["astream_chat", "astream_complete"])
async def test_closing_closes_the_stream(method: str) -> None:
    """Closing what LlamaIndex was given closes the model's stream before it returns."""
    tokens = Watched()
    llm = UpstreamLLM(tokens, model="watched", context_window=4096, num_output=256)
    question: Any = [ChatMessage(content="q")] if method == "astream_chat" else "q"
    responses = await getattr(llm, method)(question)
    await anext(responses)
    await responses.aclose()
    assert tokens.closed


async def test_metadata() -> None:
    """LlamaIndex learns the sizes and that this is a chat model."""
    async with serving() as (_, llm):
        data = llm.metadata
        assert (data.context_window, data.num_output) == (4096, 256)
        assert (data.is_chat_model, data.model_name) == (True, "scripted")


async def test_what_blocks_is_refused() -> None:
    """The synchronous methods say what to call instead."""
    async with serving() as (_, llm):
        for name in ("chat", "stream_chat", "complete", "stream_complete"):
            with pytest.raises(NotImplementedError, match=f"use a{name}$"):
                getattr(llm, name)("q")


async def test_messages_that_cannot_be_sent() -> None:
    """Tool messages and pictures are refused, not dropped."""
    async with serving() as (_, llm):
        with pytest.raises(ValueError, match="tool"):
            await llm.achat([ChatMessage(role=MessageRole.TOOL, content="x")])
        with pytest.raises(ValueError, match="text"):
            await llm.achat([ChatMessage(role="user", blocks=[ImageBlock(image=b"eA==")])])


async def test_errors_come_through() -> None:
    """LlamaIndex does not change our errors."""
    async with serving(Script(status=429)) as (_, llm):
        with pytest.raises(EngineError) as caught:
            await synthesizer(llm, ResponseMode.TREE_SUMMARIZE).asynthesize("q", NODES)
        assert caught.value.code == "upstream_rate_limited"


@pytest.mark.parametrize("mode", [ResponseMode.REFINE, ResponseMode.TREE_SUMMARIZE])
async def test_synthesizers(mode: ResponseMode) -> None:
    """Refine asks once per passage, tree_summarize once for what fits; both stream the answer."""
    async with serving() as (upstream, llm):
        response = await synthesizer(llm, mode, streaming=True).asynthesize("q", NODES)
        text = "".join([part async for part in response.async_response_gen()])  # type: ignore[union-attr]
        assert text == ANSWER
        assert len(upstream.requests) == (3 if mode is ResponseMode.REFINE else 1)


def gate_the_last(count: int) -> Any:
    """Scripts: the request number `count` waits for the test, those before do not."""

    def choose(request: Request) -> Script:
        return Script(gated=len(request.upstream.requests) == count)

    return choose


@pytest.mark.usefixtures("no_gc")
@pytest.mark.parametrize(
    ("mode", "last"), [(ResponseMode.REFINE, 3), (ResponseMode.TREE_SUMMARIZE, 1)]
)
@pytest.mark.parametrize("way", ["cancel", "close"])
async def test_stop_while_a_synthesizer_streams(mode: ResponseMode, last: int, way: str) -> None:
    """A stop through LlamaIndex's generators reaches the model at once."""
    async with serving() as (upstream, llm):
        upstream.default = gate_the_last(last)
        read = anyio.Event()
        closed = anyio.Event()

        async def answer() -> None:
            response = await synthesizer(llm, mode, streaming=True).asynthesize("q", NODES)
            parts = response.async_response_gen()  # type: ignore[union-attr]
            text = ""
            while text.count("w") < 5:
                text += await anext(parts)
            read.set()
            if way == "cancel":
                await anext(parts)
            else:
                await stop_reading(parts)
                closed.set()
                await anyio.sleep_forever()

        async with anyio.create_task_group() as group:
            group.start_soon(answer)
            request = await upstream.request(last - 1)
            request.release(5)
            await read.wait()
            if way == "cancel":
                group.cancel_scope.cancel()
            else:
                await closed.wait()
                assert (await request.closed()).written == 5
                group.cancel_scope.cancel()
        assert (await request.closed()).written == 5
        assert upstream.open == 0


@pytest.mark.usefixtures("no_gc")
async def test_stop_in_the_hidden_part_of_refine() -> None:
    """A stop while refine reads an answer that nobody will see reaches the model as well."""
    async with serving(Script(gated=True)) as (upstream, llm):
        async with anyio.create_task_group() as group:
            refine = synthesizer(llm, ResponseMode.REFINE, streaming=True)
            group.start_soon(refine.asynthesize, "q", NODES)
            request = await upstream.request(0)
            request.release(2)
            group.cancel_scope.cancel()
        assert (await request.closed()).written == 2
        assert len(upstream.requests) == 1


@pytest.mark.usefixtures("no_gc")
async def test_stop_of_parallel_summaries() -> None:
    """A stop closes every request that tree_summarize runs side by side."""
    async with serving() as (upstream, llm):
        upstream.default = Script(gated=True)
        big = [NodeWithScore(node=TextNode(text=f"word{i} " * 2500), score=1.0) for i in range(3)]
        tree = synthesizer(llm, ResponseMode.TREE_SUMMARIZE, use_async=True)
        async with anyio.create_task_group() as group:
            group.start_soon(tree.asynthesize, "q", big)
            await upstream.request(2)
            assert upstream.open >= 3
            group.cancel_scope.cancel()
        for request in upstream.requests:
            assert (await request.closed()).written == 0
        assert upstream.open == 0
