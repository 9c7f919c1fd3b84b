"""Stop: in every stage, at the model too, and with a history that says what was seen."""

from __future__ import annotations

import gc
import random
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import psutil
import pytest

from harness import TERMINAL, Served, Talk, answer_text, serving, text_of, until
from ragsocket.engine.base import EngineEvent, Question, Searching, Sources, TextDelta
from ragsocket.engine.prompt import CUT_NOTE
from upstream import Script, Upstream

FERRY = "When does the ferry to Holm leave?"


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    """A stop must not need the garbage collector to reach the model."""
    gc.disable()
    yield
    gc.enable()


def stored(served: Served, response_id: str) -> str:
    """Return the text that the history holds for a response."""
    connection = sqlite3.connect(served.settings.state_dir / "history.sqlite3")
    try:
        row = connection.execute(
            "SELECT json_extract(response, '$.output[#-1].content[0].text') "
            "FROM responses WHERE id = ? AND finished",
            (response_id,),
        ).fetchone()
    finally:
        connection.close()
    text: str = row[0]
    return text


def assert_cancelled(end: dict[str, object]) -> None:
    """The terminal event of a stopped answer."""
    response = end["response"]
    assert isinstance(response, dict)
    assert end["type"] == "response.incomplete"
    assert response["status"] == "cancelled"
    assert response["ragsocket"]["reason"] == "cancelled"
    assert response["output"][-1]["status"] == "incomplete"
    assert response["usage"]["total_tokens"] >= 0


async def test_in_the_middle_of_the_text(served: Served, upstream: Upstream) -> None:
    """The model's connection closes with no further token; sent, stored and said are the same."""
    upstream.queue(Script(gated=True), Script(tokens=("Next.",)))
    async with served.talk() as talk:
        await talk.ask(FERRY)
        request = await upstream.request(0)
        for n in range(5):
            request.release(1)
            await talk.until("response.output_text.delta")
            assert request.written == n + 1
        await talk.send({"type": "response.cancel"})
        end = await talk.terminal()
        left = await request.closed()
        assert left.written == 5
        assert_cancelled(end)
        seen = text_of(talk.seen)
        assert seen == "w0 w1 w2 w3 w4 "
        assert answer_text(end["response"]) == seen
        assert stored(served, end["response"]["id"]) == seen
        assert end["response"]["usage"]["output_tokens"] == 5
        assert end["response"]["ragsocket"]["usage_estimated"] is True
        await talk.answer("And then?")
    messages = (await upstream.request(1)).messages
    assert messages[2] == {"role": "assistant", "content": seen}
    assert CUT_NOTE in messages[3]["content"]


async def test_before_the_first_token(served: Served, upstream: Upstream) -> None:
    """A model that has not said a word is left alone; the next prompt alternates all the same."""
    upstream.queue(Script(gated=True), Script(tokens=("Next.",)))
    async with served.talk() as talk:
        await talk.ask(FERRY)
        request = await upstream.request(0)
        await talk.send({"type": "response.cancel"})
        end = await talk.terminal()
        assert (await request.closed()).written == 0
        assert_cancelled(end)
        assert stored(served, end["response"]["id"]) == ""
        await talk.answer("And then?")
    messages = (await upstream.request(1)).messages
    assert [m["role"] for m in messages] == ["system", "user", "assistant", "user"]
    assert messages[2]["content"]
    assert CUT_NOTE in messages[3]["content"]


async def test_before_the_models_headers(served: Served, upstream: Upstream) -> None:
    """A model that has not even answered the request is left at once."""
    upstream.queue(Script(stall="headers"))
    async with served.talk() as talk:
        await talk.ask(FERRY)
        request = await upstream.request(0)
        await talk.send({"type": "response.cancel"})
        assert_cancelled(await talk.terminal())
        assert (await request.closed()).written == 0


async def test_while_queued(served: Served, upstream: Upstream) -> None:
    """A queued answer ends at once, never reaches the model, and is in nobody's history."""
    upstream.queue(Script(tokens=("one ",), gated=True))
    async with served.talk() as talk:
        await talk.ask("ferry one?")
        first = await upstream.request(0)
        await talk.ask("ferry two?", event_id="second")
        await talk.until("response.queued")
        await talk.send({"type": "response.cancel", "create_event_id": "second"})
        assert_cancelled(await talk.terminal())
        first.release(1)
        assert (await talk.terminal())["type"] == "response.completed"
        await talk.answer("ferry three?")
    assert len(upstream.requests) == 2
    assert "ferry two?" not in str(upstream.requests[1].messages)


class Slow:
    """An engine that waits wherever the test says."""

    models = ("slow",)

    def __init__(self, *, in_search: bool = False) -> None:
        self.in_search = in_search
        self.waiting = anyio.Event()
        self.cancelled = anyio.Event()

    def readiness(self) -> Mapping[str, str]:
        return {}

    async def answer(self, question: Question) -> AsyncGenerator[EngineEvent]:
        yield Searching(("q",))
        if self.in_search:
            await self._wait()
        yield Sources((), 1)
        yield TextDelta("whole ")

    async def _wait(self) -> None:
        self.waiting.set()
        try:
            await anyio.sleep_forever()
        except BaseException:
            self.cancelled.set()
            raise


async def test_while_searching(tmp_path: Path) -> None:
    """A search is interrupted where it waits, and its item ends incomplete."""
    engine = Slow(in_search=True)
    async with serving(tmp_path, engine=engine) as served, served.talk() as talk:
        await talk.ask(FERRY)
        await engine.waiting.wait()
        await talk.send({"type": "response.cancel"})
        end = await talk.terminal()
        assert engine.cancelled.is_set()
        assert_cancelled(end)
        assert end["response"]["output"][0]["status"] == "incomplete"


async def test_while_the_end_is_being_stored(tmp_path: Path) -> None:
    """An answer that is whole and being stored is not made incomplete by a late stop."""
    async with serving(tmp_path, engine=Slow()) as served, served.talk() as talk:
        blocker = sqlite3.connect(tmp_path / "history.sqlite3", isolation_level=None)
        await talk.ask("warm up")
        await talk.terminal()
        blocker.execute("BEGIN IMMEDIATE")
        await talk.ask(FERRY)
        await talk.until("response.output_text.delta")
        await talk.send({"type": "response.cancel"})
        await talk.send({"type": "ragsocket:ping"})
        await talk.until("ragsocket:pong")
        assert served.runner.running == 1
        blocker.execute("ROLLBACK")
        blocker.close()
        end = await talk.terminal()
        assert end["type"] == "response.completed"
        assert answer_text(end["response"]) == "whole "


async def test_after_names_what_was_shown(served: Served, upstream: Upstream) -> None:
    """With `after` the answer ends at that event, everywhere, though more had been sent."""
    upstream.queue(Script(gated=True), Script(tokens=("Next.",)))
    async with served.talk() as talk:
        await talk.ask(FERRY)
        request = await upstream.request(0)
        shown = 0
        for n in range(6):
            request.release(1)
            delta = await talk.until("response.output_text.delta")
            if n == 2:
                shown = delta["sequence_number"]
        await talk.send({"type": "response.cancel", "after": shown})
        end = await talk.terminal()
        assert answer_text(end["response"]) == "w0 w1 w2 "
        assert stored(served, end["response"]["id"]) == "w0 w1 w2 "
        done = next(e for e in talk.seen if e["type"] == "response.output_text.done")
        assert done["text"] == "w0 w1 w2 "
        await talk.answer("And then?")
    assert (await upstream.request(1)).messages[2]["content"] == "w0 w1 w2 "


async def test_too_late_is_never_an_error(served: Served) -> None:
    """A cancel of an ended answer gets the same terminal event again; of nothing, an empty list."""
    async with served.talk() as talk, served.talk() as other:
        end = (await talk.answer(FERRY))[-1]
        await talk.send({"type": "response.cancel", "response_id": end["response"]["id"]})
        assert await talk.recv() == end
        await talk.send({"type": "response.cancel", "event_id": "c1"})
        done = {"type": "ragsocket:cancel.done", "event_id": "c1", "response_ids": []}
        assert await talk.recv() == done
        await talk.send({"type": "response.cancel", "create_event_id": "never"})
        assert (await talk.recv())["type"] == "ragsocket:cancel.done"
        await other.recv()
        await other.send({"type": "ragsocket:ping"})
        assert (await other.recv())["type"] == "ragsocket:pong"


async def test_an_end_that_only_history_knows_is_told_again(
    served: Served, upstream: Upstream
) -> None:
    """After a restart a cancel of an old answer still gets its terminal event."""
    async with served.talk() as talk:
        end = (await talk.answer(FERRY))[-1]
    served.server.should_exit = True
    await served.stopped.wait()
    state = served.settings.state_dir
    async with serving(state, upstream=upstream) as again, again.talk() as talk:
        await talk.recv()
        await talk.send({"type": "response.cancel", "response_id": end["response"]["id"]})
        assert await talk.recv() == end
        await talk.send({"type": "response.cancel", "response_id": "resp_none", "event_id": "c"})
        error = await talk.recv()
        assert error["code"] == "response_not_found"
        assert error["error"]["event_id"] == "c"


async def test_another_socket_may_stop_it(served: Served, upstream: Upstream) -> None:
    """A response is the application's: whoever knows its id may stop it."""
    upstream.queue(Script(gated=True))
    async with served.talk() as talk, served.talk() as other:
        await talk.ask(FERRY)
        created = await talk.until("response.created")
        request = await upstream.request(0)
        await other.send({"type": "response.cancel", "response_id": created["response"]["id"]})
        assert_cancelled(await talk.terminal())
        await request.closed()


async def test_a_cancel_right_behind_its_ask_never_misses_it(
    served: Served, upstream: Upstream
) -> None:
    """Ask and cancel in one breath: one terminal event, and the next ask is answered."""
    upstream.default = Script(tokens=("Now.",))
    async with served.talk() as talk:
        for n in range(20):
            await talk.ask(FERRY, event_id=f"e{n}")
            await talk.send({"type": "response.cancel", "create_event_id": f"e{n}"})
            end = await talk.terminal()
            assert end["response"]["status"] == "cancelled"
        assert (await talk.answer(FERRY))[-1]["type"] == "response.completed"


@asynccontextmanager
async def counted(served: Served) -> AsyncIterator[None]:
    """Check that a block leaves no task, connection or file handle behind."""
    process = psutil.Process()
    async with served.talk() as talk:
        await talk.answer(FERRY)
    await served.idle()
    handles, tasks = process.num_fds(), len(anyio.get_running_tasks())
    yield
    await served.idle()
    await until(lambda: process.num_fds() <= handles)
    await until(lambda: len(anyio.get_running_tasks()) <= tasks)


async def test_a_thousand_cancels_at_random_instants(served: Served, upstream: Upstream) -> None:
    """However asks, cancels and the model's tokens fall, each ask has exactly one end."""
    rng = random.Random(20261125)
    upstream.default = Script(tokens=tuple(f"w{n} " for n in range(8)), rate=2_000)
    asked: list[str] = []

    async def chat(number: int) -> None:
        async with served.talk() as talk:
            for n in range(100):
                event_id = f"{number}-{n}"
                asked.append(event_id)
                await talk.ask(f"ferry {event_id}?", event_id=event_id)
                await anyio.sleep(rng.random() * 0.02)
                await talk.send({"type": "response.cancel", "create_event_id": event_id})
                if rng.random() < 0.5:
                    await talk.terminal()
            await _all_ended(talk, 100)

    async with counted(served):
        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(chat, number)
    assert len(asked) == 1_000
    await until(lambda: upstream.open <= 10)


async def _all_ended(talk: Talk, count: int) -> None:
    """Read until each response has ended, and hold each one's deltas against its end."""
    ends: dict[str, set[int]] = {}
    texts: dict[str, str] = {}
    finals: dict[str, str] = {}
    position = 0
    while len(ends) < count:
        if position == len(talk.seen):
            await talk.recv()
        event = talk.seen[position]
        position += 1
        if event["type"] == "response.output_text.delta":
            texts[event["item_id"]] = texts.get(event["item_id"], "") + event["delta"]
        if event["type"] in TERMINAL:
            response = event["response"]
            # A late cancel is answered by the same event again, under the same number.
            ends.setdefault(response["id"], set()).add(event["sequence_number"])
            finals[response["output"][-1]["id"]] = answer_text(response)
    assert all(len(numbers) == 1 for numbers in ends.values())
    assert all(finals[item_id] == text for item_id, text in texts.items())
