"""`/v1/conversations` over HTTP, by hand and with the official client."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import openai
import pytest
from openai.types.conversations import Conversation, ConversationItemList
from pydantic import TypeAdapter

from harness import Event, Served, beside, official, serving, until
from upstream import Script, Upstream, calls

FERRY = "When does the ferry to Holm leave?"
URL = "/v1/conversations"


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


async def call(served: Served, method: str, path: str, status: int, body: Any = None) -> Event:
    """Return what a door gives, with this status."""
    async with served.http() as http:
        answer = await http.request(method, path, json=body)
    assert answer.status_code == status, answer.text
    found: Event = answer.json()
    return found


async def get(served: Served, path: str, status: int = 200) -> Event:
    """Return what a door gives."""
    return await call(served, "GET", path, status)


async def post(served: Served, path: str, body: Any) -> Event:
    """Return what a door gives for a body."""
    return await call(served, "POST", path, 200, body)


async def remove(served: Served, path: str, status: int = 200) -> Event:
    """Return what a door gives for a deletion."""
    return await call(served, "DELETE", path, status)


async def ask(served: Served, question: Any, **fields: Any) -> Event:
    """Ask over HTTP and return the response."""
    return await post(served, "/v1/responses", {"input": question, **fields})


async def said(served: Served, conversation: str, query: str = "") -> list[str]:
    """Return the texts of a conversation's messages, oldest first unless the query says else."""
    found = await get(served, f"{URL}/{conversation}/items?order=asc&limit=100{query}")
    return [
        "".join(part["text"] for part in item["content"])
        for item in found["data"]
        if item["type"] == "message"
    ]


def prompt(upstream: Upstream, number: int = -1) -> list[tuple[str, str]]:
    """Return roles and texts of a prompt, without the system message."""
    return [(m["role"], m["content"]) for m in upstream.requests[number].messages[1:]]


async def the_next_millisecond() -> None:
    """Wait until the clock says another one."""
    began = time.time_ns() // 1_000_000
    await until(lambda: time.time_ns() // 1_000_000 > began)


async def test_the_official_client_keeps_a_conversation(served: Served, upstream: Upstream) -> None:
    """It begins one, asks in it, reads its items page by page, renames and deletes it."""
    upstream.queue(Script(tokens=("At 7:40 [1].",)), Script(tokens=("Free.",)))
    async with official(served) as client:
        begun = await client.conversations.create(metadata={"topic": "ferries"})
        Conversation.model_validate_json(begun.model_dump_json(), strict=True)
        assert begun.metadata == {"topic": "ferries"}
        for question in (FERRY, "And dogs?"):
            answer = await client.responses.create(input=question, conversation=begun.id)
            assert answer.conversation is not None
            assert answer.conversation.id == begun.id
        items = [
            item async for item in client.conversations.items.list(begun.id, order="asc", limit=2)
        ]
        types = [item.type for item in items]
        assert types == ["message", "file_search_call", "message"] * 2
        newest = [item.id async for item in client.conversations.items.list(begun.id, limit=1)]
        assert newest == [item.id for item in reversed(items)]
        one = await client.conversations.items.retrieve(
            str(items[1].id), conversation_id=begun.id, include=["file_search_call.results"]
        )
        assert one.type == "file_search_call"
        renamed = await client.conversations.update(begun.id, metadata={"title": "To Holm"})
        assert renamed.metadata == {"title": "To Holm"}
        again = await client.conversations.retrieve(begun.id)
        assert again.to_dict()["ragsocket"] == {
            **renamed.to_dict()["ragsocket"],  # type: ignore[dict-item]
            "title": "To Holm",
            "head": answer.id,
            "active_response_ids": [],
        }
        gone = await client.conversations.delete(begun.id)
        assert (gone.id, gone.deleted) == (begun.id, True)
        with pytest.raises(openai.NotFoundError, match=begun.id):
            await client.conversations.retrieve(begun.id)
        with pytest.raises(openai.NotFoundError, match=answer.id):
            await client.responses.retrieve(answer.id)
        with pytest.raises(openai.NotFoundError, match=begun.id):
            await client.responses.create(input=FERRY, conversation=begun.id)
    assert [role for role, _ in prompt(upstream)] == ["user", "assistant", "user"]


async def test_what_was_said_before_is_handed_in(served: Served, upstream: Upstream) -> None:
    """Items at the beginning and items added later are in the next prompt, in their order."""
    async with official(served) as client:
        begun = await client.conversations.create(
            items=[
                {"role": "system", "content": "Speak like a sailor."},
                {"role": "user", "content": "Which ferry is there?"},
                {"role": "assistant", "content": "One to Holm."},
            ]
        )
        added = await client.conversations.items.create(
            begun.id,
            items=[
                {"role": "user", "content": [{"type": "input_text", "text": "Is it big?"}]},
                {"type": "message", "role": "assistant", "content": "Not very."},
            ],
        )
        ConversationItemList.model_validate_json(added.model_dump_json(), strict=True)
        assert [item.type for item in added.data] == ["message", "message"]
        assert (added.first_id, added.last_id) == (added.data[0].id, added.data[1].id)
        answer = await client.responses.create(input=FERRY, conversation=begun.id)
        handed_in = [item.id async for item in client.responses.input_items.list(answer.id)]
        items = [item async for item in client.conversations.items.list(begun.id, order="asc")]
    assert handed_in == [items[5].id]
    assert len({item.id for item in items}) == len(items) == 8
    turns = prompt(upstream)
    assert turns[:4] == [
        ("user", "Which ferry is there?"),
        ("assistant", "One to Holm."),
        ("user", "Is it big?"),
        ("assistant", "Not very."),
    ]
    assert FERRY in turns[4][1]
    assert "Speak like a sailor." in upstream.requests[-1].messages[0]["content"]


async def test_every_kind_of_item_is_listed_as_the_standard_has_it(
    served: Served, upstream: Upstream
) -> None:
    """Messages of every role, pictures, calls and their outputs, reasoning and searches."""
    upstream.queue(Script(reasoning=("Hm.",), tokens=calls("tide", "{}")), Script())
    tide = {"type": "function", "name": "tide", "parameters": {"type": "object"}}
    async with serving(
        served.settings.state_dir.parent / "other", upstream=upstream, llm_images=True
    ) as other:
        begun = await post(other, URL, {})
        question = {
            "role": "user",
            "content": [
                {"type": "input_text", "text": FERRY},
                {"type": "input_image", "image_url": "data:image/png;base64,aGk="},
            ],
        }
        first = await ask(
            other,
            [{"role": "developer", "content": "Be brief."}, question],
            conversation=begun["id"],
            tools=[tide],
        )
        [call] = [item for item in first["output"] if item["type"] == "function_call"]
        output = {"type": "function_call_output", "call_id": call["call_id"], "output": "high"}
        await ask(other, [output], conversation=begun["id"], tools=[tide])
        found = await get(other, f"{URL}/{begun['id']}/items?order=asc")
        handed_in = await get(other, f"/v1/responses/{first['id']}/input_items?order=asc")
    kinds = [(item["type"], item.get("role")) for item in found["data"]]
    assert kinds == [
        ("message", "developer"),
        ("message", "user"),
        ("reasoning", None),
        ("function_call", None),
        ("function_call_output", None),
        ("message", "assistant"),
    ]
    strict(ConversationItemList, found)
    assert handed_in["data"] == found["data"][:2]
    strict(openai.types.responses.ResponseItemList, handed_in)


def strict(type: Any, value: Event) -> None:
    """Fail if a value is not just what the official package declares."""
    TypeAdapter(type).validate_json(json.dumps(value), strict=True)


async def test_passages_are_listed_if_they_are_included(served: Served) -> None:
    """Both spellings of `include` work, and without it a search is listed bare."""
    begun = await post(served, URL, {})
    await ask(served, FERRY, conversation=begun["id"], include=["file_search_call.results"])
    for query, there in (
        ("", False),
        ("?include=file_search_call.results", True),
        ("?include[]=file_search_call.results", True),
    ):
        found = await get(served, f"{URL}/{begun['id']}/items{query}")
        [search] = [item for item in found["data"] if item["type"] == "file_search_call"]
        assert bool(search["results"]) is there
        one = await get(served, f"{URL}/{begun['id']}/items/{search['id']}{query}")
        assert one == search


async def test_a_conversation_is_there_from_its_first_question_on(
    served: Served, upstream: Upstream
) -> None:
    """It is named after it, knows what runs in it, and has no items before an answer ends."""
    upstream.queue(Script(gated=True), Script())
    async with served.talk() as talk:
        id = (await talk.recv())["conversation"]
        await get(served, f"{URL}/{id}", 404)
        question = f"  {FERRY}\n How long\tdoes it take, and may I bring my two dogs along? "
        await talk.ask(question, retrieval={"mode": "none"})
        created = await talk.until("response.created")
        await talk.ask("And back?")
        queued = await talk.until("response.queued")
        found = await get(served, f"{URL}/{id}")
        active = [created["response"]["id"], queued["response"]["id"]]
        assert found["ragsocket"]["active_response_ids"] == active
        assert found["ragsocket"]["head"] is None
        title = f"{FERRY} How long does it take,…"
        assert found["ragsocket"]["title"] == title
        assert await said(served, id) == []
        (await upstream.request(0)).release(100)
        await talk.terminal()
        await talk.terminal()
    found = await get(served, f"{URL}/{id}")
    assert found["ragsocket"]["active_response_ids"] == []
    assert found["ragsocket"]["head"] == active[1]
    assert len(await said(served, id)) == 4


async def test_conversations_are_listed_by_what_happened_last(
    served: Served, upstream: Upstream
) -> None:
    """Newest first or last, page by page, each once; a question moves one to the front."""
    ids = []
    for number in range(5):
        begun = await post(served, URL, {"metadata": {"title": f"number {number}"}})
        ids.append(begun["id"])
        # Two of the same millisecond would have no order that is known here.
        await the_next_millisecond()
    await ask(served, FERRY, conversation=ids[1])
    expected = [ids[1], ids[4], ids[3], ids[2], ids[0]]
    for order, wanted in (("desc", expected), ("asc", expected[::-1])):
        pages = []
        query = f"?limit=2&order={order}"
        while True:
            page = await get(served, URL + query)
            pages.append([one["id"] for one in page["data"]])
            if not page["has_more"]:
                break
            query = f"?limit=2&order={order}&after={page['last_id']}"
        assert [len(page) for page in pages] == [2, 2, 1]
        assert [id for page in pages for id in page] == wanted
    assert page["first_id"] == page["last_id"]
    empty = await get(served, f"{URL}?q=nothing-like-that")
    assert (empty["data"], empty["first_id"], empty["last_id"]) == ([], None, None)
    assert empty["has_more"] is False


async def test_conversations_are_found_by_their_words(served: Served, upstream: Upstream) -> None:
    """Words of the title, of questions and of answers, in any case; all of them must be there."""
    upstream.queue(Script(tokens=("The GRÖSSTE one, 100% wet.",)))
    titled = await post(served, URL, {"metadata": {"title": "Fähren nach Holm"}})
    asked = await post(served, URL, {})
    await ask(served, FERRY, conversation=asked["id"])
    other = await post(served, URL, {"items": [{"role": "user", "content": "A_B of the harbour"}]})

    async def found(q: str) -> set[str]:
        async with served.http() as http:
            answer = await http.get(URL, params={"q": q})
        return {one["id"] for one in answer.json()["data"]}

    everything = {titled["id"], asked["id"], other["id"]}
    assert await found("holm") == {titled["id"], asked["id"]}
    assert await found("FÄHREN") == {titled["id"]}
    assert await found("grösste FERRY") == {asked["id"]}
    assert await found("fähren ferry") == set()
    assert await found("100%") == {asked["id"]}
    assert await found("%") == {asked["id"]}
    assert await found("a_b") == {other["id"]}
    assert await found("_") == {other["id"]}
    assert await found("  ") == everything
    await post(served, f"{URL}/{titled['id']}", {"metadata": None})
    assert await found("fähren") == set()
    assert await found("holm") == {asked["id"]}


async def test_the_title_that_is_set_stands_before_the_first_words(served: Served) -> None:
    """New metadata takes the place of the old, and without a title the first words are back."""
    begun = await post(served, URL, {"metadata": {"title": " Ferries ", "colour": "blue"}})
    path = f"{URL}/{begun['id']}"
    assert begun["ragsocket"]["title"] == "Ferries"
    await ask(served, FERRY, conversation=begun["id"])
    assert (await get(served, path))["ragsocket"]["title"] == "Ferries"
    renamed = await post(served, path, {"metadata": {"colour": "red"}})
    assert renamed["metadata"] == {"colour": "red"}
    assert renamed["ragsocket"]["title"] == FERRY
    assert (await post(served, path, {"metadata": None}))["metadata"] == {}
    assert await get(served, path) == {**renamed, "metadata": {}}


async def test_items_are_the_walk_back_from_the_head(served: Served, upstream: Upstream) -> None:
    """An edit leaves the old branch off the list; it is still found as the response that it is."""
    begun = await post(served, URL, {})
    first = await ask(served, "ferry one?", conversation=begun["id"])
    wrong = await ask(served, "ferry wrong?", conversation=begun["id"])
    right = await ask(
        served, "ferry right?", conversation=begun["id"], previous_response_id=first["id"]
    )
    questions = [text for text in await said(served, begun["id"]) if text.startswith("ferry")]
    assert questions == ["ferry one?", "ferry right?"]
    assert (await get(served, f"{URL}/{begun['id']}"))["ragsocket"]["head"] == right["id"]
    assert await get(served, f"/v1/responses/{wrong['id']}") == wrong
    handed_in = await get(served, f"/v1/responses/{wrong['id']}/input_items")
    old = handed_in["data"][0]
    assert old["content"] == [{"type": "input_text", "text": "ferry wrong?"}]
    await get(served, f"{URL}/{begun['id']}/items/{old['id']}", 404)


async def test_a_long_conversation_is_read_whole(served: Served, upstream: Upstream) -> None:
    """More responses than are read at a time, in pages of a hundred from both ends."""
    begun = await post(served, URL, {})
    expected = []
    async with served.http() as http:
        for number in range(60):
            texts = [f"{number}.{n}" for n in range(3)]
            items = [{"role": "user", "content": text} for text in texts]
            await http.post(f"{URL}/{begun['id']}/items", json={"items": items})
            expected += texts
    async with official(served) as client:
        pages = client.conversations.items.list(begun["id"], order="asc", limit=100)
        assert [item.content[0].text async for item in pages] == expected  # type: ignore
        pages = client.conversations.items.list(begun["id"], order="desc", limit=100)
        assert [item.content[0].text async for item in pages] == expected[::-1]  # type: ignore


async def test_items_are_added_when_no_answer_runs(served: Served, upstream: Upstream) -> None:
    """They wait for their turn as a response does, and what was asked after them goes on."""
    upstream.queue(Script(tokens=("first ",), gated=True), Script())
    begun = await post(served, URL, {})
    async with served.talk("/v1/responses") as talk, anyio.create_task_group() as tasks:
        await talk.ask("ferry first?", conversation=begun["id"])
        first = await upstream.request(0)
        live = served.runner.lineage.conversation(begun["id"], "local")
        tasks.start_soon(
            post,
            served,
            f"{URL}/{begun['id']}/items",
            {"items": [{"role": "user", "content": "between"}]},
        )
        await until(lambda: len(live.turnstile.queue) == 2)
        await talk.ask("ferry second?", conversation=begun["id"])
        await talk.until("response.queued")
        first.release(100)
        await talk.terminal()
        await talk.terminal()
    texts = await said(served, begun["id"])
    assert texts[:2] == ["ferry first?", "first "]
    assert texts[2:4] == ["between", "ferry second?"]
    roles = [role for role, _ in prompt(upstream)]
    assert roles == ["user", "assistant", "user"]
    assert "between" in prompt(upstream)[-1][1]


async def test_a_greeted_conversation_can_be_given_items_first(
    served: Served, upstream: Upstream
) -> None:
    """Items that come before a socket's first question are in its prompt."""
    async with served.talk() as talk:
        id = (await talk.recv())["conversation"]
        items = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello!"}]
        await post(served, f"{URL}/{id}/items", {"items": items})
        await talk.answer(FERRY)
    assert prompt(upstream)[:2] == [("user", "Hi."), ("assistant", "Hello!")]
    assert (await said(served, id))[:3] == ["Hi.", "Hello!", FERRY]


async def test_every_door_is_described(served: Served) -> None:
    """The OpenAPI document says what each takes and gives, and why one would use it."""
    paths = (await get(served, "/openapi.json"))["paths"]
    doors = {
        (path.removeprefix("/v1/"), method): door
        for path, operations in paths.items()
        for method, door in operations.items()
        if path.startswith((URL, "/v1/responses/"))
    }
    one, item = "conversations/{conversation_id}", "conversations/{conversation_id}/items/{item_id}"
    given = {
        ("conversations", "get"): "ConversationList",
        ("conversations", "post"): "Conversation",
        (one, "get"): "Conversation",
        (one, "post"): "Conversation",
        (one, "delete"): "ConversationDeleted",
        (f"{one}/items", "get"): "ItemList",
        (f"{one}/items", "post"): "ItemList",
        (item, "delete"): "Conversation",
        ("responses/{response_id}", "delete"): "ResponseDeleted",
        ("responses/{response_id}/input_items", "get"): "ItemList",
        ("responses/{response_id}/feedback", "post"): "Response",
    }
    for door, model in given.items():
        schema = doors[door]["responses"]["200"]["content"]["application/json"]["schema"]
        assert schema == {"$ref": f"#/components/schemas/{model}"}, door
        assert ("requestBody" in doors[door]) == (door[1] == "post"), door
        assert doors[door]["description"], door
    for path, method in ((f"{one}/items", "get"), ("responses/{response_id}/input_items", "get")):
        parameters = {one["name"]: one for one in doors[path, method]["parameters"]}
        assert {"after", "limit", "order", "include", "include[]"} <= set(parameters)
        assert parameters["order"]["schema"]["enum"] == ["asc", "desc"]


async def test_deleting_stops_what_runs_and_refuses_what_comes(
    served: Served, upstream: Upstream
) -> None:
    """Running and queued answers end as cancelled; the socket's next question is an error."""
    upstream.queue(Script(gated=True))
    async with served.talk() as talk:
        id = (await talk.recv())["conversation"]
        await talk.ask(FERRY)
        await talk.ask("And dogs?")
        request = await upstream.request(0)
        gone = await remove(served, f"{URL}/{id}")
        assert gone == {"id": id, "object": "conversation.deleted", "deleted": True}
        await request.closed()
        ends = [await talk.terminal(), await talk.terminal()]
        assert [end["response"]["status"] for end in ends] == ["cancelled"] * 2
        await talk.ask("And now?", event_id="after")
        error = await talk.until("error")
        assert (error["code"], error["param"]) == ("conversation_not_found", "conversation")
        assert "was deleted" in error["message"]
        for end in ends:
            await get(served, f"/v1/responses/{end['response']['id']}", 404)
            await talk.send({"type": "response.resume", "response_id": end["response"]["id"]})
            assert (await talk.until("error"))["code"] == "response_not_found"
        other = await talk.answer(FERRY, stream_id="another lane")
        assert other[-1]["type"] == "response.completed"
    await get(served, f"{URL}/{id}", 404)
    await remove(served, f"{URL}/{id}", 404)
    listed = await get(served, URL)
    assert [one["id"] for one in listed["data"]] == [other[-1]["response"]["conversation"]["id"]]


async def test_a_deletion_that_cannot_be_stored_has_not_happened(
    state: Path, upstream: Upstream, database: str
) -> None:
    """While the database is locked every change is refused, and afterwards all is as it was."""
    async with (
        serving(state, upstream=upstream, database_url=database, commit_timeout_s=0.5) as served,
        served.talk() as talk,
        served.http() as http,
    ):
        path = f"{URL}/{(await talk.recv())['conversation']}"
        end = (await talk.answer(FERRY))[-1]["response"]
        before = (await http.get(f"{path}/items")).json()
        item = before["last_id"]
        async with beside(database, locking=True):
            for method, place, body in (
                ("DELETE", path, None),
                ("DELETE", f"{path}/items/{item}", None),
                ("POST", f"{path}/items", {"items": [{"role": "user", "content": "Hi."}]}),
                ("POST", path, {"metadata": {"title": "other"}}),
                ("POST", URL, {}),
                ("DELETE", f"/v1/responses/{end['id']}", None),
                ("POST", f"/v1/responses/{end['id']}/feedback", {"rating": "up"}),
            ):
                answer = await http.request(method, place, json=body)
                assert (answer.status_code, answer.json()["error"]["code"]) == (
                    503,
                    "history_unavailable",
                )
        assert (await http.get(f"{path}/items")).json() == before
        assert (await http.get(f"/v1/responses/{end['id']}")).json() == end
        assert len((await http.get(URL)).json()["data"]) == 1
        after = (await talk.answer("And dogs?"))[-1]["response"]
    assert after["previous_response_id"] == end["id"]
    assert [role for role, _ in prompt(upstream)] == ["user", "assistant", "user"]


async def test_what_waited_for_a_deleted_conversation_is_refused(
    served: Served, upstream: Upstream
) -> None:
    """Items that wait for their turn are not added to what is deleted meanwhile."""
    upstream.queue(Script(gated=True))
    begun = await post(served, URL, {})
    async with (
        served.talk("/v1/responses") as talk,
        served.http() as http,
        anyio.create_task_group() as tasks,
    ):
        await talk.ask(FERRY, conversation=begun["id"])
        await upstream.request(0)
        live = served.runner.lineage.conversation(begun["id"], "local")

        async def add() -> None:
            body = {"items": [{"role": "user", "content": "late"}]}
            answer = await http.post(f"{URL}/{begun['id']}/items", json=body)
            assert answer.status_code == 404

        tasks.start_soon(add)
        await until(lambda: len(live.turnstile.queue) == 2)
        await remove(served, f"{URL}/{begun['id']}")
    await get(served, f"{URL}/{begun['id']}", 404)
    assert (await get(served, f"{URL}?q=late"))["data"] == []


async def test_what_goes_on_from_a_deleted_conversation_keeps_its_own_words(
    served: Served, upstream: Upstream
) -> None:
    """A response outside it is still there and goes on, without what was deleted."""
    begun = await post(served, URL, {})
    before = await ask(served, "ferry before?")
    inside = await ask(
        served, "ferry inside?", conversation=begun["id"], previous_response_id=before["id"]
    )
    outside = await ask(served, "ferry outside?", previous_response_id=inside["id"])
    await remove(served, f"{URL}/{begun['id']}")
    assert await get(served, f"/v1/responses/{outside['id']}") == outside
    await ask(served, "ferry last?", previous_response_id=outside["id"])
    questions = [text for role, text in prompt(upstream) if role == "user"]
    assert questions[:2] == ["ferry before?", "ferry outside?"]
    assert len(questions) == 3


async def test_an_item_is_forgotten(served: Served, upstream: Upstream) -> None:
    """It leaves the conversation, its response, the search and the next prompt."""
    upstream.queue(*(Script(tokens=(text,)) for text in ("Secret 7:40.", "Free.", "Yes.")))
    async with official(served) as client:
        begun = await client.conversations.create()
        first = await client.responses.create(input="ferry one?", conversation=begun.id)
        await client.responses.create(input="ferry two?", conversation=begun.id)
        [answer] = [item for item in first.output if item.type == "message"]
        left = await client.conversations.items.delete(answer.id, conversation_id=begun.id)
        assert left.id == begun.id
        with pytest.raises(openai.NotFoundError, match=answer.id):
            await client.conversations.items.delete(answer.id, conversation_id=begun.id)
        shown = await client.responses.retrieve(first.id)
        assert [item.type for item in shown.output] == ["file_search_call"]
        await client.responses.create(input="ferry three?", conversation=begun.id)
    left_over = ["ferry one?", "ferry two?", "Free.", "ferry three?", "Yes."]
    assert await said(served, begun.id) == left_over
    assert "Secret" not in str(upstream.requests[-1].messages)
    roles = [role for role, _ in prompt(upstream)]
    assert roles == ["user", "assistant", "user"]
    assert (await get(served, f"{URL}?q=secret"))["data"] == []


async def test_the_first_question_takes_its_title_along(served: Served) -> None:
    """A conversation that was named after a forgotten question is named after the next one."""
    begun = await post(served, URL, {"items": [{"role": "user", "content": "My secret?"}]})
    await ask(served, FERRY, conversation=begun["id"])
    path = f"{URL}/{begun['id']}"
    [item, *_] = (await get(served, f"{path}/items?order=asc"))["data"]
    assert (await get(served, path))["ragsocket"]["title"] == "My secret?"
    left = await remove(served, f"{path}/items/{item['id']}")
    assert left["ragsocket"]["title"] == FERRY
    assert (await get(served, f"{URL}?q=secret"))["data"] == []
    named = await post(served, path, {"metadata": {"title": "Ferries"}})
    await remove(served, f"/v1/responses/{named['ragsocket']['head']}")
    assert (await get(served, path))["ragsocket"]["title"] == "Ferries"
    bare = await post(served, path, {"metadata": {}})
    assert bare["ragsocket"]["title"] is None


async def test_items_of_before_the_conversation_are_only_read(served: Served) -> None:
    """What it goes on from belongs elsewhere: it is listed, and deleting it here is refused."""
    begun = await post(served, URL, {})
    before = await ask(served, "ferry before?")
    await ask(served, FERRY, conversation=begun["id"], previous_response_id=before["id"])
    path = f"{URL}/{begun['id']}/items"
    [item, *_] = (await get(served, f"{path}?order=asc"))["data"]
    assert item["content"][0]["text"] == "ferry before?"
    error = (await remove(served, f"{path}/{item['id']}", 409))["error"]
    assert (error["code"], error["param"]) == ("item_elsewhere", "item_id")
    assert before["id"] in error["message"]
    assert await get(served, f"{path}/{item['id']}") == item


async def test_conversations_survive_a_restart(served: Served, upstream: Upstream) -> None:
    """Title, items, order and what is deleted are on disk."""
    kept = await post(served, URL, {"metadata": {"title": "Kept"}})
    await ask(served, FERRY, conversation=kept["id"])
    gone = await post(served, URL, {})
    await remove(served, f"{URL}/{gone['id']}")
    before = await get(served, f"{URL}/{kept['id']}/items")
    found = await get(served, URL)
    async with restarted(served, upstream) as again:
        assert await get(again, URL) == found
        assert await get(again, f"{URL}/{kept['id']}/items") == before
        await get(again, f"{URL}/{gone['id']}", 404)
        await ask(again, "And dogs?", conversation=kept["id"])
    assert FERRY in prompt(upstream)[0][1]


async def test_nothing_of_another_owner_is_seen(served: Served) -> None:
    """Rows of somebody else are not there, for any door."""
    mine = await post(served, URL, {"items": [{"role": "user", "content": "ferry"}]})
    [item] = (await get(served, f"{URL}/{mine['id']}/items"))["data"]
    async with beside(str(served.settings.database_url)) as rows:
        await rows.exec_driver_sql("UPDATE conversations SET owner = 'ada'")
        await rows.exec_driver_sql("UPDATE responses SET owner = 'ada'")
    path = f"{URL}/{mine['id']}"
    assert (await get(served, URL))["data"] == []
    for place in (path, f"{path}/items", f"{path}/items/{item['id']}"):
        await get(served, place, 404)
    await remove(served, path, 404)
    await remove(served, f"{path}/items/{item['id']}", 404)
    items = {"items": [{"role": "user", "content": "mine now"}]}
    bodies: dict[str, Event] = {
        path: {"metadata": {}},
        f"{path}/items": items,
        "/v1/responses": {"input": FERRY, "conversation": mine["id"]},
    }
    for place, body in bodies.items():
        status, error = await served.refusal(place, body)
        assert (status, error["code"]) == (404, "conversation_not_found")
