"""`response.steer`: stop an answer and have another input answered in its place."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from harness import Event, Served, Talk, answer_text, serving, until, written
from ragsocket.engine.prompt import CUT_NOTE
from upstream import Script, Upstream

FERRY = "When does the ferry to Holm leave?"
GATED = Script(tokens=("one ", "two ", "three "), gated=True)


async def steer(talk: Talk, response_id: str, input: Any = "And dogs?", **fields: Any) -> None:
    """Send a `response.steer`."""
    event = {"type": "response.steer", "previous_response_id": response_id, "input": input}
    await talk.send({**event, **fields})


def failed(event: Event) -> tuple[str, str]:
    """The code of a steering that failed, and the input that it hands back."""
    assert event["type"] == "response.steer.failed"
    return event["error"]["code"], event["steer"]["input"]


async def test_the_answer_stops_and_the_new_input_is_answered_next(
    served: Served, upstream: Upstream
) -> None:
    """Accepted, ended as steered, and answered with the kept part as history and as it was set."""
    upstream.queue(GATED, Script(tokens=("Free.",)))
    async with served.talk() as talk:
        fields: dict[str, Any] = {
            "stream_id": "lane",
            "metadata": {"a": "b"},
            "instructions": "Be brief.",
        }
        id, request = await written(talk, upstream, **fields)
        await steer(talk, id, event_id="s1")
        end = await talk.terminal()
        assert (await request.closed()).written == 1
        *_, accepted, text_done, part_done, item_done = talk.seen[:-1]
        assert accepted["type"] == "response.steer.accepted"
        assert accepted["steer"] == {"id": accepted["steer"]["id"], "previous_response_id": id}
        assert accepted["sequence_number"] == text_done["sequence_number"] - 1
        assert (part_done["part"]["text"], item_done["item"]["status"]) == ("one ", "incomplete")
        assert (end["response"]["status"], end["response"]["ragsocket"]["reason"]) == (
            "incomplete",
            "steered",
        )
        assert end["response"]["incomplete_details"] == {"reason": "steered"}
        assert answer_text(end["response"]) == "one "
        created = await talk.recv()
        assert (created["type"], created["event_id"]) == ("response.created", "s1")
        assert created["stream_id"] == "lane"
        after = (await talk.terminal())["response"]
        assert [e["type"] for e in talk.seen].count("response.queued") == 0
    assert answer_text(after) == "Free."
    assert after["previous_response_id"] == id
    assert after["conversation"] == end["response"]["conversation"]
    assert (after["metadata"], after["instructions"]) == ({"a": "b"}, "Be brief.")
    assert after["output"][0]["results"]
    messages = upstream.requests[1].messages
    assert [m["role"] for m in messages] == ["system", "user", "assistant", "user"]
    assert messages[2]["content"] == "one "
    assert CUT_NOTE in messages[3]["content"]


async def test_it_goes_before_what_was_queued(served: Served, upstream: Upstream) -> None:
    """In its lane and in its conversation; who waited there sees the answer to the steering."""
    upstream.queue(GATED)
    upstream.default = Script(tokens=("ok",))
    async with served.talk() as talk, served.talk("/v1/responses") as other:
        conversation = (await talk.recv())["conversation"]
        id, _ = await written(talk, upstream, question="ferry one?")
        await talk.ask("ferry two?")
        await talk.until("response.queued")
        await other.ask("ferry three?", conversation=conversation)
        await other.until("response.queued")
        await steer(talk, id, "ferry steered?")
        ends = [await talk.terminal() for _ in range(3)]
        await other.terminal()
    assert [answer_text(end["response"]) for end in ends] == ["one ", "ok", "ok"]
    asked = [str(r.messages[-1]["content"]) for r in upstream.requests]
    order = ("one?", "steered?", "two?", "three?")
    assert all(part in text for part, text in zip(order, asked, strict=True))
    last = upstream.requests[-1].messages
    assert [m["role"] for m in last] == ["system", *["user", "assistant"] * 3, "user"]


async def test_every_follower_goes_on_to_the_successor(served: Served, upstream: Upstream) -> None:
    """Whichever connection steers, both read the end first and then what takes its place."""
    upstream.queue(GATED, Script(tokens=("Free.",)))
    async with served.talk() as talk, served.talk("/v1/responses") as other:
        id, _ = await written(talk, upstream)
        await steer(other, id)
        heard = []
        for one in (talk, other):
            heard.append((await one.until("response.completed"))["response"])
        types = [e["type"] for e in talk.seen]
        created = [at for at, kind in enumerate(types) if kind == "response.created"]
        assert types[created[1] - 1] == "response.incomplete"
        # The one that steered did not follow what it stopped.
        assert other.seen[0]["response"]["id"] == heard[0]["id"]
    assert heard[0] == heard[1]


async def test_the_successor_is_the_lanes_to_stop(served: Served, upstream: Upstream) -> None:
    """A cancel of the lane right behind the steering stops what answers in its place."""
    upstream.queue(GATED, GATED)
    async with served.talk() as talk:
        id, _ = await written(talk, upstream)
        await steer(talk, id)
        await talk.send({"type": "response.cancel"})
        ends = [(await talk.terminal())["response"] for _ in range(2)]
    assert [end["ragsocket"]["reason"] for end in ends] == ["steered", "cancelled"]
    assert ends[1]["previous_response_id"] == id


async def test_twice_at_once_the_second_comes_back(served: Served, upstream: Upstream) -> None:
    """The first wins; the second is handed back with its input, and the successor takes it."""
    upstream.queue(GATED, GATED, Script(tokens=("Both.",)))
    async with served.talk() as talk:
        id, _ = await written(talk, upstream)
        await steer(talk, id, "first?")
        await steer(talk, id, "second?", event_id="s2")
        refused = await talk.until("response.steer.failed")
        assert failed(refused) == ("too_many_pending_steers", "second?")
        assert (refused["event_id"], "id" in refused["steer"]) == ("s2", False)
        next_id = (await talk.until("response.in_progress"))["response"]["id"]
        await upstream.request(1)
        await steer(talk, next_id, "second?")
        assert answer_text((await talk.until("response.completed"))["response"]) == "Both."
    said = [m["content"] for m in upstream.requests[2].messages if m["role"] == "user"]
    assert "first?" in said[1]
    assert "second?" in said[2]


async def test_a_queued_answer_cannot_be_steered(served: Served, upstream: Upstream) -> None:
    """Nothing of it is there to go on from; it stays queued, and is answered."""
    upstream.queue(GATED)
    async with served.talk() as talk:
        _, request = await written(talk, upstream)
        await talk.ask("ferry two?")
        queued = await talk.until("response.queued")
        await steer(talk, queued["response"]["id"])
        refused = await talk.until("response.steer.failed")
        assert failed(refused) == ("response_not_active", "And dogs?")
        request.release(2)
        ends = [await talk.terminal() for _ in range(2)]
    assert [end["type"] for end in ends] == ["response.completed"] * 2


async def test_what_has_ended_cannot_be_steered(served: Served, upstream: Upstream) -> None:
    """Whole, stopped or unknown, in memory or after a restart, each has its code."""
    upstream.queue(Script(tokens=("whole",)), GATED)
    async with served.talk() as talk:
        whole = (await talk.answer(FERRY))[-1]["response"]["id"]
        stopped, _ = await written(talk, upstream)
        await talk.send({"type": "response.cancel"})
        await talk.terminal()
        await _all_refused(talk, whole, stopped)
    served.server.should_exit = True
    await served.stopped.wait()
    state = served.settings.state_dir
    async with serving(state, upstream=upstream) as again, again.talk() as talk:
        await _all_refused(talk, whole, stopped)
    assert len(upstream.requests) == 2


async def _all_refused(talk: Talk, whole: str, stopped: str) -> None:
    codes = []
    for id in (whole, stopped, "resp_nope"):
        await steer(talk, id)
        codes.append(failed(await talk.until("response.steer.failed"))[0])
    assert codes == ["response_already_completed", "response_not_active", "response_not_found"]


async def test_being_stopped_or_stored_it_cannot_be_steered(
    served: Served, upstream: Upstream
) -> None:
    """A cancel that came first wins, and an end that is being stored is not taken back."""
    upstream.queue(GATED, Script(tokens=("whole",), gated=True))
    async with served.talk() as talk:
        id, _ = await written(talk, upstream)
        await talk.send({"type": "response.cancel"})
        await steer(talk, id)
        assert failed(await talk.until("response.steer.failed"))[0] == "response_not_active"
        id, _ = await written(talk, upstream)
        run = served.runner.lineage.get(id, owner="local")
        assert run is not None
        with sqlite3.connect(served.settings.state_dir / "history.sqlite3") as locking:
            locking.execute("BEGIN IMMEDIATE")
            await until(lambda: run.closing)
            await steer(talk, id)
            assert failed(await talk.until("response.steer.failed"))[0] == "response_not_active"
            locking.execute("ROLLBACK")
        assert answer_text((await talk.terminal())["response"]) == "whole"


async def test_what_cannot_be_stored_hands_an_accepted_input_back(
    state: Path, upstream: Upstream
) -> None:
    """There is nothing to go on from, so the model is not asked; the steering keeps its id."""
    upstream.queue(GATED)
    async with (
        serving(state, upstream=upstream, commit_timeout_s=0.3) as served,
        served.talk() as talk,
    ):
        id, _ = await written(talk, upstream)
        file = state / "history.sqlite3"
        with sqlite3.connect(file, isolation_level=None) as locking:
            rows = "SELECT count(*) FROM responses"
            await until(lambda: locking.execute(rows).fetchone() == (1,))
            locking.execute("BEGIN IMMEDIATE")
            await steer(talk, id, "And dogs?")
            accepted = await talk.until("response.steer.accepted")
            end = await talk.terminal()
            refused = await talk.recv()
            locking.execute("ROLLBACK")
        assert end["response"]["ragsocket"]["code"] == "history_unavailable"
        assert failed(refused) == ("successor_creation_failed", "And dogs?")
        assert refused["steer"]["id"] == accepted["steer"]["id"]
        await served.idle()
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": " "}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"role": "assistant", "content": "x"}]}, "input"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}, "input"),
        ({"stream_id": "lane"}, "stream_id"),
        ({"previous_response_id": ""}, "previous_response_id"),
    ],
)
async def test_a_steering_with_a_fault_is_told_what_is_wrong(
    served: Served, fields: dict[str, Any], param: str
) -> None:
    """By the `error` event that every bad event gets; the socket lives."""
    async with served.talk() as talk:
        event = {"type": "response.steer", "previous_response_id": "resp_x", "input": "And dogs?"}
        await talk.send({**event, **fields, "event_id": "e1"})
        error = await talk.until("error")
        assert error["error"]["event_id"] == "e1"
        assert (error["code"], error["param"].partition("[")[0]) == ("invalid_event", param)
