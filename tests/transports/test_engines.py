"""Other ways of answering, under the same runner, cancel and history."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import anyio
import pytest
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    LLMMetadata,
)
from llama_index.core.llms import MockLLM
from llama_index.core.llms.custom import CustomLLM

from harness import Served, answer_text, serving, text_of
from upstream import Script, Upstream

FERRY = "When does the ferry to Holm leave, and what about lost luggage in the harbour?"


@pytest.mark.parametrize("mode", ["refine", "tree_summarize"])
async def test_synthesizers_stream_cite_and_stop(
    served: Served, upstream: Upstream, mode: str
) -> None:
    """`refine` and `tree_summarize` answer like the hot path, and a cancel reaches the model."""
    upstream.default = Script(tokens=("At ", "7:40 ", "[1]."))
    retrieval = {"response_mode": mode}
    async with served.talk() as talk:
        events = await talk.answer(FERRY, retrieval=retrieval)
        assert events[-1]["type"] == "response.completed"
        assert text_of(events) == answer_text(events[-1]["response"]) == "At 7:40 [1]."
        asked = len(upstream.requests)
        upstream.default = Script(gated=True)
        gc.disable()
        try:
            await talk.ask(FERRY, retrieval=retrieval)
            request = await upstream.request(asked)
            await talk.send({"type": "response.cancel"})
            assert (await talk.terminal())["response"]["status"] == "cancelled"
            assert (await request.closed()).written == 0
        finally:
            gc.enable()


class Counting(CustomLLM):
    """A model object of the application's own, that streams asynchronously."""

    said: ClassVar[list[list[str]]] = []

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name="counting")

    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        self.said.append([str(message.content) for message in messages])

        async def generate() -> ChatResponseAsyncGen:
            text = ""
            for number in range(1, 4):
                text += f"{number} "
                message = ChatMessage(role="assistant", content=text)
                yield ChatResponse(message=message, delta=f"{number} ")
                await anyio.lowlevel.checkpoint()

        return generate()

    def complete(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("never called")

    def stream_complete(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("never called")


async def test_any_llama_index_model_answers(state: Path) -> None:
    """`create_app(llm=…)` takes a LlamaIndex LLM object in place of a server."""
    model = Counting()
    async with serving(state, llm=model) as served, served.talk() as talk:
        events = await talk.answer(FERRY)
        assert text_of(events) == "1 2 3 "
        assert events[-1]["response"]["model"] == "counting"
        await talk.answer("And dogs on the ferry?")
    assert "1 2 3 " in model.said[-1]


async def test_a_model_that_only_blocks_does_not_block_the_server(state: Path) -> None:
    """A LlamaIndex LLM without an asynchronous stream runs in a thread of its own."""
    async with serving(state, llm=MockLLM(max_tokens=8)) as served, served.talk() as talk:
        events = await talk.answer(FERRY)
        assert events[-1]["type"] == "response.completed"
        assert text_of(events)


async def test_without_a_model_the_answer_is_extracts_and_says_so(state: Path) -> None:
    """The extractive answer is labelled, quotes the documents, and cites each quote."""
    async with serving(state) as served, served.talk() as talk:
        events = await talk.answer("When does the ferry to Holm leave?")
    end = events[-1]["response"]
    assert end["status"] == "completed"
    assert end["model"] == "ragsocket-extractive"
    text = answer_text(end)
    assert "7:40" in text
    assert "no language model" in text.lower() or "without a language model" in text.lower()
    annotations = end["output"][-1]["content"][0]["annotations"]
    assert annotations[0]["filename"] == "ferry.md"
    assert all(text[: a["index"]].endswith("]") for a in annotations)
    assert len([e for e in events if e["type"] == "response.output_text.delta"]) > 3


async def test_a_server_without_documents_says_that(tmp_path: Path) -> None:
    """With an empty store and no model the answer is that there are no documents."""
    async with serving(tmp_path / "state") as served, served.talk() as talk:
        events = await talk.answer("When does the ferry to Holm leave?")
    assert events[-1]["type"] == "response.completed"
    assert "no documents" in text_of(events).lower()


async def test_a_question_over_the_budget_is_named(state: Path, upstream: Upstream) -> None:
    """A question that alone is over the prompt budget fails by name, and the socket lives."""
    async with serving(state, upstream=upstream, context_tokens=512) as served:
        async with served.talk() as talk:
            end = (await talk.answer("ferry " * 5_000))[-1]
            assert end["type"] == "response.failed"
            assert end["response"]["ragsocket"]["code"] == "input_too_large"
            assert end["response"]["error"]["code"] == "invalid_prompt"
            assert (await talk.answer("When does the ferry leave?"))[-1]["type"] == (
                "response.completed"
            )
    assert upstream.requests
