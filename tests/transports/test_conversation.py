"""Conversations over the sockets: who remembers what, and who waits for whom."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from harness import Served, answer_text, serving, text_of, until
from upstream import Script, Upstream

FERRY = "When does the ferry to Holm leave?"


async def test_sources_come_before_text_and_the_end_says_all(
    served: Served, upstream: Upstream
) -> None:
    """An answer is created, searched, written and completed, with sources before the text."""
    upstream.queue(Script(tokens=("At ", "7:40 ", "[1]", ".")))
    async with served.talk() as talk:
        assert (await talk.recv())["type"] == "ragsocket:hello"
        events = await talk.answer(FERRY, event_id="e1")
    types = [event["type"] for event in events]
    assert types[:2] == ["response.created", "response.in_progress"]
    assert events[0]["event_id"] == "e1"
    search = next(e for e in events if e["type"] == "response.output_item.done")["item"]
    assert search["type"] == "file_search_call"
    assert search["results"][0]["filename"] == "ferry.md"
    assert 0 < search["results"][0]["score"] <= 1
    assert types.index("response.output_item.done") < types.index("response.output_text.delta")
    annotation = next(e for e in events if e["type"].endswith("annotation.added"))["annotation"]
    assert (annotation["filename"], annotation["index"]) == ("ferry.md", len("At 7:40 [1]"))
    final = events[-1]["response"]
    assert final["status"] == "completed"
    assert text_of(events) == answer_text(final) == "At 7:40 [1]."
    assert final["usage"]["output_tokens"] == 4
    facts = final["ragsocket"]
    assert facts["index_revision"] >= 1
    assert facts["total_ms"] >= facts["ttft_ms"] >= facts["retrieval_ms"] >= 0
    assert [e["sequence_number"] for e in events] == list(range(len(events)))


async def test_a_follow_up_knows_what_was_said(served: Served, upstream: Upstream) -> None:
    """On `/ws` the second question's prompt holds the first one and its answer."""
    upstream.queue(Script(tokens=("Seven ", "forty.")), Script(tokens=("Yes.",)))
    async with served.talk() as talk:
        await talk.answer(FERRY)
        await talk.answer("And does it take dogs?")
    messages = (await upstream.request(1)).messages
    roles = [message["role"] for message in messages]
    assert roles == ["system", "user", "assistant", "user"]
    assert FERRY in messages[1]["content"]
    assert messages[2]["content"] == "Seven forty."
    assert "And does it take dogs?" in messages[3]["content"]


async def test_two_connections_never_see_each_other(served: Served, upstream: Upstream) -> None:
    """What one connection asked is in no prompt of another."""
    async with served.talk() as one, served.talk() as two:
        await one.answer("My secret is the ferry to Holm.")
        await two.answer("What about the harbour?")
    second = (await upstream.request(1)).messages
    assert "secret" not in str(second)
    assert [m["role"] for m in second] == ["system", "user"]


async def test_one_lane_answers_in_order(served: Served, upstream: Upstream) -> None:
    """Two questions at once on one lane: the second is queued, and begins when the first ends."""
    upstream.queue(Script(tokens=("first ",), gated=True), Script(tokens=("second ",)))
    async with served.talk() as talk:
        await talk.ask("ferry one?", event_id="e1")
        await talk.ask("ferry two?", event_id="e2")
        queued = await talk.until("response.queued")
        first = await upstream.request(0)
        assert len(upstream.requests) == 1
        first.release(1)
        ends = [await talk.terminal(), await talk.terminal()]
    created = {
        e["event_id"]: e["response"]["id"] for e in talk.seen if e["type"] == "response.created"
    }
    assert queued["response"]["id"] == created["e2"]
    assert [end["response"]["id"] for end in ends] == [created["e1"], created["e2"]]
    assert "first" in str((await upstream.request(1)).messages)


async def test_two_lanes_run_side_by_side(served: Served, upstream: Upstream) -> None:
    """A lane whose answer hangs does not hold up another, and they share no history."""
    upstream.queue(Script(tokens=("slow ",), gated=True), Script(tokens=("quick ",)))
    async with served.talk() as talk:
        await talk.ask("slow ferry?", stream_id="a")
        slow = await upstream.request(0)
        await talk.ask("quick ferry?", stream_id="b")
        end = await talk.terminal()
        assert end["stream_id"] == "b"
        assert all(e["stream_id"] in ("a", "b") for e in talk.seen[1:])
        slow.release(1)
        assert (await talk.terminal())["stream_id"] == "a"
    assert "slow" not in str((await upstream.request(1)).messages)


async def test_two_lanes_of_one_conversation_do_not_interleave(
    served: Served, upstream: Upstream
) -> None:
    """A conversation runs one response at a time, and the later one sees the earlier one."""
    upstream.queue(Script(tokens=("one ",), gated=True), Script(tokens=("two ",)))
    async with served.talk() as talk, served.talk("/v1/responses") as other:
        conversation = (await talk.recv())["conversation"]
        await talk.ask("ferry first?")
        first = await upstream.request(0)
        await other.ask("ferry second?", conversation=conversation)
        await other.until("response.queued")
        assert len(upstream.requests) == 1
        first.release(1)
        await talk.terminal()
        end = await other.terminal()
        assert end["response"]["conversation"] == {"id": conversation}
        await talk.answer("ferry third?")
    second, third = (await upstream.request(1)).messages, (await upstream.request(2)).messages
    assert [m["content"] for m in second if m["role"] == "assistant"] == ["one "]
    assert [m["content"] for m in third if m["role"] == "assistant"] == ["one ", "two "]


async def test_the_plain_door_remembers_only_what_is_named(
    served: Served, upstream: Upstream
) -> None:
    """On `/v1/responses` nothing is remembered unless `previous_response_id` says so."""
    async with served.talk("/v1/responses") as talk:
        first = (await talk.answer("ferry one?"))[-1]["response"]
        await talk.answer("ferry two?")
        end = (await talk.answer("ferry three?", previous_response_id=first["id"]))[-1]
    assert len((await upstream.request(1)).messages) == 2
    third = (await upstream.request(2)).messages
    assert "ferry one?" in third[1]["content"]
    assert "ferry two?" not in str(third)
    assert end["response"]["previous_response_id"] == first["id"]
    assert first["conversation"] is None


async def test_naming_a_response_does_not_move_a_lanes_conversation(
    served: Served, upstream: Upstream
) -> None:
    """On `/ws` an ask that names a response concerns itself alone."""
    async with served.talk() as talk:
        first = (await talk.answer("ferry one?"))[-1]["response"]
        await talk.answer("ferry two?")
        await talk.answer("ferry aside?", previous_response_id=first["id"])
        await talk.answer("ferry four?")
    aside, last = (await upstream.request(2)).messages, (await upstream.request(3)).messages
    assert "ferry two?" not in str(aside)
    assert "ferry aside?" not in str(last)
    assert "ferry two?" in str(last)


async def test_an_answer_can_be_regenerated_in_its_conversation(
    served: Served, upstream: Upstream
) -> None:
    """`conversation` with `previous_response_id` branches there and moves the head."""
    async with served.talk() as talk:
        conversation = (await talk.recv())["conversation"]
        first = (await talk.answer("ferry one?"))[-1]["response"]
        await talk.answer("ferry wrong?")
        await talk.answer(
            "ferry right?", conversation=conversation, previous_response_id=first["id"]
        )
        await talk.answer("ferry next?")
    last = str((await upstream.request(3)).messages)
    assert "ferry right?" in last
    assert "ferry wrong?" not in last


async def test_an_answer_may_go_on_from_one_that_still_runs(
    served: Served, upstream: Upstream
) -> None:
    """Naming an unfinished response as the previous one waits for it, on whatever lane."""
    upstream.queue(Script(tokens=("early ",), gated=True))
    async with served.talk("/v1/responses") as talk:
        await talk.ask("ferry one?", stream_id="a")
        first = await upstream.request(0)
        running = talk.seen[-1] if talk.seen else await talk.until("response.created")
        await talk.ask("ferry two?", stream_id="b", previous_response_id=running["response"]["id"])
        await talk.until("response.queued")
        first.release(1)
        await talk.terminal()
        await talk.terminal()
    assert "early" in str((await upstream.request(1)).messages)


async def test_history_survives_a_restart(served: Served, upstream: Upstream) -> None:
    """A new server over the same files goes on with an old response."""
    async with served.talk("/v1/responses") as talk:
        first = (await talk.answer("ferry one?"))[-1]["response"]
    served.server.should_exit = True
    await served.stopped.wait()
    async with (
        serving(served.settings.state_dir, upstream=upstream) as again,
        again.talk("/v1/responses") as talk,
    ):
        await talk.answer("ferry two?", previous_response_id=first["id"])
    assert "ferry one?" in str(upstream.requests[-1].messages)


async def test_no_text_gives_sources_alone(served: Served, upstream: Upstream) -> None:
    """`response_mode: no_text` searches and completes without asking the model."""
    async with served.talk() as talk:
        events = await talk.answer(FERRY, retrieval={"response_mode": "no_text"})
    assert events[-1]["type"] == "response.completed"
    assert text_of(events) == ""
    assert any(e["type"] == "response.file_search_call.completed" for e in events)
    assert upstream.requests == []


async def test_search_can_be_left_out(served: Served, upstream: Upstream) -> None:
    """`tool_choice: none`, no tools and `retrieval.mode: none` answer without searching."""
    async with served.talk() as talk:
        without: list[dict[str, Any]] = [
            {"tool_choice": "none"},
            {"tools": []},
            {"retrieval": {"mode": "none"}},
        ]
        for fields in without:
            events = await talk.answer(FERRY, **fields)
            assert not any("file_search" in e["type"] for e in events)
            assert events[-1]["type"] == "response.completed"


async def test_what_documents_cannot_answer_is_not_asked_of_the_model(
    served: Served, upstream: Upstream
) -> None:
    """A question far from the documents is refused outside the model, and completes."""
    async with served.talk() as talk:
        events = await talk.answer("Who won the chess championship of 1972 in Reykjavik?")
    assert events[-1]["type"] == "response.completed"
    assert text_of(events)
    assert upstream.requests == []


async def test_what_goes_on_from_an_answer_that_was_not_stored_fails_too(
    state: Path, upstream: Upstream
) -> None:
    """Without that answer it would be asked of a model that knows nothing of what was said."""
    upstream.queue(Script(tokens=("Seven.",), gated=True))
    async with (
        serving(state, upstream=upstream, commit_timeout_s=1) as served,
        served.talk("/v1/responses") as talk,
    ):
        await talk.ask(FERRY, stream_id="one")
        first = (await talk.until("response.created"))["response"]["id"]
        request = await upstream.request(0)
        await talk.ask("And dogs?", stream_id="two", previous_response_id=first)
        await talk.until("response.queued")
        file = state / "history.sqlite3"
        with sqlite3.connect(file, isolation_level=None) as locking:
            rows = "SELECT count(*) FROM responses"
            await until(lambda: locking.execute(rows).fetchone() == (2,))
            locking.execute("BEGIN IMMEDIATE")
            request.release(1)
            lost = await talk.until("response.failed")
            locking.execute("ROLLBACK")
        after = await talk.until("response.failed")
    codes = [event["response"]["ragsocket"]["code"] for event in (lost, after)]
    assert codes == ["history_unavailable", "history_unavailable"]
    assert "was not stored" in after["response"]["error"]["message"]
    assert len(upstream.requests) == 1
