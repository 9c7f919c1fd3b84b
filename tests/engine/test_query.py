"""What is searched for."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import anyio
import pytest

from ragsocket.engine.base import QueryFrom, Question, Turn, Usage
from ragsocket.engine.query import Query, last_turn, make_query, search_query
from ragsocket.engine.token_stream import OpenAICompatible
from upstream import Script, Upstream

FOLLOW_UP = [
    Turn("user", "When does the ferry to Holm leave?"),
    Turn("assistant", "At 7:40 </passages>."),
    Turn("user", "And in winter?"),
]
JOINED = "And in winter?\nWhen does the ferry to Holm leave?"


def user(text: str) -> Turn:
    """What the user said."""
    return Turn("user", text)


def answer(text: str) -> Turn:
    """What was answered."""
    return Turn("assistant", text)


def test_the_last_three_user_turns_are_searched_for_newest_first() -> None:
    """A follow-up finds its topic; where something is cut off, it is the oldest."""
    turns = [user("one"), answer("x"), user("two"), answer("y"), user("three"), user(" four ")]
    assert search_query(turns) == "four\nthree\ntwo"
    assert last_turn(turns) == "four"
    assert last_turn([answer("x")]) == ""
    long = [user("old"), answer("x"), user("new " * 2000)]
    for query in (search_query(long), last_turn(long)):
        assert query.startswith("new")
        assert len(query) <= 2000


async def made(
    upstream: Upstream | None,
    turns: Sequence[Turn] = FOLLOW_UP,
    made_of: QueryFrom = "model",
    within_s: float = 20,
) -> tuple[Query, list[Usage]]:
    """The query, and the token counts before it."""
    tokens = OpenAICompatible(upstream.url, ["scripted"]) if upstream else None
    question = Question(turns, "local", "scripted")
    async with aclosing(make_query(question, made_of, tokens, within_s=within_s)) as steps:
        *counts, query = [step async for step in steps]
    if tokens is not None:
        await tokens.aclose()
    assert isinstance(query, Query)
    return query, [count for count in counts if isinstance(count, Usage)]


async def test_a_model_writes_the_query_of_a_follow_up(upstream: Upstream) -> None:
    """It reads the conversation, in which nothing is a delimiter; its first line is the query."""
    upstream.queue(Script(tokens=("\n", "Query: ", '"ferry to Holm ', 'in winter"', "\nIt leaves")))
    query, counts = await made(upstream)
    assert query == Query("ferry to Holm in winter", "model")
    assert counts[0].estimated
    assert counts[0].output_tokens == 0
    assert counts[-1] == Usage(counts[-1].input_tokens, 5, estimated=False)
    body = upstream.requests[0].body
    assert body["temperature"] == 0
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    read = body["messages"][1]["content"]
    assert "User: When does the ferry to Holm leave?\nAssistant: At 7:40" in read
    assert "And in winter?" in read
    assert "</passages>" not in read


@pytest.mark.parametrize(
    "script",
    [
        Script(status=500),
        Script(cut=1),
        Script(tokens=("\n", '  "" ')),
        Script(tokens=(), reasoning=("hm",)),
    ],
)
async def test_where_the_model_writes_none_the_turns_are_searched_for(
    upstream: Upstream, script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    """A failure, half an answer and no text all come to the last turns, and the log says why."""
    upstream.queue(script)
    query, _ = await made(upstream)
    assert query == Query(JOINED, "turns")
    assert "the model wrote no query" in caplog.text


async def test_a_model_that_takes_too_long_is_stopped(upstream: Upstream) -> None:
    """Its deadline closes the connection, and what it wrote by then is counted."""
    upstream.queue(Script(gated=True))
    counts: list[Usage] = []
    queries: list[Query] = []

    async def ask() -> None:
        query, usage = await made(upstream, within_s=1)
        queries.append(query)
        counts.extend(usage)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        request = await upstream.request(0)
        request.release(2)
        left = await request.closed()
    assert queries == [Query(JOINED, "turns")]
    assert left.written == 2
    assert counts[-1].output_tokens == 2
    assert counts[-1].estimated


@pytest.mark.parametrize(
    ("options", "query"),
    [
        ({"made_of": "turns"}, Query(JOINED, "turns")),
        ({"made_of": "last"}, Query("And in winter?", "last")),
        ({"turns": FOLLOW_UP[:1]}, Query(FOLLOW_UP[0].text, "turns")),
        ({"turns": [answer("Hello."), *FOLLOW_UP[:1]]}, Query(FOLLOW_UP[0].text, "turns")),
    ],
)
async def test_the_model_is_not_asked_without_need(
    upstream: Upstream, options: dict[str, Any], query: Query
) -> None:
    """Other queries, and first questions, cost no call."""
    assert await made(upstream, **options) == (query, [])
    assert not upstream.requests
    assert (await made(None, **options))[0] == query
