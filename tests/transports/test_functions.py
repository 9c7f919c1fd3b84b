"""Function tools over a socket: calls go out, outputs come back, and the history stays valid."""

from __future__ import annotations

from typing import Any

from harness import Event, Served, Talk, answer_text, text_of
from upstream import Script, Upstream, calls

QUESTION = "When is high tide at Holm?"
TIDE: dict[str, Any] = {
    "type": "function",
    "name": "tide",
    "description": "Looks the tide up.",
    "parameters": {"type": "object", "properties": {"port": {"type": "string"}}},
}
SEARCH = {"type": "file_search"}
ARGUMENTS = '{"port":"Holm"}'


def output(call_id: str, text: str) -> Event:
    """What the function gave, as an input item."""
    return {"type": "function_call_output", "call_id": call_id, "output": text}


def types(events: list[Event]) -> list[str]:
    """The types of events, without what they begin with."""
    return [event["type"].removeprefix("response.") for event in events]


async def follow_up(talk: Talk, items: list[Event], **fields: Any) -> list[Event]:
    """Hand items in, and return every event of the answer."""
    first = len(talk.seen)
    await talk.send({"type": "response.create", "input": items, **fields})
    await talk.terminal()
    return talk.seen[first:]


async def test_a_call_and_its_output(served: Served, upstream: Upstream) -> None:
    """The model calls, the client answers, and the model goes on with all of it in its prompt."""
    upstream.queue(
        Script(
            tokens=calls("tide", '{"port":', '"Holm"}', id="call_x"), finish_reason="tool_calls"
        ),
        Script(tokens=("At ", "nine.")),
        Script(tokens=("As said, at nine.",)),
    )
    async with served.talk() as talk:
        await talk.until("ragsocket:hello")
        events = await talk.answer(QUESTION, tools=[TIDE])
        assert types(events) == [
            "created",
            "in_progress",
            "output_item.added",
            *["function_call_arguments.delta"] * (len(events) - 6),
            "function_call_arguments.done",
            "output_item.done",
            "completed",
        ]
        deltas = [e["delta"] for e in events if e["type"].endswith("arguments.delta")]
        assert "".join(deltas) == ARGUMENTS
        (call,) = events[-1]["response"]["output"]
        assert (call["call_id"], call["name"], call["arguments"]) == ("call_x", "tide", ARGUMENTS)
        assert text_of(events) == ""

        end = (await follow_up(talk, [output("call_x", "At nine.")], tools=[TIDE]))[-1]
        assert answer_text(end["response"]) == "At nine."
        await talk.answer("Say it again.", tools=[TIDE])

    first = (await upstream.request(0)).body
    assert first["tools"] == [
        {"type": "function", "function": {k: v for k, v in TIDE.items() if k != "type"}}
    ]
    second = (await upstream.request(1)).messages
    assert [m["role"] for m in second] == ["system", "user", "assistant", "tool"]
    assert second[2]["tool_calls"][0]["function"] == {"name": "tide", "arguments": ARGUMENTS}
    assert (second[3]["tool_call_id"], second[3]["content"]) == ("call_x", "At nine.")
    third = (await upstream.request(2)).messages
    assert [m["role"] for m in third[1:]] == ["user", "assistant", "tool", "assistant", "user"]


async def test_two_calls_at_once_and_one_when_that_is_asked_for(
    served: Served, upstream: Upstream
) -> None:
    """Parallel calls are items of their own; `parallel_tool_calls: false` leaves the first."""
    both = (*calls("tide", "{}"), *calls("tide", "[]", index=1))
    upstream.queue(Script(tokens=both), Script(tokens=both))
    async with served.talk("/v1/responses") as talk:
        many = (await talk.answer(QUESTION, tools=[TIDE]))[-1]["response"]
        assert [item["arguments"] for item in many["output"]] == ["{}", "[]"]
        one = await talk.answer(QUESTION, tools=[TIDE], parallel_tool_calls=False)
        assert [item["arguments"] for item in one[-1]["response"]["output"]] == ["{}"]
        assert one[-1]["response"]["parallel_tool_calls"] is False
    assert (await upstream.request(1)).body["parallel_tool_calls"] is False


async def test_search_and_functions_side_by_side(served: Served, upstream: Upstream) -> None:
    """With `file_search` beside a function both happen, and the gate leaves it to the model."""
    upstream.queue(Script(tokens=("I look. ", *calls("tide", "{}"))), Script(), Script())
    async with served.talk() as talk:
        events = await talk.answer("Zebras?", tools=[TIDE, SEARCH])
        output = events[-1]["response"]["output"]
        assert [item["type"] for item in output] == [
            "file_search_call",
            "message",
            "function_call",
        ]
        assert [e["output_index"] for e in events if e["type"].endswith("item.added")] == [0, 1, 2]
        alone = await talk.answer("When?", tools=[TIDE], tool_choice="required")
        assert "file_search_call.searching" not in " ".join(types(alone))
        none = await talk.answer("When?", tools=[TIDE, SEARCH], tool_choice="none")
        assert "output_item.added" in types(none)
        assert "file_search_call.searching" not in types(none)
    assert "tool_choice" not in (await upstream.request(0)).body
    assert (await upstream.request(1)).body["tool_choice"] == "required"
    assert "tools" not in (await upstream.request(2)).body


async def test_a_required_search_is_made_for_small_talk_too(
    served: Served, upstream: Upstream
) -> None:
    """`tool_choice: required` with the search alone searches, whatever the question looks like."""
    upstream.queue(Script(), Script())
    async with served.talk("/v1/responses") as talk:
        for choice, searched in (("auto", 0), ("required", 1)):
            events = await talk.answer("Hello!", tools=[SEARCH], tool_choice=choice)
            assert types(events).count("file_search_call.searching") == searched


async def test_a_stop_in_the_middle_of_a_call(served: Served, upstream: Upstream) -> None:
    """The half call is incomplete, and the next prompt holds no trace of it but the cut."""
    upstream.queue(
        Script(tokens=calls("tide", '{"po', 'rt":"Holm"}'), gated=True), Script(tokens=("Yes.",))
    )
    async with served.talk() as talk:
        await talk.ask(QUESTION, tools=[TIDE])
        request = await upstream.request(0)
        request.release(2)
        await talk.until("response.function_call_arguments.delta")
        await talk.send({"type": "response.cancel"})
        end = await talk.terminal()
        await request.closed()
        (call,) = end["response"]["output"]
        assert (call["status"], call["arguments"]) == ("incomplete", '{"po')
        assert not any(e["type"].endswith("arguments.done") for e in talk.seen)
        await talk.answer("Are you there?", tools=[TIDE])
    messages = (await upstream.request(1)).messages
    assert [m["role"] for m in messages] == ["system", "user", "assistant", "user"]
    assert "tool_calls" not in messages[2]
    assert "cut off" in messages[3]["content"]


async def test_a_model_that_dies_in_the_middle_of_a_call(
    served: Served, upstream: Upstream
) -> None:
    """The response fails, and keeps what was whole."""
    tokens = (*calls("tide", "{}"), *calls("tide", "{", "}", index=1))
    upstream.queue(Script(tokens=tokens, cut=4))
    async with served.talk() as talk:
        end = (await talk.answer(QUESTION, tools=[TIDE]))[-1]
        assert end["type"] == "response.failed"
        statuses = [item["status"] for item in end["response"]["output"]]
        assert statuses == ["completed", "incomplete"]


async def test_an_output_that_nothing_asked_for(served: Served, upstream: Upstream) -> None:
    """It is refused by the id that it names, and the model is not asked."""
    async with served.talk() as talk:
        end = (await follow_up(talk, [output("call_unknown", "1")]))[-1]
        assert end["response"]["ragsocket"]["code"] == "function_call_not_found"
        assert "call_unknown" in end["response"]["error"]["message"]
    assert not upstream.requests


async def test_a_client_that_keeps_the_history_itself(served: Served, upstream: Upstream) -> None:
    """The items of an answer are handed back just as they came, with the output behind them."""
    upstream.queue(
        Script(reasoning=("Hm.",), tokens=("I look. ", *calls("tide", "{}"))),
        Script(tokens=("At nine.",)),
    )
    async with served.talk("/v1/responses") as talk:
        asked = {"role": "user", "content": QUESTION}
        first = (await follow_up(talk, [asked], tools=[TIDE]))[-1]["response"]
        items = [asked, *first["output"], output(first["output"][-1]["call_id"], "Nine.")]
        end = (await follow_up(talk, items, tools=[TIDE]))[-1]
        assert answer_text(end["response"]) == "At nine."
    messages = (await upstream.request(1)).messages
    assert [m["role"] for m in messages] == ["system", "user", "assistant", "tool"]
    assert messages[2]["content"] == "I look. "
    assert "Hm." not in str(messages)


async def test_calls_that_cannot_be_read(served: Served, upstream: Upstream) -> None:
    """Arguments of no call are garbage of the model's server, and say so."""
    piece = {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}
    upstream.queue(Script(tokens=(piece,)))
    async with served.talk() as talk:
        end = (await talk.answer(QUESTION, tools=[TIDE]))[-1]
        assert end["response"]["ragsocket"]["code"] == "upstream_garbage"
