"""The response modes that ask the model more than once, through LlamaIndex's synthesizers.

The prompts are ours, so that the rules of `prompt` hold here too: passages stand in user messages
between delimiters, and keep their numbers. The history is part of the query, because that is the
one text which a synthesizer carries into every call.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Literal

import anyio
from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.base.response.schema import AsyncStreamingResponse
from llama_index.core.indices.prompt_helper import ChatPromptHelper, PromptHelper
from llama_index.core.prompts import ChatPromptTemplate
from llama_index.core.response_synthesizers import BaseSynthesizer, get_response_synthesizer
from llama_index.core.response_synthesizers.type import ResponseMode
from llama_index.core.schema import NodeWithScore, TextNode

from ragsocket.engine.adapter import stop_reading
from ragsocket.engine.base import (
    Functions,
    LimitReached,
    ModelEvent,
    Question,
    Sampling,
    Source,
    TextDelta,
    Usage,
)
from ragsocket.engine.llm import UpstreamLLM
from ragsocket.engine.prompt import (
    build_messages,
    count_messages,
    estimate_tokens,
    passage_block,
)
from ragsocket.engine.token_stream import Message, TokenStream
from ragsocket.errors import RequestError

# What LlamaIndex's `refine` keeps free for the answer so far, and the templates' own words.
_KEPT_FREE = 700
_END_S = 1.0

_PASSAGES = "<passages>\n{context_str}\n</passages>\n\n{query_str}"
_REFINE = (
    "<passages>\n{context_msg}\n</passages>\n\n{query_str}\n\n"
    "There is an answer from other passages already:\n{existing_answer}\n\n"
    "Write it anew with what these passages add, and keep the numbers in square brackets that it "
    "has. If they add nothing, repeat it as it is."
)
_SUMMARIZE = _PASSAGES + (
    "\n\nThe passages may be partial answers made from others; keep the numbers in square brackets "
    "that they have."
)


async def synthesize(
    question: Question,
    sources: Sequence[Source],
    tokens: TokenStream,
    *,
    mode: Literal["refine", "tree_summarize"],
    context_tokens: int,
    max_output_tokens: int,
    operator_instructions: str | None = None,
) -> AsyncGenerator[ModelEvent]:
    """Answer through `refine` (passage after passage) or `tree_summarize` (summaries of all).

    Only the last call's text is yielded; `Usage` at the end is the sum over all calls.

    Args:
        question: what is asked.
        sources: the passages, best first, at least one.
        tokens: the model.
        mode: the synthesizer.
        context_tokens: prompt budget of one call.
        max_output_tokens: what LlamaIndex keeps free for one answer.
        operator_instructions: added to our own instructions.

    Raises:
        RequestError: `input_too_large`, nothing fits beside the question.
        EngineError: from the model.
    """
    calls = _Calls(tokens)
    num_output = question.sampling.max_output_tokens or max_output_tokens
    llm = UpstreamLLM(
        calls,
        model=question.model,
        context_window=context_tokens + num_output,
        num_output=num_output,
        sampling=question.sampling,
    )
    prompt = build_messages(
        question,
        budget_tokens=max(context_tokens - _KEPT_FREE, context_tokens // 2),
        operator_instructions=operator_instructions,
    )
    query = _query(prompt[1:])
    synthesizer = _synthesizer(llm, mode, system=prompt[0].content)
    blocks = [passage_block(number, source) for number, source in enumerate(sources, 1)]
    nodes = [NodeWithScore(node=TextNode(text=block)) for block in blocks]
    estimate = count_messages(prompt) + sum(estimate_tokens(block) for block in blocks)
    yield Usage(estimate, 0, estimated=True)
    try:
        try:
            response = await synthesizer.asynthesize(query, nodes)
        except ValueError as error:
            # LlamaIndex's way to say that a prompt leaves no room for passages.
            raise RequestError(
                "input_too_large",
                f"question and passages do not fit into {context_tokens} tokens in the mode "
                f"{mode}; ask more briefly, or use the mode compact.",
                param="input",
            ) from error
        assert isinstance(response, AsyncStreamingResponse)
        stream = response.response_gen
        try:
            async for text in stream:
                if text:
                    yield TextDelta(text)
        finally:
            # LlamaIndex nests generators that do not close each other.
            await stop_reading(stream)
    finally:
        await calls.end()
    if calls.usage is not None:
        yield calls.usage
    if calls.limit is not None:
        yield calls.limit


class _Calls:
    """The model calls of one answer, as a `TokenStream`.

    Attributes:
        usage: the sum of what the model counted; None if it did not.
        limit: what ended the newest call early, or None.
    """

    def __init__(self, tokens: TokenStream) -> None:
        self._tokens = tokens
        self._tasks: set[asyncio.Task[object]] = set()
        self.models = tokens.models
        self.usage: Usage | None = None
        self.limit: LimitReached | None = None

    async def stream(
        self,
        messages: Sequence[Message],
        *,
        model: str,
        sampling: Sampling,
        functions: Functions | None = None,
    ) -> AsyncGenerator[ModelEvent]:
        """See `TokenStream.stream`."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.limit = None
        try:
            async with aclosing(
                self._tokens.stream(messages, model=model, sampling=sampling, functions=functions)
            ) as events:
                async for event in events:
                    if isinstance(event, Usage):
                        self._add(event)
                    elif isinstance(event, LimitReached):
                        self.limit = event
                    yield event
        finally:
            self._tasks.discard(task)

    async def aclose(self) -> None:
        """Nothing: the stream inside belongs to the engine."""

    async def end(self) -> None:
        """End calls that still run: LlamaIndex lets the others go on when one of them fails."""
        others = self._tasks - {asyncio.current_task()}
        for task in others:
            task.cancel()
        if others:
            with anyio.move_on_after(_END_S, shield=True):
                await asyncio.wait(others)

    def _add(self, usage: Usage) -> None:
        self.usage = usage if self.usage is None else self.usage + usage


def _synthesizer(
    llm: UpstreamLLM, mode: Literal["refine", "tree_summarize"], *, system: str
) -> BaseSynthesizer:
    sizes = llm.metadata

    def tokenizer(text: str) -> list[None]:
        # Only the length is looked at. The default would load a vocabulary of megabytes.
        return [None] * estimate_tokens(text)

    def template(user: str) -> ChatPromptTemplate:
        messages = [
            ChatMessage(role=MessageRole.SYSTEM, content="{system_str}"),
            ChatMessage(role=MessageRole.USER, content=user),
        ]
        # As a value: braces in an operator's instructions mean nothing to the formatter.
        return ChatPromptTemplate(messages).partial_format(system_str=system)

    return get_response_synthesizer(
        llm=llm,
        response_mode=ResponseMode(mode),
        streaming=True,
        use_async=True,
        prompt_helper=PromptHelper.from_llm_metadata(sizes, tokenizer=tokenizer),
        chat_prompt_helper=ChatPromptHelper.from_llm_metadata(sizes, tokenizer=tokenizer),
        text_qa_template=template(_PASSAGES),
        refine_template=template(_REFINE),
        summary_template=template(_SUMMARIZE),
    )


def _query(messages: Sequence[Message]) -> str:
    """Return history and question as one text."""
    *history, last = messages
    question = f"Question: {last.content}"
    if not history:
        return question
    names = {"user": "User", "assistant": "You", "tool": "A function"}
    said = "\n".join(f"{names[message.role]}: {message.content}" for message in history)
    return f"The conversation so far:\n{said}\n\n{question}"
