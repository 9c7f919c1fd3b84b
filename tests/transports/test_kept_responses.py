"""Responses after they were asked: their input listed, rated, and forgotten."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from harness import Event, Served, official, serving, text_of
from upstream import Script, Upstream, calls

FERRY = "When does the ferry to Holm leave?"
URL = "/v1/responses"


@pytest.fixture
async def served(upstream: Upstream, state: Path, database: str) -> AsyncIterator[Served]:
    """The whole server, over each kind of database in turn."""
    async with serving(state, upstream=upstream, database_url=database) as server:
        yield server


@asynccontextmanager
async def restarted(served: Served, upstream: Upstream) -> AsyncIterator[Served]:
    """The server, stopped and started again."""
    served.server.should_exit = True
    await served.stopped.wait()
    settings = served.settings
    async with serving(
        settings.state_dir, upstream=upstream, database_url=settings.database_url
    ) as again:
        yield again


async def ask(served: Served, question: Any, **fields: Any) -> Event:
    """Ask over HTTP and return the response."""
    async with served.http() as http:
        answer = await http.post(URL, json={"input": question, **fields})
    assert answer.status_code == 200, answer.text
    response: Event = answer.json()
    return response


def questions(upstream: Upstream) -> list[str]:
    """Return what the user said in the newest prompt."""
    messages = upstream.requests[-1].messages
    return [message["content"] for message in messages if message["role"] == "user"]


async def test_the_official_client_forgets(served: Served, upstream: Upstream) -> None:
    """A deleted response is not found by any door, and deleting it again says so."""
    async with official(served) as client:
        answer = await client.responses.create(input=FERRY)
        await client.responses.delete(answer.id)
        for call in (
            client.responses.retrieve(answer.id),
            client.responses.cancel(answer.id),
            client.responses.delete(answer.id),
        ):
            with pytest.raises(openai.NotFoundError, match=answer.id):
                await call
        with pytest.raises(openai.BadRequestError, match=answer.id):
            await client.responses.create(input=FERRY, previous_response_id=answer.id)
        with pytest.raises(openai.NotFoundError, match=answer.id):
            async for _ in client.responses.input_items.list(answer.id):
                pass
    async with served.http() as http:
        assert (await http.get(f"{URL}/{answer.id}?stream=true")).status_code == 404
    status, error = await served.refusal(f"{URL}/{answer.id}/feedback", {"rating": "up"})
    assert (status, error["code"]) == (404, "response_not_found")
    assert len(upstream.requests) == 1


async def test_what_came_after_goes_on_without_it(served: Served, upstream: Upstream) -> None:
    """A response in the middle is left out of every later prompt, and its children stand."""
    first = await ask(served, "ferry one?")
    middle = await ask(served, "ferry two?", previous_response_id=first["id"])
    last = await ask(served, "ferry three?", previous_response_id=middle["id"])
    async with served.http() as http:
        gone = await http.delete(f"{URL}/{middle['id']}")
        assert gone.json() == {"id": middle["id"], "object": "response", "deleted": True}
        assert (await http.get(f"{URL}/{last['id']}")).json() == last
        await ask(served, "ferry four?", previous_response_id=last["id"])
        assert questions(upstream)[:2] == ["ferry one?", "ferry three?"]
        await http.delete(f"{URL}/{first['id']}")
    await ask(served, "ferry five?", previous_response_id=last["id"])
    assert questions(upstream)[:1] == ["ferry three?"]
    async with restarted(served, upstream) as again:
        await ask(again, "ferry six?", previous_response_id=last["id"])
    assert questions(upstream)[:1] == ["ferry three?"]
    assert len(questions(upstream)) == 2


async def test_a_conversation_goes_on_before_its_forgotten_head(
    served: Served, upstream: Upstream
) -> None:
    """The head moves back to the newest response that is left, in a live conversation too."""
    async with served.talk() as talk, served.http() as http:
        path = f"/v1/conversations/{(await talk.recv())['conversation']}"
        ids = [
            (await talk.answer(f"ferry {n}?"))[-1]["response"]["id"]
            for n in ("one", "two", "three")
        ]
        await http.delete(f"{URL}/{ids[1]}")
        await http.delete(f"{URL}/{ids[2]}")
        assert (await http.get(path)).json()["ragsocket"]["head"] == ids[0]
        end = (await talk.answer("ferry four?"))[-1]["response"]
        assert end["previous_response_id"] == ids[0]
        assert questions(upstream)[:1] == ["ferry one?"]
        for id in (ids[0], end["id"]):
            await http.delete(f"{URL}/{id}")
        assert (await http.get(path)).json()["ragsocket"]["head"] is None
        assert (await http.get(f"{path}/items")).json()["data"] == []
        end = (await talk.answer("ferry five?"))[-1]["response"]
    assert end["previous_response_id"] is None
    assert len(questions(upstream)) == 1


async def test_one_that_runs_is_stopped_and_forgotten(served: Served, upstream: Upstream) -> None:
    """Its followers get their terminal event, and what waits for it goes on without it."""
    upstream.queue(Script(tokens=("secret ", "more"), gated=True), Script())
    async with served.talk("/v1/responses") as talk, served.http() as http:
        await talk.ask("ferry one?", stream_id="a")
        id = (await talk.until("response.created"))["response"]["id"]
        request = await upstream.request(0)
        request.release(1)
        await talk.until("response.output_text.delta")
        await talk.ask("ferry two?", stream_id="b", previous_response_id=id)
        await talk.until("response.queued")
        assert (await http.delete(f"{URL}/{id}")).status_code == 200
        await request.closed()
        ends = {}
        for _ in range(2):
            end = await talk.terminal()
            ends[end["stream_id"]] = end["response"]
        assert ends["a"]["status"] == "cancelled"
        assert ends["b"]["status"] == "completed"
        assert (await http.get(f"{URL}/{id}")).status_code == 404
        await talk.answer("ferry three?", previous_response_id=ends["b"]["id"])
    assert [text.rpartition(" ")[2] for text in questions(upstream)] == ["two?", "three?"]
    assert "secret" not in str(upstream.requests[-1].messages)


async def test_the_key_of_a_forgotten_ask_is_free(served: Served, upstream: Upstream) -> None:
    """Another ask may have it, in a conversation and outside; so may one after a restart."""
    keys: dict[str, str] = {}
    async with served.talk() as talk, served.talk("/v1/responses") as plain, served.http() as http:
        keys["conversation"] = (await talk.recv())["conversation"]
        for one in (talk, plain):
            end = (await one.answer("ferry one?", event_id="k"))[-1]["response"]
            await one.answer("ferry one?", event_id="kept")
            await http.delete(f"{URL}/{end['id']}")
            await one.send({"type": "response.cancel", "create_event_id": "k"})
            assert (await one.until("ragsocket:cancel.done"))["response_ids"] == []
            asked = len(upstream.requests)
            again = (await one.answer("ferry two?", event_id="k"))[-1]["response"]
            assert again["status"] == "completed"
            assert again["id"] != end["id"]
            assert len(upstream.requests) == asked + 1
            await one.ask("ferry three?", event_id="kept")
            assert (await one.until("error"))["code"] == "idempotency_conflict"
            if one is talk:
                await http.delete(f"{URL}/{again['id']}")
    async with (
        restarted(served, upstream) as again_served,
        again_served.talk("/v1/responses") as talk,
    ):
        end = (await talk.answer("ferry four?", event_id="k", **keys))[-1]
    assert end["type"] == "response.completed"


async def test_what_is_not_stored_is_forgotten_too(served: Served, upstream: Upstream) -> None:
    """Its connection cannot go on from it any more; and it cannot be rated, as nothing is kept."""
    async with served.talk("/v1/responses") as talk, served.http() as http:
        id = (await talk.answer(FERRY, store=False))[-1]["response"]["id"]
        refused = await http.post(f"{URL}/{id}/feedback", json={"rating": "up"})
        assert refused.status_code == 404
        assert "is not stored" in refused.json()["error"]["message"]
        assert (await http.get(f"{URL}/{id}/input_items")).json()["data"]
        assert (await http.delete(f"{URL}/{id}")).status_code == 200
        assert (await http.get(f"{URL}/{id}")).status_code == 404
        await talk.ask("And dogs?", previous_response_id=id, store=False)
        assert (await talk.until("error"))["code"] == "previous_response_not_found"
        assert (await http.delete(f"{URL}/{id}")).status_code == 404


async def test_an_output_outlives_its_forgotten_call(served: Served, upstream: Upstream) -> None:
    """A conversation whose call of a function was deleted still goes on, without the output."""
    upstream.queue(Script(tokens=calls("tide", "{}")), Script(), Script())
    tide = {"type": "function", "name": "tide", "parameters": {"type": "object"}}
    first = await ask(served, FERRY, tools=[tide])
    output = {"type": "function_call_output", "call_id": "call_0", "output": "high"}
    second = await ask(served, [output], tools=[tide], previous_response_id=first["id"])
    async with served.http() as http:
        await http.delete(f"{URL}/{first['id']}")
    third = await ask(served, "And now?", tools=[tide], previous_response_id=second["id"])
    assert third["status"] == "completed"
    assert "high" not in str(upstream.requests[-1].messages)


async def test_input_items_keep_their_ids(served: Served, upstream: Upstream) -> None:
    """Page by page from both ends, while it runs, after its end and after a restart."""
    upstream.queue(Script(gated=True))
    handed_in = [
        {"role": "user", "content": "Hello.", "id": "msg_mine"},
        {"role": "assistant", "content": "Hello!", "id": "msg_mine"},
        {"role": "user", "content": FERRY},
    ]
    async with served.talk("/v1/responses") as talk, official(served) as client:
        await talk.ask(handed_in)
        id = (await talk.until("response.created"))["response"]["id"]

        async def ids(client: Any, **query: Any) -> list[str]:
            return [one.id async for one in client.responses.input_items.list(id, **query)]

        running = await ids(client, order="asc")
        assert len(set(running)) == 3
        assert "msg_mine" not in running
        assert await ids(client, limit=1) == running[::-1]
        assert await ids(client, order="asc", limit=2, after=running[0]) == running[1:]
        await talk.send({"type": "response.cancel"})
        await talk.terminal()
        assert await ids(client, order="asc") == running
    async with (
        restarted(served, upstream) as again,
        official(again) as client,
    ):
        assert await ids(client, order="asc") == running


async def test_feedback_is_kept_with_the_response(served: Served, upstream: Upstream) -> None:
    """It is shown on look-up, replaced, taken back, there after a restart, and in no event."""
    async with served.talk("/v1/responses") as talk, served.http() as http:
        events = await talk.answer(FERRY)
        end = events[-1]
        path = f"{URL}/{end['response']['id']}"
        bare = end["response"]
        for rating, text in (("up", None), (None, "Too long."), (None, ""), ("down", "Wrong.")):
            given = {"rating": rating, "text": text}
            shown = bare["ragsocket"] | ({"feedback": given} if rating or text else {})
            rated = (await http.post(f"{path}/feedback", json=given)).json()
            assert rated == {**bare, "ragsocket": shown}
            assert (await http.get(path)).json() == rated
            assert (await http.post(f"{path}/cancel")).json() == rated
    async with (
        restarted(served, upstream) as again,
        again.http() as http,
    ):
        kept = (await http.get(path)).json()
        assert kept["ragsocket"]["feedback"] == {"rating": "down", "text": "Wrong."}
        replayed = (await http.get(f"{path}?stream=true")).text
        assert json.loads(replayed.partition("data: ")[2].partition("\n")[0]) == end
        assert (await http.post(f"{path}/feedback", json={"rating": None})).status_code == 200
        assert (await http.get(path)).json() == end["response"]


async def test_a_running_answer_can_be_rated(served: Served, upstream: Upstream) -> None:
    """What is thought of it before its end is still there after it."""
    upstream.queue(Script(gated=True))
    async with served.talk("/v1/responses") as talk, served.http() as http:
        await talk.ask(FERRY)
        created = await talk.until("response.created")
        path = f"{URL}/{created['response']['id']}"
        request = await upstream.request(0)
        rated = (await http.post(f"{path}/feedback", json={"rating": "up"})).json()
        assert rated["status"] == "in_progress"
        assert rated == (await http.get(path)).json()
        request.release(100)
        end = await talk.terminal()
        assert "feedback" not in end["response"]["ragsocket"]
        kept = (await http.get(path)).json()
    assert kept["ragsocket"]["feedback"]["rating"] == "up"
    assert text_of(talk.seen)


LONG = "x" * 600


BAD: list[tuple[str, str, Any, int, str | None, str]] = [
    ("POST", "{response}/feedback", b"{", 400, None, "not JSON"),
    ("POST", "{response}/feedback", {}, 400, "rating", "rating is missing"),
    ("POST", "{response}/feedback", {"rating": "meh"}, 400, "rating", "'up' or 'down'"),
    ("POST", "{response}/feedback", {"rating": 1}, 400, "rating", "'up' or 'down'"),
    ("POST", "{response}/feedback", {"rating": "up", "text": 1}, 400, "text", "string"),
    ("POST", "{response}/feedback", {"rating": "up", "text": LONG * 7}, 400, "text", "4000"),
    ("POST", "{response}/feedback", {"rating": "up", "stars": 5}, 400, "stars", "not a field"),
    ("GET", "{response}/input_items?limit=0", None, 400, "limit", "greater than"),
    ("GET", "{response}/input_items?limit=101", None, 400, "limit", "less than"),
    ("GET", "{response}/input_items?limit=x", None, 400, "limit", "integer"),
    ("GET", "{response}/input_items?order=up", None, 400, "order", "'asc' or 'desc'"),
    ("GET", "{response}/input_items?after=msg_x", None, 400, "after", "'msg_x'"),
    ("GET", "{response}/input_items?include=x", None, 400, "include", "'x' is not supported"),
    ("GET", "{response}/input_items?include[]=x", None, 400, "include", "not supported"),
    ("GET", "/v1/responses/resp_x/input_items", None, 404, "response_id", "'resp_x'"),
    ("DELETE", "/v1/responses/resp_x", None, 404, "response_id", "'resp_x'"),
    ("POST", "/v1/responses/resp_x/feedback", {"rating": "up"}, 404, "response_id", "resp_x"),
    ("POST", "/v1/conversations", b"", 400, None, "not JSON"),
    ("POST", "/v1/conversations", b"[]", 400, None, "JSON object"),
    ("POST", "/v1/conversations", {"name": "x"}, 400, "name", "not a field"),
    ("POST", "/v1/conversations", {"metadata": []}, 400, "metadata", "object"),
    ("POST", "/v1/conversations", {"metadata": {"a": 1}}, 400, "metadata.a", "string"),
    ("POST", "/v1/conversations", {"metadata": {"a": LONG}}, 400, "metadata.a", "512"),
    (
        "POST",
        "/v1/conversations",
        {"metadata": {str(n): "" for n in range(17)}},
        400,
        "metadata",
        "16 items",
    ),
    ("POST", "/v1/conversations", {"items": "Hello"}, 400, "items", "array"),
    ("POST", "/v1/conversations", {"items": ["Hello"]}, 400, "items[0]", ""),
    ("POST", "/v1/conversations", {"items": [{}]}, 400, "items[0].role", "missing"),
    (
        "POST",
        "/v1/conversations",
        {"items": [{"type": "item_reference", "id": "msg_x"}]},
        400,
        "items[0]",
        "item_reference",
    ),
    (
        "POST",
        "/v1/conversations",
        {"items": [{"role": "user", "content": "a"}] * 21},
        400,
        "items",
        "at most 20",
    ),
    ("POST", "{conversation}", {}, 400, "metadata", "missing"),
    ("POST", "{conversation}", {"metadata": {"a": LONG}}, 400, "metadata.a", "512"),
    ("POST", "{conversation}", {"title": "x"}, 400, "metadata", ""),
    ("POST", "{conversation}/items", {"items": []}, 400, "items", "at least 1"),
    ("POST", "{conversation}/items", {}, 400, "items", "missing"),
    (
        "POST",
        "{conversation}/items",
        {"items": [{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}]},
        400,
        "items[0].content[0]",
        "input_file",
    ),
    ("POST", "{conversation}/items?include=x", {"items": []}, 400, "include", "supported"),
    ("GET", "{conversation}/items?after=msg_x", None, 400, "after", "'msg_x'"),
    ("GET", "{conversation}/items/msg_x", None, 404, "item_id", "'msg_x'"),
    ("DELETE", "{conversation}/items/msg_x", None, 404, "item_id", "'msg_x'"),
    ("GET", "/v1/conversations?after=conv_x", None, 400, "after", "'conv_x'"),
    ("GET", "/v1/conversations?limit=-1", None, 400, "limit", "greater"),
    ("GET", "/v1/conversations?q=" + "a+" * 11, None, 400, "q", "10 words"),
    ("GET", "/v1/conversations?q=" + "a" * 201, None, 400, "q", "200 characters"),
    ("GET", "/v1/conversations/conv_x", None, 404, "conversation", "'conv_x'"),
    ("GET", "/v1/conversations/%00%ff'/items", None, 404, "conversation", "no conversation"),
    ("POST", "/v1/conversations/conv_x", {"metadata": {}}, 404, "conversation", "'conv_x'"),
    ("DELETE", "/v1/conversations/conv_x", None, 404, "conversation", "'conv_x'"),
    ("GET", "/v1/conversations/conv_x/items", None, 404, "conversation", "'conv_x'"),
    (
        "POST",
        "/v1/conversations/conv_x/items",
        {"items": [{"role": "user", "content": "a"}]},
        404,
        "conversation",
        "'conv_x'",
    ),
    ("DELETE", "/v1/conversations/conv_x/items/msg_x", None, 404, "conversation", "'conv_x'"),
    ("PUT", "/v1/conversations", {}, 405, None, "not for this path"),
]


async def test_bad_requests_are_told_what_is_wrong(served: Served) -> None:
    """In the one shape of errors, with the status and the field's name."""
    response = await ask(served, FERRY)
    async with served.http() as http:
        begun = (await http.post("/v1/conversations", json={})).json()
        places = {
            "response": f"{URL}/{response['id']}",
            "conversation": f"/v1/conversations/{begun['id']}",
        }
        for method, path, body, status, param, words in BAD:
            content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            answer = await http.request(method, path.format(**places), content=content)
            error = answer.json()["error"]
            found = (answer.status_code, error["param"])
            assert found == (status, param), (method, path, body, error)
            assert words in error["message"], (method, path, body, error)
            assert set(error) == {"type", "code", "message", "param"}
        assert (await http.get(places["response"])).json() == response
        assert (await http.get(places["conversation"])).json() == begun
