"""`/v1/chat/completions` and `/v1/models`, by hand and with the official client."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import openai
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from harness import Served, official, serving
from ragsocket.protocol.chat import CHAT_REFUSED
from upstream import Script, Upstream, calls

FERRY = "When does the ferry to Holm leave?"
URL = "/v1/chat/completions"


def ask(*contents: str, **fields: Any) -> dict[str, Any]:
    """A request: a conversation in which user and assistant take turns."""
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": text} for n, text in enumerate(contents)]
    return {"messages": messages, **fields}


TIDE: Any = {"name": "tide", "parameters": {"type": "object"}}
TOOLS: Any = [{"type": "function", "function": TIDE}]
CALL: Any = {"id": "call_x", "type": "function", "function": {"name": "tide", "arguments": "{}"}}
SEA: Any = {"type": "function", "function": {"name": "sea"}}
SHIP: Any = {"type": "image_url", "image_url": {"url": "https://holm.example/ship.png"}}


def says(**fields: Any) -> dict[str, Any]:
    """A request of one message, a user's unless it says otherwise."""
    return {"messages": [{"role": "user", "content": "x", **fields}]}


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


async def test_a_function_is_called_and_its_output_handed_in(
    served: Served, upstream: Upstream
) -> None:
    """The official client gets the call and answers it; the model sees both, and no passages."""
    upstream.queue(
        Script(
            tokens=("Let me look. ", *calls("tide", '{"at":', '"Holm"}', id="call_x")),
            finish_reason="tool_calls",
        ),
        Script(tokens=("At nine.",)),
    )
    messages: list[Any] = [{"role": "user", "content": FERRY}]
    async with official(served) as client:
        first = await client.chat.completions.create(
            model="scripted", messages=messages, tools=TOOLS, tool_choice="required"
        )
        assert first.choices[0].finish_reason == "tool_calls"
        told = first.choices[0].message
        assert told.content == "Let me look. "
        assert told.tool_calls is not None
        (call,) = told.tool_calls
        assert call.type == "function"
        assert (call.id, call.function.arguments) == ("call_x", '{"at":"Holm"}')
        messages += [told.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": "9"}]
        second = await client.chat.completions.create(
            model="scripted", messages=messages, tools=TOOLS
        )
    assert second.choices[0].message.content == "At nine."
    assert second.choices[0].finish_reason == "stop"
    asked = upstream.requests[0].body
    assert (asked["tools"], asked["tool_choice"]) == (TOOLS, "required")
    prompt = upstream.requests[1].messages
    assert [message["role"] for message in prompt] == ["system", "user", "assistant", "tool"]
    assert prompt[2]["content"] == "Let me look. "
    assert prompt[2]["tool_calls"][0]["function"]["arguments"] == '{"at":"Holm"}'
    assert prompt[3]["content"] == "9"
    assert FERRY in prompt[1]["content"]
    assert "passage" not in prompt[1]["content"]


async def test_calls_and_thoughts_are_streamed(served: Served, upstream: Upstream) -> None:
    """In pieces that the official client puts together; the thoughts stay out of the text."""
    upstream.queue(
        Script(
            tokens=(
                {"reasoning_content": "Two ports."},
                *calls("tide", '{"at":', '"Holm"}'),
                *calls("tide", "{}", index=1),
            ),
            finish_reason="tool_calls",
        )
    )
    chunks: list[ChatCompletionChunk] = []
    async with official(served) as client:
        async with client.chat.completions.stream(
            model="scripted", messages=[{"role": "user", "content": FERRY}], tools=TOOLS
        ) as events:
            async for event in events:
                if event.type == "chunk":
                    chunks.append(event.chunk)
            whole = (await events.get_final_completion()).choices[0]
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk.model_dump(exclude_unset=True, warnings=False))
    assert whole.finish_reason == "tool_calls"
    assert not whole.message.content
    assert whole.message.tool_calls is not None
    assert [(one.id, one.function.arguments) for one in whole.message.tool_calls] == [
        ("call_0", '{"at":"Holm"}'),
        ("call_1", "{}"),
    ]
    extras = [chunk.choices[0].delta.model_extra or {} for chunk in chunks if chunk.choices]
    assert [e["reasoning_content"] for e in extras if "reasoning_content" in e] == ["Two ports."]


async def test_thoughts_and_a_cut_call_of_a_whole_answer(
    served: Served, upstream: Upstream
) -> None:
    """The thoughts stand beside the text; a call that the limit cut off is not handed out."""
    upstream.queue(
        Script(tokens=({"reasoning_content": "Hm."}, "At ", "nine.")),
        Script(tokens=calls("tide", '{"at":'), finish_reason="length"),
    )
    async with served.http() as http:
        answer = (await http.post(URL, json=ask(FERRY))).json()["choices"][0]
        assert answer["message"]["reasoning_content"] == "Hm."
        assert answer["message"]["content"] == "At nine."
        cut = (await http.post(URL, json=ask(FERRY, tools=TOOLS))).json()["choices"][0]
        assert cut["finish_reason"] == "length"
        assert "tool_calls" not in cut["message"]


async def test_fields_of_the_model_reach_it(served: Served, upstream: Upstream) -> None:
    """Under the names that they came with; functions beside a search if `retrieval` is there."""
    schema = {"name": "time", "schema": {"type": "object"}, "strict": True}
    passed_on: dict[str, Any] = {
        "stop": ["END"],
        "seed": 7,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "reasoning_effort": "low",
        "verbosity": "low",
        "response_format": {"type": "json_schema", "json_schema": schema},
        "parallel_tool_calls": False,
        "tools": TOOLS,
    }
    async with served.http() as http:
        answer = await http.post(URL, json=ask(FERRY, **passed_on, retrieval={"mode": "sparse"}))
        assert answer.json()["sources"] != []
        await http.post(URL, json=ask(FERRY, stop="END", response_format={"type": "json_object"}))
    body = upstream.requests[0].body
    assert {name: body[name] for name in passed_on} == passed_on
    body = upstream.requests[1].body
    assert (body["stop"], body["response_format"]) == (["END"], {"type": "json_object"})


async def test_pictures_reach_a_model_that_takes_them(state: Path, upstream: Upstream) -> None:
    """If the operator says that it does, with their detail."""
    async with serving(state, upstream=upstream, llm_images=True) as served, served.http() as http:
        ship = {"type": "image_url", "image_url": {**SHIP["image_url"], "detail": "low"}}
        parts = [{"type": "text", "text": FERRY}, ship]
        answer = await http.post(URL, json=says(content=parts))
        assert answer.status_code == 200
    content = upstream.requests[0].messages[-1]["content"]
    assert ship in content


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
        (says(role="robot"), 400, "messages[0].role", "input should"),
        (says(role="tool"), 400, "messages[0]", "tool_call_id belongs"),
        (says(tool_call_id="x"), 400, "messages[0]", "tool_call_id belongs"),
        (says(role="tool", tool_call_id="x"), 400, "messages[0].tool_call_id", "no call"),
        (says(tool_calls=[CALL]), 400, "messages[0]", "only messages of the assistant"),
        (says(role="system", content=[SHIP]), 400, "messages[0]", "only messages of the user"),
        (says(content=[SHIP]), 400, None, "takes no pictures"),
        (
            says(content=[{"type": "image_url", "image_url": {"url": "ship.png"}}]),
            400,
            "messages[0].content[0].image_url.url",
            "write it as https",
        ),
        (ask(FERRY, tools=[{"type": "retrieval"}]), 400, "tools[0].type", "input should be 'func"),
        (ask(FERRY, tools=TOOLS, tool_choice=SEA), 400, "tool_choice", "no function 'sea'"),
        (ask(FERRY, stop=["x"] * 5), 400, "stop", "at most 4"),
        (ask(FERRY, response_format={"type": "xml"}), 400, "response_format", "must be one of"),
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
        nothing = dict.fromkeys(CHAT_REFUSED) | {"logit_bias": {}, "store": True}
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
