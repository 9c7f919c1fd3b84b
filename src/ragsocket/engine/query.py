"""What is searched for: the last user turns, the last one alone, or what the model makes of them.

A follow-up ("and in winter?") does not name its topic. Joining the last turns costs nothing and
finds it mostly; a capable model writes a query that names it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

import anyio

from ragsocket.engine.base import QueryFrom, Question, Sampling, TextDelta, Turn, Usage
from ragsocket.engine.prompt import count_messages, escaped
from ragsocket.engine.token_stream import Message, TokenStream
from ragsocket.errors import EngineError

logger = logging.getLogger("ragsocket.engine")

QUERY_TURNS = 3
QUERY_CHARACTERS = 2000

WRITTEN_TOKENS = 300
"""What the model may write; a model that thinks first needs most of it for that."""
READ_TURNS = 8
READ_CHARACTERS = 800
"""How many turns before the last the model reads, and how much of each."""

_INSTRUCTIONS = (
    "You write search queries for a collection of documents. You are shown a conversation and its "
    "last message. Write what to search for in order to answer the last message, as one line that "
    "can be understood without the conversation: put names in the place of words like it, they or "
    "there, and keep the words of the message otherwise. Use the language of the message. Do not "
    "answer it, and write nothing else."
)
_NAMES = {"user": "User", "assistant": "Assistant"}
_LABEL = re.compile(r"^(?:search )?query\s*:\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Query:
    """What is searched for, and what it was made of."""

    text: str
    made_of: QueryFrom


def search_query(turns: Sequence[Turn]) -> str:
    """Return the last three user turns, so that a follow-up finds its topic.

    The newest comes first: where something is cut off, here at 2,000 characters or in an
    embedding model at its own limit, it is then the oldest.
    """
    return "\n".join(_said(turns)[: -QUERY_TURNS - 1 : -1])[:QUERY_CHARACTERS].strip()


def last_turn(turns: Sequence[Turn]) -> str:
    """Return the last user turn, at most 2,000 characters of it."""
    return "".join(_said(turns)[-1:])[:QUERY_CHARACTERS].strip()


async def make_query(
    question: Question, made_of: QueryFrom, tokens: TokenStream | None, *, within_s: float
) -> AsyncGenerator[Usage | Query]:
    """Yield the query; before it, where a model writes it, the token counts as they grow.

    What the model fails to write, or says nothing to, or takes too long for, is searched for with
    the last turns; the log says why.

    Args:
        question: what is asked.
        made_of: what the query shall be made of; `model` means it for follow-ups.
        tokens: the model, where one may write.
        within_s: how long it may take, in seconds.
    """
    turns = question.turns
    if made_of == "last":
        yield Query(last_turn(turns), "last")
        return
    if made_of == "model" and tokens is not None and len(_said(turns)) > 1:
        async with aclosing(_written(question, tokens, within_s)) as steps:
            async for step in steps:
                yield step
                if isinstance(step, Query):
                    return
    yield Query(search_query(turns), "turns")


async def _written(
    question: Question, tokens: TokenStream, within_s: float
) -> AsyncGenerator[Usage | Query]:
    """Yield token counts, and the query if the model writes one."""
    messages = _messages(question.turns)
    spent = Usage(count_messages(messages), 0, estimated=True)
    yield spent
    text = ""
    until = anyio.current_time() + within_s
    stream = tokens.stream(
        messages,
        model=question.model,
        sampling=Sampling(temperature=0.0, max_output_tokens=WRITTEN_TOKENS),
    )
    try:
        async with aclosing(stream) as events:
            while True:
                # Around each read: no scope of ours may be open where this generator yields.
                with anyio.fail_after(max(0.0, until - anyio.current_time())):
                    event = await anext(events, None)
                if event is None:
                    break
                if isinstance(event, Usage):
                    spent = event
                elif spent.estimated:
                    count = getattr(event, "tokens", 0)
                    spent = replace(spent, output_tokens=spent.output_tokens + count)
                yield spent
                if isinstance(event, TextDelta):
                    text += event.text
    except (EngineError, TimeoutError) as error:
        reason = error.code if isinstance(error, EngineError) else f"nothing within {within_s} s"
        logger.warning("searching with the last turns: the model wrote no query (%s)", reason)
        return
    if query := _first_line(text):
        yield Query(query, "model")
    else:
        logger.warning("searching with the last turns: the model wrote no query (no text)")


def _said(turns: Sequence[Turn]) -> list[str]:
    return [turn.text.strip() for turn in turns if turn.role == "user" and turn.text.strip()]


def _messages(turns: Sequence[Turn]) -> list[Message]:
    spoken = [turn for turn in turns if turn.role in _NAMES and turn.text.strip()]
    while spoken and spoken[-1].role != "user":
        spoken.pop()
    *before, last = spoken
    lines = [
        f"{_NAMES[turn.role]}: {escaped(turn.text.strip()[:READ_CHARACTERS])}"
        for turn in before[-READ_TURNS:]
    ]
    conversation = "\n".join(lines)
    asked = escaped(last.text.strip()[:QUERY_CHARACTERS])
    return [
        Message("system", _INSTRUCTIONS),
        Message("user", f"{conversation}\n\nLast message: {asked}\n\nQuery:"),
    ]


def _first_line(text: str) -> str:
    for line in text.splitlines():
        if bare := _LABEL.sub("", line.strip()).strip("\"'`* "):
            return bare[:QUERY_CHARACTERS]
    return ""
