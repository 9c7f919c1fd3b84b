"""Bad input on a socket: an error that names the fault, and the socket lives; or a close code."""

from __future__ import annotations

import contextlib
import json

import pytest
import websockets

from harness import Served
from upstream import Script, Upstream, words

GOOD = "When does the ferry to Holm leave?"


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("{", "invalid_json"),
        ("\x00", "invalid_json"),
        ('{"type":"response.destroy"}', "unknown_event_type"),
        ('{"type":"response.create","input":"a","event_id":"e9","temprature":1}', "invalid_event"),
        ('{"type":"response.create","input":"a","event_id":"e9","model":"x"}', "model_not_found"),
        (b"\x00\x01", "binary_frame"),
        (b'{"type":"ragsocket:ping"}', "binary_frame"),
        ("[" * 10_000 + "]" * 10_000, "invalid_json"),
        ('{"type":"response.create","input":"a","top_p":' + "9" * 5_000 + "}", "invalid_json"),
        (
            '{"type":"response.create","input":"a","event_id":"e9","previous_response_id":"r"}',
            "previous_response_not_found",
        ),
        (
            '{"type":"response.create","input":"a","event_id":"e9","conversation":"c"}',
            "conversation_not_found",
        ),
        ("\U0001f600" * 100_000, "invalid_json"),
    ],
)
async def test_the_socket_lives(served: Served, frame: str | bytes, code: str) -> None:
    """A bad frame gets one error with its code, and the next good question is answered."""
    async with served.talk() as talk:
        await talk.recv()
        await talk.send(frame)
        error = await talk.recv()
        assert (error["type"], error["code"], error["error"]["code"]) == ("error", code, code)
        assert error["message"] == error["error"]["message"]
        if isinstance(frame, str) and "e9" in frame:
            assert error["error"]["event_id"] == "e9"
        assert (await talk.answer(GOOD))[-1]["type"] == "response.completed"


async def test_a_frame_that_is_too_big_closes_with_1009(served: Served) -> None:
    """17 MB are refused by the frame's header, without being read into memory."""
    async with served.talk() as talk:
        await talk.recv()
        with contextlib.suppress(websockets.ConnectionClosed):
            await talk.send("x" * 17_000_000)
        assert await talk.close_code() == 1009


async def test_too_many_malformed_frames_close_with_4400(served: Served) -> None:
    """A client that sends nothing but rubbish is closed once its budget is spent."""
    async with served.talk() as talk:
        for _ in range(served.settings.malformed_budget + 1):
            await talk.send("{")
        assert await talk.close_code() == 4400
        errors = [e for e in talk.seen if e["type"] == "error"]
        assert len(errors) == served.settings.malformed_budget + 1


async def test_rubbish_beside_a_running_answer_closes_all_the_same(
    served: Served, upstream: Upstream
) -> None:
    """An endless answer does not keep a spent socket open; the answer goes on for its grace."""
    upstream.queue(Script(tokens=words(1_000_000)))
    async with served.talk() as talk:
        await talk.ask(GOOD)
        await talk.until("response.output_text.delta")
        for _ in range(served.settings.malformed_budget + 1):
            await talk.send("{")
        assert await talk.close_code() == 4400
    assert served.runner.running == 1
    upstream.stop()


async def test_lanes_are_bounded(served: Served) -> None:
    """One lane too many is an error that names the limit; the lanes that there are go on."""
    async with served.talk() as talk:
        await talk.recv()
        for n in range(served.settings.max_lanes - 1):
            await talk.ask(GOOD, stream_id=f"s{n}")
            await talk.terminal()
        await talk.ask(GOOD, stream_id="one-too-many", event_id="e1")
        error = await talk.recv()
        assert (error["code"], error["stream_id"]) == ("too_many_lanes", "one-too-many")
        assert (await talk.answer(GOOD))[-1]["type"] == "response.completed"


async def test_unfinished_responses_are_bounded(served: Served) -> None:
    """Asking faster than answers come is refused at the limit, and nothing is lost."""
    async with served.talk() as talk:
        await talk.recv()
        count = served.settings.max_unfinished + 1
        for n in range(count):
            await talk.ask(GOOD, event_id=f"e{n}")
        outcomes = [await talk.until("error", "response.completed") for _ in range(count)]
    refused = [e for e in outcomes if e["type"] == "error"]
    assert [e["code"] for e in refused] == ["too_many_responses"]


async def test_the_same_ask_twice_is_one_answer(served: Served) -> None:
    """The same `event_id` again is not asked again; with another body it is refused."""
    async with served.talk() as talk:
        await talk.recv()
        events = await talk.answer(GOOD, event_id="e1")
        await talk.ask(GOOD, event_id="e1")
        assert [await talk.recv() for _ in events] == events
        await talk.ask("Another question?", event_id="e1")
        error = await talk.recv()
        assert (error["code"], error["status"]) == ("idempotency_conflict", 409)


async def test_an_error_says_it_in_both_forms(served: Served) -> None:
    """An `error` has the flat and the nested form, for clients of both kinds."""
    async with served.talk("/v1/responses") as talk:
        await talk.send(json.dumps({"type": "response.create", "event_id": "e1", "stream_id": "s"}))
        assert await talk.recv() == {
            "type": "error",
            "status": 400,
            "code": "invalid_event",
            "message": "input is missing.",
            "param": "input",
            "sequence_number": 0,
            "stream_id": "s",
            "error": {
                "type": "invalid_request_error",
                "code": "invalid_event",
                "message": "input is missing.",
                "param": "input",
                "event_id": "e1",
            },
        }
