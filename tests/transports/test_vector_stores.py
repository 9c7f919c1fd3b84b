"""`/v1/vector_stores` with the official client, and answers from what was uploaded."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import anyio
import openai
import pytest
from openai import AsyncOpenAI

from harness import PATIENCE_S, Served, official, serving, until
from ragsocket.protocol.errors import EVENT_ERRORS
from upstream import Script, Upstream
from words import WordEmbedding

NOTE = "The lighthouse keeper is called Ingrid. The lighthouse lamp burns seal oil.\n"
MENU = "The lighthouse kitchen serves soup on Mondays and dumplings on Fridays.\n"
LAMP = "What does the lighthouse lamp burn?"
FERRY = "When does the ferry to Holm leave?"


@pytest.fixture
async def served(upstream: Upstream, state: Path, documents: Path) -> AsyncIterator[Served]:
    """The whole server over a folder; it embeds by itself, and so takes uploads in quickly."""
    async with serving(
        state, upstream=upstream, data=documents, embed_model=WordEmbedding()
    ) as server:
        yield server


async def put(client: AsyncOpenAI, store: str, name: str, text: str, **fields: Any) -> str:
    """Upload a file into a store, wait until it can be found, and return its id."""
    member = await client.vector_stores.files.upload_and_poll(
        vector_store_id=store, file=(name, text.encode()), poll_interval_ms=20, **fields
    )
    assert member.status == "completed", member.last_error
    return member.id


async def names(client: AsyncOpenAI, store: str, query: str = "lighthouse", **fields: Any) -> Any:
    """Search, and return the names of the files that were found, best first."""
    found = await client.vector_stores.search(store, query=query, **fields)
    return [result.filename for result in found.data]


def results(event: dict[str, Any]) -> list[str]:
    """Return the names of the files that an answer was made from."""
    calls = [i for i in event["response"]["output"] if i["type"] == "file_search_call"]
    return sorted({result["filename"] for call in calls for result in call["results"]})


async def published_after(served: Served, store: str, revision: int) -> int:
    """Wait until a store has a later revision, and return it."""
    async with served.http() as http:
        with anyio.fail_after(PATIENCE_S):
            while True:
                facts = (await http.get(f"/v1/vector_stores/{store}")).json()["ragsocket"]
                if facts["index_revision"] > revision:
                    return int(facts["index_revision"])
                await anyio.sleep(0.01)


@asynccontextmanager
async def held_back(served: Served, part: str) -> AsyncIterator[None]:
    """Keep ingestions of a part of a store waiting, as one in another process does."""
    path = served.settings.index_path.with_name(f"{part}.lock")
    path.parent.mkdir(exist_ok=True)
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as lock:
        with anyio.fail_after(PATIENCE_S):
            while True:
                try:
                    lock.execute("BEGIN EXCLUSIVE")
                    break
                except sqlite3.OperationalError:
                    await anyio.sleep(0.01)
        yield


async def test_the_official_client_uploads_and_an_answer_cites_it(
    served: Served, client: AsyncOpenAI, upstream: Upstream
) -> None:
    """Upload, wait, search, ask; the passage, its file and its attributes come back."""
    upstream.queue(Script(tokens=("Seal oil [1].",)))
    store = await client.vector_stores.create(name="Coast", metadata={"of": "us"})
    file_id = await put(client, store.id, "keeper.md", NOTE, attributes={"year": 1911})
    found = await client.vector_stores.search(store.id, query=LAMP)
    assert found.data[0].file_id == file_id
    assert found.data[0].attributes == {"year": 1911}
    assert "seal oil" in found.data[0].content[0].text
    answer = await client.responses.create(
        input=LAMP,
        tools=[{"type": "file_search", "vector_store_ids": [store.id]}],
        include=["file_search_call.results"],
    )
    assert answer.output_text == "Seal oil [1]."
    call, message = answer.output
    assert call.type == "file_search_call"
    assert call.results
    assert call.results[0].attributes is not None
    assert call.results[0].attributes["year"] == 1911
    assert message.type == "message"
    assert message.content[0].type == "output_text"
    cited = message.content[0].annotations[0]
    assert cited.type == "file_citation"
    assert (cited.file_id, cited.filename) == (file_id, "keeper.md")


async def test_a_store_is_made_listed_changed_and_deleted(client: AsyncOpenAI) -> None:
    """The official client reads back what it wrote, and what is gone is not found."""
    file = await client.files.create(file=("keeper.md", NOTE.encode()), purpose="assistants")
    made = await client.vector_stores.create(name="Coast", file_ids=[file.id])
    assert (made.name, made.status, made.file_counts.in_progress) == ("Coast", "in_progress", 1)
    assert made.usage_bytes == len(NOTE)
    listed = [store async for store in client.vector_stores.list(limit=1)]
    assert [store.id for store in listed] == [made.id, "vs_default"]
    changed = await client.vector_stores.update(made.id, name="Shore", metadata={"a": "b"})
    assert (changed.name, changed.metadata) == ("Shore", {"a": "b"})
    done = await client.vector_stores.files.poll(
        file.id, vector_store_id=made.id, poll_interval_ms=20
    )
    assert (done.status, done.last_error, done.attributes) == ("completed", None, {})
    again = await client.vector_stores.retrieve(made.id)
    assert (again.name, again.status, again.file_counts.completed) == ("Shore", "completed", 1)
    assert (await client.vector_stores.delete(made.id)).deleted
    assert await client.files.retrieve(file.id) == file
    for call in (
        client.vector_stores.retrieve(made.id),
        client.vector_stores.search(made.id, query="x"),
        client.vector_stores.files.create(made.id, file_id=file.id),
        client.vector_stores.delete(made.id),
    ):
        with pytest.raises(openai.NotFoundError) as raised:
            await call
        assert raised.value.code == "vector_store_not_found"


async def test_a_file_comes_into_a_store_and_goes_again(client: AsyncOpenAI) -> None:
    """Attributes are replaced, a detached file stays as a file, and lists go by status."""
    store = (await client.vector_stores.create()).id
    ids = [await put(client, store, f"{n}.md", f"{NOTE} {n}") for n in range(3)]
    files = client.vector_stores.files
    assert [one.id async for one in files.list(store, limit=2, order="asc")] == ids
    assert [one.id async for one in files.list(store, filter="completed")] == ids[::-1]
    assert [one.id async for one in files.list(store, filter="failed")] == []
    before = await files.list(store, before=ids[0], limit=1)
    assert ([one.id for one in before.data], before.has_more) == ([ids[1]], True)
    changed = await files.update(ids[0], vector_store_id=store, attributes={"kind": "note"})
    assert changed.attributes == {"kind": "note"}
    assert await files.retrieve(ids[0], vector_store_id=store) == changed
    assert (await files.delete(ids[0], vector_store_id=store)).deleted
    assert (await client.files.retrieve(ids[0])).filename == "0.md"
    for call in (files.retrieve, files.delete):
        with pytest.raises(openai.NotFoundError) as raised:
            await call(ids[0], vector_store_id=store)
        assert raised.value.code == "file_not_found"
    assert ids[0] not in [one.id async for one in files.list(store)]


async def test_the_folder_is_the_default_store_and_takes_uploads(
    served: Served, client: AsyncOpenAI, upstream: Upstream
) -> None:
    """It says that it is the folder; its files stay; an answer that names no store finds both."""
    async with served.http() as http:
        store = (await http.get("/v1/vector_stores/vs_default")).json()
    assert store["ragsocket"]["is_folder"]
    assert store["file_counts"]["completed"] == 2
    files = client.vector_stores.files
    (ferry, _harbour) = [one async for one in files.list("vs_default", order="asc")]
    for call in (
        files.delete(ferry.id, vector_store_id="vs_default"),
        files.create("vs_default", file_id=ferry.id),
        client.vector_stores.delete("vs_default"),
    ):
        with pytest.raises(openai.ConflictError) as raised:
            await call
        assert raised.value.code == "folder_read_only"
    await files.update(ferry.id, vector_store_id="vs_default", attributes={"by": "sea"})
    id = await put(client, "vs_default", "keeper.md", NOTE)
    listed = [one async for one in files.list("vs_default", order="asc")]
    assert listed[2].id == id
    assert [one.model_dump()["ragsocket"] for one in listed] == [
        {"filename": "ferry.md", "in_folder": True},
        {"filename": "harbour.txt", "in_folder": True},
        {"filename": "keeper.md", "in_folder": False},
    ]
    upstream.queue(Script(), Script())
    include = ["file_search_call.results"]
    async with served.talk("/v1/responses") as talk:
        assert "keeper.md" in results((await talk.answer(LAMP, include=include))[-1])
        end = (await talk.answer(FERRY, include=include))[-1]
    call = next(i for i in end["response"]["output"] if i["type"] == "file_search_call")
    assert call["results"][0]["filename"] == "ferry.md"
    assert call["results"][0]["attributes"]["by"] == "sea"


async def test_an_answer_comes_from_every_store_named(
    served: Served, client: AsyncOpenAI, upstream: Upstream
) -> None:
    """Of several stores the passages are ranked together; a file in two of them counts once."""
    stores = [(await client.vector_stores.create(name=name)).id for name in ("one", "two")]
    file_id = await put(client, stores[0], "keeper.md", NOTE)
    await put(client, stores[1], "menu.md", MENU)
    await client.vector_stores.files.create_and_poll(
        file_id, vector_store_id=stores[1], poll_interval_ms=20
    )
    upstream.queue(Script(), Script())
    async with served.talk() as talk:
        tools = [{"type": "file_search", "vector_store_ids": stores}]
        end = (await talk.answer("lighthouse lamp kitchen", tools=tools))[-1]
        call = next(i for i in end["response"]["output"] if i["type"] == "file_search_call")
        assert sorted(r["filename"] for r in call["results"]) == ["keeper.md", "menu.md"]
        assert all(0 <= result["score"] <= 1 for result in call["results"])
        unknown = [{"type": "file_search", "vector_store_ids": [stores[0], "vs_nobody"]}]
        end = (await talk.answer(LAMP, tools=unknown))[-1]
    assert end["response"]["ragsocket"]["code"] == "vector_store_not_found"
    assert "vs_nobody" in end["response"]["error"]["message"]


async def test_filters_choose_files_before_they_are_ranked(
    served: Served, client: AsyncOpenAI, upstream: Upstream
) -> None:
    """On every way in; what does not pass takes no place from what does."""
    store = (await client.vector_stores.create()).id
    for year in range(1900, 1912):
        text = f"{NOTE} In the year {year}, the lighthouse lamp burnt {year - 1850} barrels.\n"
        await put(client, store, f"{year}.md", text, attributes={"year": year, "odd": year % 2 > 0})
    late: Any = {"type": "gte", "key": "year", "value": 1910}
    odd: Any = {"type": "eq", "key": "odd", "value": True}
    both: Any = {"type": "and", "filters": [late, odd]}
    name: Any = {"type": "in", "key": "file_name", "value": ["1904.md", "1905.md", "x.md"]}
    assert sorted(await names(client, store, filters=late)) == ["1910.md", "1911.md"]
    assert await names(client, store, filters=both, max_num_results=1) == ["1911.md"]
    assert sorted(await names(client, store, filters=name)) == ["1904.md", "1905.md"]
    nothing: Any = {"type": "eq", "key": "year", "value": "1910"}
    assert await names(client, store, filters=nothing) == []

    upstream.queue(Script(), Script(), Script())
    tool: dict[str, Any] = {"type": "file_search", "vector_store_ids": [store]}
    async with served.talk() as talk:
        end = (await talk.answer(LAMP, tools=[{**tool, "filters": both}]))[-1]
        assert results(end) == ["1911.md"]
        assert end["response"]["tools"][0]["filters"] == both
        retrieval = {"filters": odd, "similarity_top_k": 2}
        end = (await talk.answer(LAMP, tools=[{**tool, "filters": late}], retrieval=retrieval))[-1]
        assert results(end) == ["1911.md"]
        folder = {"type": "ne", "key": "file_name", "value": "ferry.md"}
        end = (await talk.answer(FERRY, retrieval={"filters": folder}))[-1]
        assert results(end) == ["harbour.txt"]
        wrong = {**tool, "filters": {"type": "in", "key": "year", "value": 1910}}
        await talk.ask(LAMP, tools=[wrong])
        error = await talk.until("error")
        assert error["param"] == "tools[0].filters"
        assert "list" in error["message"]


async def test_several_queries_and_a_least_score(client: AsyncOpenAI) -> None:
    """Each passage comes once, with its best score, and none below the threshold."""
    store = (await client.vector_stores.create()).id
    await put(client, store, "keeper.md", NOTE)
    await put(client, store, "menu.md", MENU)
    queries = ["lamp burns seal oil", "soup on Mondays"]
    found = await client.vector_stores.search(store, query=queries)
    assert sorted(result.filename for result in found.data) == ["keeper.md", "menu.md"]
    scores = [result.score for result in found.data]
    assert scores == sorted(scores, reverse=True)
    least: Any = {"score_threshold": 0.2}
    found = await client.vector_stores.search(store, query=queries[0], ranking_options=least)
    assert [result.filename for result in found.data] == ["keeper.md"]
    least = {"score_threshold": 1.0}
    found = await client.vector_stores.search(store, query="lamp", ranking_options=least)
    assert found.data == []


async def test_a_file_that_cannot_be_read_fails_alone(client: AsyncOpenAI) -> None:
    """Its reason stands in last_error; the other file of the store is found."""
    store = (await client.vector_stores.create()).id
    broken = await client.vector_stores.files.upload_and_poll(
        vector_store_id=store, file=("broken.txt", b"%PDF-1.7\nnothing"), poll_interval_ms=20
    )
    assert broken.status == "failed"
    assert broken.last_error is not None
    assert broken.last_error.code == "invalid_file"
    await put(client, store, "keeper.md", NOTE)
    assert await names(client, store) == ["keeper.md"]
    counts = (await client.vector_stores.retrieve(store)).file_counts
    assert (counts.failed, counts.completed, counts.total) == (1, 1, 2)


async def test_a_deleted_file_is_gone_from_the_next_answer_at_once(
    served: Served, client: AsyncOpenAI, upstream: Upstream
) -> None:
    """Although its passages cannot be taken out of the index yet; and they stay gone."""
    store = (await client.vector_stores.create()).id
    ids = [await put(client, store, f"{n}.md", f"{NOTE} {n}") for n in range(3)]
    upstream.queue(Script())
    async with held_back(served, store):
        await client.files.delete(ids[0])
        await client.vector_stores.files.delete(ids[1], vector_store_id=store)
        assert await names(client, store) == ["2.md"]
        async with served.talk() as talk:
            tools = [{"type": "file_search", "vector_store_ids": [store]}]
            end = (await talk.answer(LAMP, tools=tools))[-1]
        assert results(end) == ["2.md"]
        before = end["response"]["ragsocket"]["index_revision"]
    await published_after(served, store, before)
    assert await names(client, store) == ["2.md"]


async def test_a_store_deleted_while_an_answer_streams_does_no_harm(
    served: Served, client: AsyncOpenAI, upstream: Upstream
) -> None:
    """The answer ends whole with its sources; the next one is told that the store is gone."""
    store = (await client.vector_stores.create()).id
    await put(client, store, "keeper.md", NOTE)
    upstream.queue(Script(gated=True, tokens=("Seal ", "oil ", "[1].")))
    tools = [{"type": "file_search", "vector_store_ids": [store]}]
    async with served.talk() as talk:
        await talk.ask(LAMP, tools=tools)
        request = await upstream.request(0)
        request.release(1)
        await talk.until("response.output_text.delta")
        await client.vector_stores.delete(store)
        await until(lambda: not list(served.settings.index_path.parent.glob(f"bm25-{store}-*")))
        request.release(2)
        end = await talk.terminal()
        assert end["type"] == "response.completed"
        assert results(end) == ["keeper.md"]
        end = (await talk.answer(LAMP, tools=tools))[-1]
        assert end["response"]["ragsocket"]["code"] == "vector_store_not_found"


async def test_uploads_and_answers_at_the_same_time(
    served: Served, client: AsyncOpenAI, upstream: Upstream
) -> None:
    """Answers that stream go on, each on the revision it began with."""
    store = (await client.vector_stores.create()).id
    first = await put(client, store, "keeper.md", NOTE)
    before = await published_after(served, store, 0)
    upstream.queue(*(Script(gated=True, tokens=("Oil.",)) for _ in range(2)))
    tools = [{"type": "file_search", "vector_store_ids": [store]}]
    async with served.talk() as talk, anyio.create_task_group() as tasks:
        for lane in ("a", "b"):
            await talk.ask(LAMP, tools=tools, stream_id=lane)
        requests = [await upstream.request(number) for number in range(2)]
        for text in (NOTE, MENU):
            tasks.start_soon(
                put, client, store, f"{text[15:19]}.md", text + "More of it stands elsewhere."
            )
        await published_after(served, store, before)
        for request in requests:
            request.release(1)
        for _ in requests:
            end = await talk.terminal()
            assert end["type"] == "response.completed"
            assert end["response"]["ragsocket"]["index_revision"] == before
            assert results(end) == ["keeper.md"]
    assert first in [one.id async for one in client.vector_stores.files.list(store)]
    assert len(await names(client, store)) == 3


async def test_a_batch_of_files_comes_in_together(client: AsyncOpenAI) -> None:
    """The official client uploads and waits; every file is found, one that is broken is counted."""
    store = (await client.vector_stores.create()).id
    batches = client.vector_stores.file_batches
    files: Any = [("a.md", NOTE.encode()), ("b.md", MENU.encode()), ("c.pdf", b"%PDF-1.7\n")]
    batch = await batches.upload_and_poll(store, files=files, poll_interval_ms=20)
    assert (batch.status, batch.file_counts.completed, batch.file_counts.failed) == (
        "completed", 2, 1,
    )  # fmt: skip
    assert sorted(await names(client, store)) == ["a.md", "b.md"]
    listed = [one async for one in batches.list_files(batch.id, vector_store_id=store)]
    assert len(listed) == 3
    again = await batches.retrieve(batch.id, vector_store_id=store)
    assert again == batch
    other = (await client.vector_stores.create()).id
    with pytest.raises(openai.NotFoundError) as raised:
        await batches.retrieve(batch.id, vector_store_id=other)
    assert raised.value.code == "file_batch_not_found"
    each: Any = [{"file_id": one.id, "attributes": {"of": "batch"}} for one in listed]
    copied = await batches.create_and_poll(other, files=each, poll_interval_ms=20)
    assert copied.file_counts.total == 3
    assert (await client.vector_stores.search(other, query=LAMP)).data[0].attributes == {
        "of": "batch"
    }


async def test_a_cancelled_batch_leaves_what_was_done(served: Served, client: AsyncOpenAI) -> None:
    """Its files in progress are given up for good, and can be attached again."""
    store = (await client.vector_stores.create()).id
    id = await put(client, store, "keeper.md", NOTE)
    other = await client.files.create(file=("menu.md", MENU.encode()), purpose="assistants")
    batches = client.vector_stores.file_batches
    async with held_back(served, store):
        batch = await batches.create(store, file_ids=[id, other.id])
        assert (batch.status, batch.file_counts.in_progress) == ("in_progress", 1)
        batch = await batches.cancel(batch.id, vector_store_id=store)
        assert (batch.status, batch.file_counts.cancelled) == ("cancelled", 1)
    assert batch.file_counts.completed == 1
    assert await names(client, store) == ["keeper.md"]
    again = await client.vector_stores.files.create_and_poll(
        other.id, vector_store_id=store, poll_interval_ms=20
    )
    assert again.status == "completed"
    assert sorted(await names(client, store)) == ["keeper.md", "menu.md"]


async def test_the_passages_of_a_file_are_read(client: AsyncOpenAI) -> None:
    """In order, as the file was split; of the folder's files too."""
    store = (await client.vector_stores.create()).id
    text = "".join(f"Sentence number {n} stands on its own line.\n\n" for n in range(60))
    id = await put(client, store, "long.md", text)
    content = client.vector_stores.files.content
    parts = [part.text or "" async for part in content(id, vector_store_id=store)]
    assert len(parts) > 1
    assert parts[0].startswith("Sentence number 0 ")
    assert parts[-1].endswith("59 stands on its own line.")
    (ferry, _) = [one async for one in client.vector_stores.files.list("vs_default", order="asc")]
    (only,) = [part.text async for part in content(ferry.id, vector_store_id="vs_default")]
    assert only is not None
    assert only.startswith("# Ferry")


REFUSED: tuple[tuple[str, Any, int, str, str | None], ...] = (
    ("", {"expires_after": {"anchor": "last_active_at", "days": 1}}, 400,
     "unsupported_parameter", "expires_after"),
    ("", {"chunking_strategy": {"type": "static", "static": {}}}, 400,
     "unsupported_parameter", "chunking_strategy"),
    ("", {"colour": "red"}, 400, "invalid_event", "colour"),
    ("", {"metadata": {"k": 1}}, 400, "invalid_event", "metadata.k"),
    ("", {"file_ids": ["file_nobody"]}, 404, "file_not_found", "file_id"),
    ("", b"[]", 400, "invalid_event", None),
    ("", b"{", 400, "invalid_json", None),
    ("/vs_default/search", {}, 400, "invalid_event", "query"),
    ("/vs_default/search", {"query": []}, 400, "invalid_event", "query"),
    ("/vs_default/search", {"query": "x", "max_num_results": 51}, 400, "invalid_event",
     "max_num_results"),
    ("/vs_default/search", {"query": "x", "rewrite_query": True}, 400, "unsupported_parameter",
     "rewrite_query"),
    ("/vs_default/search", {"query": "x", "filters": {"type": "like", "key": "a", "value": 1}},
     400, "invalid_event", "filters"),
    ("/vs_default/files", {"file_id": "file_nobody"}, 404, "file_not_found", "file_id"),
    ("/vs_default/files", {"file_id": "f", "attributes": {"file_id": "x"}}, 400,
     "invalid_event", "attributes"),
    ("/vs_default/files", {"file_id": "f", "attributes": {"a": None}}, 400,
     "invalid_event", "attributes.a"),
    ("/vs_default/file_batches", {}, 400, "invalid_event", None),
    ("/vs_default/file_batches", {"file_ids": ["f"], "files": [{"file_id": "f"}]}, 400,
     "invalid_event", None),
    ("/vs_default/file_batches", {"files": [{"file_id": "f", "x": 1}]}, 400,
     "invalid_event", "files[0].x"),
    ("/vs_default/file_batches/vsfb_nobody/cancel", {}, 404, "file_batch_not_found", "batch_id"),
    ("/vs_nobody/files", {"file_id": "f"}, 404, "vector_store_not_found", "vector_store_id"),
    ("/vs_default_uploads/search", {"query": "x"}, 404, "vector_store_not_found",
     "vector_store_id"),
    ("/..%2Fpasswd/search", {"query": "x"}, 404, "not_found", None),
)  # fmt: skip


async def test_what_cannot_be_done_is_refused_by_name(served: Served) -> None:
    """Each error names the field at fault, with the code and the status that fit."""
    for path, body, status, code, param in REFUSED:
        said = await served.refusal(f"/v1/vector_stores{path}", body)
        assert (said[0], said[1]["code"], said[1]["param"]) == (status, code, param), (path, body)
        assert code in EVENT_ERRORS


async def test_stores_and_files_in_progress_are_limited(upstream: Upstream, state: Path) -> None:
    """Both limits are settings; too many at once may be tried again later."""
    async with serving(
        state,
        upstream=upstream,
        embed_model=WordEmbedding(),
        max_vector_stores=1,
        max_files_in_progress=1,
    ) as served, official(served) as client:  # fmt: skip
        store = (await client.vector_stores.create()).id
        with pytest.raises(openai.PermissionDeniedError) as refused:
            await client.vector_stores.create()
        assert refused.value.code == "quota_exceeded"
        ids = [
            (await client.files.create(file=("n.md", NOTE.encode()), purpose="assistants")).id
            for _ in range(2)
        ]
        async with held_back(served, store):
            files = client.vector_stores.files
            await files.create(store, file_id=ids[0])
            with pytest.raises(openai.RateLimitError) as limited:
                await files.create(store, file_id=ids[1])
            assert limited.value.code == "too_many_files"
        await files.poll(ids[0], vector_store_id=store, poll_interval_ms=20)
        await files.create(store, file_id=ids[1])
