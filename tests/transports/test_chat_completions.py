"""`/v1/chat/completions` and `/v1/models`, by hand and with the official client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import openai
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from harness import PATIENCE_S, Served
from ragsocket.protocol.chat import CHAT_REFUSED
from upstream import Script, Upstream

FERRY = "When does the ferry to Holm leave?"
URL = "/v1/chat/completions"


def ask(*contents: str, **fields: Any) -> dict[str, Any]:
    """A request: a conversation in which user and assistant take turns."""
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": text} for n, text in enumerate(contents)]
    return {"messages": messages, **fields}


@asynccontextmanager
async def official(served: Served) -> AsyncIterator[AsyncOpenAI]:
    """The official client, which repeats nothing by itself."""
    url = f"http://{served.address}/v1"
    async with AsyncOpenAI(
        base_url=url, api_key="none", max_retries=0, timeout=PATIENCE_S
    ) as client:
        yield client


async def release(upstream: Upstream, tokens: int) -> None:
    """Let the first tokens of the first answer go."""
    (await upstream.request(0)).release(tokens)


async def test_the_official_client_gets_an_answer_with_its_sources(
    served: Served, upstream: Upstream
) -> None:
    """Text, reason, counts, and the passages as an extra; the answer can be looked up after."""
    upstream.queue(Script(tokens=("At ", "7:40 ", "[1].")))
    async with official(served) as client:
        answer = await client.chat.completions.create(
            model="scripted", messages=[{"role": "user", "content": FERRY}], temperature=0.5
        )
    assert answer.choices[0].message.content == "At 7:40 [1]."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3
    assert answer.model_extra is not None
    assert answer.model_extra["sources"][0]["filename"] == "ferry.md"
    assert upstream.requests[0].body["temperature"] == 0.5
    stored = answer.id.replace("chatcmpl-", "resp_")
    record = await served.runner.history.get(stored, owner="local")
    assert record is not None


async def test_the_official_client_streams(served: Served, upstream: Upstream) -> None:
    """Every token as it comes, the passages in the first chunk, the counts in the last."""
    upstream.queue(Script(tokens=("At ", "7:40", ' "é".'), gated=True))
    chunks: list[Any] = []
    async with official(served) as client, anyio.create_task_group() as tasks:
        tasks.start_soon(release, upstream, 1)
        async with client.chat.completions.stream(
            model="scripted",
            messages=[{"role": "user", "content": FERRY}],
            stream_options={"include_usage": True},
        ) as events:
            async for event in events:
                if event.type == "chunk":
                    chunks.append(event.chunk)
                    upstream.requests[0].release(1)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == 'At 7:40 "é".'
    assert chunks[0].model_extra is not None
    assert chunks[0].model_extra["sources"][0]["filename"] == "ferry.md"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 3


async def test_both_forms_are_the_standards(served: Served, upstream: Upstream) -> None:
    """Object and chunks validate strictly against the official types, extras aside."""
    upstream.default = Script(tokens=("a ", "b"))
    async with served.http() as http:
        whole = (await http.post(URL, json=ask(FERRY))).json()
        assert whole.pop("sources")
        ChatCompletion.model_validate(whole, strict=False, extra="forbid")
        streamed = await http.post(URL, json=ask(FERRY, stream=True))
    assert streamed.headers["content-type"].startswith("text/event-stream")
    *lines, last = [line for line in streamed.text.split("\n\n") if line]
    assert last == "data: [DONE]"
    for line in lines:
        chunk = json.loads(line.removeprefix("data: "))
        chunk.pop("sources", None)
        ChatCompletionChunk.model_validate(chunk, extra="forbid")
        assert "usage" not in chunk


async def test_the_whole_conversation_is_the_history(served: Served, upstream: Upstream) -> None:
    """It reaches the model in order, system messages as instructions, and widens the search."""
    request = ask(FERRY, "At 7:40.", "And dogs?")
    request["messages"].insert(0, {"role": "system", "content": "Speak like a pirate."})
    async with served.http() as http:
        answer = await http.post(URL, json=request)
    assert answer.json()["sources"][0]["filename"] == "ferry.md"
    messages = upstream.requests[0].messages
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert "Speak like a pirate." in messages[0]["content"]
    assert messages[1]["content"] == FERRY


@pytest.mark.parametrize(
    "wording",
    [
        "### Task:\nGenerate a title.\n<chat_history>\nUSER: ferry to Holm\n</chat_history>",
        "Provide a concise, 5-word-or-less title for the conversation about the ferry to Holm",
    ],
)
async def test_what_a_front_end_asks_for_itself_is_not_searched(
    served: Served, upstream: Upstream, wording: str
) -> None:
    """A title is made of the conversation; unless the request says how to search."""
    async with served.http() as http:
        answer = await http.post(URL, json=ask(wording))
        assert answer.json()["sources"] == []
        answer = await http.post(URL, json=ask(wording, retrieval={"mode": "sparse"}))
        assert answer.json()["sources"] != []
    assert "passage" not in upstream.requests[0].messages[-1]["content"]


@pytest.mark.parametrize("stream", [True, False])
async def test_going_away_stops_the_model(
    served: Served, upstream: Upstream, *, stream: bool
) -> None:
    """At once, and what was handed out is what is kept."""
    upstream.queue(Script(gated=True))
    async with served.http() as http:
        if stream:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(release, upstream, 1)
                async with http.stream("POST", URL, json=ask(FERRY, stream=True)) as answer:
                    async for line in answer.aiter_lines():
                        if '"content":"w0' in line:
                            break
        else:
            async with anyio.create_task_group() as tasks:

                async def give_up() -> None:
                    await upstream.request(0)
                    tasks.cancel_scope.cancel()

                tasks.start_soon(give_up)
                await http.post(URL, json=ask(FERRY))
    request = upstream.requests[0]
    await request.closed()
    await served.idle()
    assert request.left is not None
    assert request.left.written <= 1


async def read(client: AsyncOpenAI, messages: Any) -> None:
    """Stream an answer to its end."""
    async with client.chat.completions.stream(model="scripted", messages=messages) as events:
        async for _ in events:
            pass


async def test_a_limit_and_a_failure_are_told(served: Served, upstream: Upstream) -> None:
    """`length` for the one; the standard's error, before the first word or in mid-text."""
    upstream.queue(
        Script(tokens=("a ",), finish_reason="length"),
        Script(status=429),
        Script(tokens=("a ", "b"), error_at=1),
    )
    async with official(served) as client:
        messages: Any = [{"role": "user", "content": FERRY}]
        cut = await client.chat.completions.create(model="scripted", messages=messages)
        assert cut.choices[0].finish_reason == "length"
        with pytest.raises(openai.RateLimitError):
            await client.chat.completions.create(model="scripted", messages=messages)
        with pytest.raises(openai.APIError) as raised:
            await read(client, messages)
        assert raised.value.code == "upstream_failed"


@pytest.mark.parametrize(
    ("body", "status", "param", "words"),
    [
        (b"{", 400, None, "the body is not JSON"),
        (b"[]", 400, None, "Send one JSON object as the body"),
        ({"messages": []}, 400, "messages", "at least 1 item"),
        ({}, 400, "messages", "messages is missing"),
        (ask(FERRY, n=2), 400, "n", "input should be 1"),
        (ask(FERRY, colour="red"), 400, "colour", "is not a field of this request"),
        (ask(FERRY, "At 7:40."), 400, "messages", "must be the user's"),
        (ask(" "), 400, "messages", "must be the user's"),
        (ask(FERRY, model="gpt-9"), 404, "model", "there is scripted"),
        (ask(FERRY, temperature=9), 400, "temperature", "less than or equal to 2"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages[0].role", "input should"),
    ],
)
async def test_bad_requests_are_told_what_is_wrong(
    served: Served, upstream: Upstream, body: Any, status: int, param: str | None, words: str
) -> None:
    """In the standard's shape, with the field's name, and the model is never asked."""
    found, error = await served.refusal(URL, body)
    assert (found, error["param"]) == (status, param)
    assert words in error["message"]
    assert upstream.requests == []


async def test_fields_that_would_change_the_answer_are_refused_by_name(served: Served) -> None:
    """Each with its reason; the values that ask for nothing pass, as front ends send them."""
    async with served.http() as http:
        for name in CHAT_REFUSED:
            answer = await http.post(URL, json=ask(FERRY, **{name: ["x"]}))
            assert answer.status_code == 400
            assert answer.json()["error"]["param"] == name
        nothing = dict.fromkeys(CHAT_REFUSED) | {"presence_penalty": 0, "tools": [], "store": True}
        answer = await http.post(URL, json=ask(FERRY, seed=1, **nothing))
        assert answer.status_code == 200


async def test_a_body_has_a_limit(served: Served, upstream: Upstream) -> None:
    """It is read no further than that."""
    async with served.http() as http:
        answer = await http.post(URL, content=b" " * (served.settings.max_frame_bytes + 1))
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "body_too_large"
    assert upstream.requests == []


async def test_models_are_listed_and_looked_up(served: Served) -> None:
    """By the official client; an unknown one is a 404 that names those there are."""
    async with official(served) as client:
        assert [model.id async for model in client.models.list()] == ["scripted"]
        assert (await client.models.retrieve("scripted")).id == "scripted"
        with pytest.raises(openai.NotFoundError, match="there is scripted"):
            await client.models.retrieve("org/other")
