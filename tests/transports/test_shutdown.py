"""SIGTERM: not ready, no newcomers, running answers finish or are cut, all stored, then 1012."""

from __future__ import annotations

from pathlib import Path

import anyio
import httpx
import pytest
import websockets

from harness import Served, answer_text, serving, until
from upstream import Script, Upstream

FERRY = "When does the ferry to Holm leave?"


async def test_running_answers_finish(served: Served, upstream: Upstream) -> None:
    """A drain waits for the answer, sends it whole, and closes with 1012; newcomers are refused."""
    upstream.queue(Script(tokens=("one ", "two "), gated=True))
    async with served.talk() as talk, served.http() as http, anyio.create_task_group() as tasks:
        await http.get("/readyz")
        await talk.ask(FERRY)
        request = await upstream.request(0)
        request.release(1)
        await talk.until("response.output_text.delta")
        served.server.should_exit = True
        await until(lambda: served.runner.draining)
        with pytest.raises(OSError):  # noqa: PT011 - whichever way the system says refused
            await websockets.connect(f"ws://{served.address}/ws")
        await talk.ask("ferry again?", event_id="late")
        assert (await talk.until("error"))["code"] == "server_shutting_down"
        tasks.start_soon(request.wrote, 2)
        request.release(1)
        end = await talk.terminal()
        assert end["type"] == "response.completed"
        assert await talk.close_code() == 1012
    record_text = answer_text(end["response"])
    assert record_text == "one two "


async def test_what_does_not_end_in_time_is_cut_and_stored(upstream: Upstream, state: Path) -> None:
    """At the deadline the answer is cut by the rule, stored, told, and the socket closes 1012."""
    upstream.queue(Script(gated=True))
    async with serving(state, upstream=upstream, drain_s=0.2) as served:
        async with served.talk() as talk:
            await talk.ask(FERRY)
            request = await upstream.request(0)
            request.release(2)
            await talk.until("response.output_text.delta")
            served.server.should_exit = True
            end = await talk.terminal()
            assert await talk.close_code() == 1012
        await request.closed()
    assert end["response"]["status"] == "cancelled"
    assert end["response"]["ragsocket"]["reason"] == "shutdown"
    async with serving(state, upstream=upstream) as again:
        record = await again.runner.history.get(end["response"]["id"], owner="local")
        assert record is not None
        assert record.response.model_dump(mode="json") == end["response"]


async def test_readiness_tells_the_truth(served: Served) -> None:
    """`/readyz` is 200 when questions can be answered and 503 with a reason in a drain."""
    async with served.http() as http:
        ready = await http.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (200, "ready")
        served.runner.draining = True
        draining = await http.get("/readyz")
        assert draining.status_code == 503
        assert draining.json()["missing"] == {"server": "shutting down"}
        assert (await http.get("/healthz")).status_code == 200


async def test_the_port_answers_before_the_engine_is_there(
    upstream: Upstream, documents: Path, tmp_path: Path
) -> None:
    """`/healthz` answers while the documents are being read, and an early question waits."""
    from ragsocket.app import create_app
    from ragsocket.server import Server
    from ragsocket.settings import Settings

    settings = Settings(
        port=0, state_dir=tmp_path / "s", data=documents, llm_url=upstream.url,
        llm_model="scripted",
    )  # fmt: skip
    app = create_app(settings)
    server = Server(app, settings)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve)
        await until(lambda: server.started)
        host, port = server.address
        async with httpx.AsyncClient(base_url=f"http://{host}:{port}", timeout=30) as http:
            assert (await http.get("/healthz")).status_code == 200
            early = await http.get("/readyz")
            assert early.status_code == 503
            assert early.json()["missing"]
            answer = await http.get("/stream-question/", params={"query_text": FERRY})
            assert answer.status_code == 200
            assert (await http.get("/readyz")).status_code == 200
        server.should_exit = True
