"""The fields of `response.create` that reach the model, and those that cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness import Served, answer_text, serving
from upstream import Script, Upstream

QUESTION = "When does the ferry to Holm leave?"
PICTURE = "data:image/png;base64,iVBORw0KGgo="
SCHEMA = {"type": "json_schema", "name": "answer", "schema": {"type": "object"}}


async def test_reasoning_is_an_item_of_its_own(served: Served, upstream: Upstream) -> None:
    """What the model thinks never gets into the text, the history or the next prompt."""
    upstream.queue(Script(reasoning=("Let me ", "see. "), tokens=("At ", "7:40.")), Script())
    async with served.talk() as talk:
        await talk.until("ragsocket:hello")
        events = await talk.answer(QUESTION, reasoning={"effort": "high", "summary": "auto"})
        thought = [e["delta"] for e in events if e["type"] == "response.reasoning_text.delta"]
        assert "".join(thought) == "Let me see. "
        response = events[-1]["response"]
        kinds = ["file_search_call", "reasoning", "message"]
        assert [item["type"] for item in response["output"]] == kinds
        assert response["output"][1]["content"] == [
            {"type": "reasoning_text", "text": "Let me see. "}
        ]
        assert answer_text(response) == "At 7:40."
        assert response["reasoning"] == {"effort": "high", "summary": "auto"}
        await talk.answer(QUESTION)
    assert (await upstream.request(0)).body["reasoning_effort"] == "high"
    assert "Let me" not in str((await upstream.request(1)).messages)


async def test_a_stop_while_the_model_thinks(served: Served, upstream: Upstream) -> None:
    """The thought ends at the cut, and the answer is a message without text."""
    thought: dict[str, Any] = {"reasoning_content": "Hm. "}
    upstream.queue(Script(tokens=(thought, thought, "No"), gated=True))
    async with served.talk() as talk:
        await talk.ask(QUESTION, retrieval={"mode": "none"})
        request = await upstream.request(0)
        request.release(1)
        await talk.until("response.reasoning_text.delta")
        await talk.send({"type": "response.cancel"})
        end = await talk.terminal()
        reasoning, message = end["response"]["output"]
        assert (reasoning["status"], reasoning["content"][0]["text"]) == ("incomplete", "Hm. ")
        assert (message["status"], message["content"][0]["text"]) == ("incomplete", "")
        assert end["response"]["usage"]["output_tokens_details"] == {"reasoning_tokens": 1}


async def test_what_is_passed_on(served: Served, upstream: Upstream) -> None:
    """Sampling, format and verbosity reach the model, and the response says them."""
    fields: dict[str, Any] = {
        "temperature": 0.2,
        "top_p": 0.9,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "max_output_tokens": 50,
        "max_tool_calls": 3,
        "text": {"format": SCHEMA, "verbosity": "low"},
        "metadata": {"a": "b"},
    }
    async with served.talk() as talk:
        response = (await talk.answer(QUESTION, **fields))[-1]["response"]
    body = (await upstream.request(0)).body
    for name in ("temperature", "top_p", "presence_penalty", "frequency_penalty"):
        assert body[name] == response[name] == fields[name]
    assert (body["max_tokens"], body["verbosity"]) == (50, "low")
    schema = {"name": "answer", "schema": {"type": "object"}}
    assert body["response_format"] == {"type": "json_schema", "json_schema": schema}
    assert response["text"]["format"]["schema"] == {"type": "object"}
    assert (response["max_tool_calls"], response["metadata"]) == (3, {"a": "b"})


async def test_json_is_asked_for_even_where_the_documents_say_nothing(
    served: Served, upstream: Upstream
) -> None:
    """A refusal in plain words would not be JSON."""
    upstream.queue(Script(tokens=("{}",)))
    async with served.talk() as talk:
        text = {"format": {"type": "json_object"}}
        end = (await talk.answer("Zebra giraffe quagga?", text=text))[-1]
        assert answer_text(end["response"]) == "{}"
    assert (await upstream.request(0)).body["response_format"] == {"type": "json_object"}


async def test_the_models_limit_is_said(served: Served, upstream: Upstream) -> None:
    """`max_output_tokens` reached: incomplete, with the standard's reason."""
    upstream.queue(Script(tokens=("half",), finish_reason="length"))
    async with served.talk() as talk:
        end = (await talk.answer(QUESTION, max_output_tokens=1))[-1]
    assert end["type"] == "response.incomplete"
    assert end["response"]["status"] == "incomplete"
    assert end["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


async def test_system_messages_hold_for_what_follows(served: Served, upstream: Upstream) -> None:
    """They join the instructions, also of later answers; `instructions` are for one answer."""
    upstream.queue(Script(), Script())
    async with served.talk() as talk:
        told = [
            {"role": "developer", "content": "Speak Danish."},
            {"role": "user", "content": QUESTION},
        ]
        await talk.send({"type": "response.create", "input": told, "instructions": "Be brief!"})
        await talk.terminal()
        await talk.answer("And back?")
    first, second = [(await upstream.request(n)).messages for n in (0, 1)]
    assert "Speak Danish." in first[0]["content"]
    assert "Be brief!" in first[0]["content"]
    assert "Speak Danish." in second[0]["content"]
    assert "Be brief!" not in second[0]["content"]
    assert [m["role"] for m in second] == ["system", "user", "assistant", "user"]


async def test_without_truncation_a_long_history_fails(upstream: Upstream, state: Path) -> None:
    """`auto` leaves the oldest out, `disabled` says that it does not fit."""
    upstream.queue(Script(tokens=("long " * 300,)), Script(), Script())
    fields: dict[str, Any] = {"upstream": upstream, "context_tokens": 600}
    async with serving(state, **fields) as served, served.talk() as talk:
        await talk.answer(QUESTION)
        end = (await talk.answer(QUESTION, truncation="disabled"))[-1]
        assert end["type"] == "response.failed"
        assert end["response"]["ragsocket"]["code"] == "input_too_large"
        assert end["response"]["truncation"] == "disabled"
        assert (await talk.answer(QUESTION))[-1]["type"] == "response.completed"


def shown(text: str) -> list[dict[str, Any]]:
    """A question about a picture."""
    parts = [
        {"type": "input_text", "text": text},
        {"type": "input_image", "image_url": PICTURE, "detail": "low"},
    ]
    return [{"role": "user", "content": parts}]


async def test_pictures_for_models_that_take_them(upstream: Upstream, state: Path) -> None:
    """A picture goes to the model with its text, and again with what is asked after it."""
    async with serving(state, upstream=upstream, llm_images=True) as served, served.talk() as talk:
        await talk.send({"type": "response.create", "input": shown("What is this?")})
        await talk.terminal()
        await talk.answer("And its colour?", retrieval={"mode": "none"})
    picture = {"type": "image_url", "image_url": {"url": PICTURE, "detail": "low"}}
    for number in (0, 1):
        messages = (await upstream.request(number)).messages
        assert messages[1]["content"][0] == picture
        assert messages[1]["content"][1]["text"].endswith("What is this?")


@pytest.mark.parametrize("with_model", [True, False])
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"input": shown("What is this?")}, "input_image"),
        ({"tools": [{"type": "function", "name": "f"}]}, "tools"),
        ({"text": {"format": SCHEMA}}, "text.format"),
    ],
)
async def test_what_the_model_cannot_do_is_refused_by_name(
    upstream: Upstream, state: Path, fields: dict[str, Any], said: str, with_model: bool
) -> None:
    """No model takes no functions, formats and pictures; a model takes pictures if it is told."""
    model = upstream if with_model else None
    async with serving(state, upstream=model) as served, served.talk() as talk:
        await talk.send({"type": "response.create", "input": QUESTION, **fields})
        end = await talk.terminal()
    refused = not with_model or said == "input_image"
    assert (end["type"] == "response.failed") is refused
    if refused:
        assert end["response"]["ragsocket"]["code"] == "unsupported_parameter"
        assert said in end["response"]["error"]["message"]
