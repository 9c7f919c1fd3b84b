"""`ragsocket serve` as a process: signals, sudden death, and who may share a state directory."""

from __future__ import annotations

import json
import signal
import sqlite3
from pathlib import Path
from typing import Any

from commands import run_async, serving

from harness import Event, answer_text, text_of, until
from ragsocket.engine.extractive import LABEL
from upstream import Script, Upstream

FERRY = "When does the ferry to Holm leave?"


def model(upstream: Upstream) -> tuple[str, ...]:
    """Flags that make the scripted server the model."""
    return ("--llm-url", upstream.url, "--llm-model", "scripted")


def rows(cwd: Path) -> dict[str, tuple[bool, Event]]:
    """The stored responses: id to whether it is finished, and the resource."""
    db = sqlite3.connect(f"file:{cwd / '.ragsocket' / 'history.sqlite3'}?mode=ro", uri=True)
    try:
        found: list[Any] = db.execute("SELECT id, finished, response FROM responses").fetchall()
    finally:
        db.close()
    return {id: (bool(finished), json.loads(text)) for id, finished, text in found}


async def test_it_says_where_it_is_and_what_it_answers_from(cwd: Path, upstream: Upstream) -> None:
    """The greeting names address, folder, model and how to try it; the log tells of readiness."""
    url = upstream.url.replace("http://", "http://user:hidden@")
    flags = ("--llm-url", url, "--llm-model", "scripted")
    async with serving(cwd, "--data", "documents", *flags, RAGSOCKET_PROT="1") as server:
        assert f"http://{server.address}\n" in server.greeting
        assert f"ragsocket chat --url ws://{server.address}/ws" in server.greeting
        assert f"http://{server.address}/docs" in server.greeting
        assert "documents" in server.greeting
        assert "scripted at http://127.0.0.1" in server.greeting
        assert "hidden" not in server.greeting
        await until(lambda: "passages" in server.log.read_text())
        server.signal(signal.SIGTERM)
        assert await server.status() == 0
    log = server.log.read_text()
    assert "ready for questions" in log
    assert "RAGSOCKET_PROT in the environment has no effect: did you mean RAGSOCKET_PORT?" in log
    assert "Traceback" not in log
    assert (cwd / ".ragsocket").stat().st_mode & 0o777 == 0o700


async def test_a_model_that_cannot_be_fetched_is_gone_on_without(cwd: Path) -> None:
    """`--pull` names the reason, and extracts answer."""
    (cwd / "models").write_text("no directory")
    flags = ("--data", "documents", "--pull")
    async with serving(cwd, *flags, RAGSOCKET_MODELS_DIR=str(cwd / "models")) as server:
        assert "extracts, no model" in server.greeting
        async with server.talk() as talk:
            events = await talk.answer(FERRY)
    assert text_of(events).startswith(LABEL)
    log = server.log.read_text()
    assert "going on without the model" in log
    assert "name another directory with RAGSOCKET_MODELS_DIR" in log
    assert "Traceback" not in log


async def test_sigterm_ends_a_running_answer_by_the_rule(cwd: Path, upstream: Upstream) -> None:
    """The client gets the terminal event and 1012, the history what was seen, the shell a 0."""
    upstream.queue(Script(gated=True))
    async with serving(cwd, *model(upstream), RAGSOCKET_DRAIN_S="0.2") as server:
        async with server.talk() as talk:
            await talk.ask(FERRY)
            request = await upstream.request(0)
            request.release(2)
            while text_of(talk.seen) != "w0 w1 ":
                await talk.recv()
            server.signal(signal.SIGTERM)
            end = await talk.terminal()
            assert await talk.close_code() == 1012
        await request.closed()
        assert await server.status() == 0
    response = end["response"]
    assert (response["status"], response["ragsocket"]["reason"]) == ("cancelled", "shutdown")
    assert answer_text(response) == "w0 w1 "
    assert rows(cwd) == {response["id"]: (True, response)}
    assert "Traceback" not in server.log.read_text()


async def test_a_second_interrupt_hurries(cwd: Path, upstream: Upstream) -> None:
    """The first Ctrl-C lets the answer go on, the second cuts it; it is stored all the same."""
    upstream.queue(Script(gated=True))
    async with serving(cwd, *model(upstream), RAGSOCKET_DRAIN_S="600") as server:
        async with server.talk() as talk:
            await talk.ask(FERRY)
            request = await upstream.request(0)
            request.release(1)
            await talk.until("response.output_text.delta")
            server.signal(signal.SIGINT)
            await until(lambda: "1 answers are running" in server.log.read_text())
            request.release(1)
            assert (await talk.until("response.output_text.delta"))["delta"] == "w1 "
            server.signal(signal.SIGINT)
            end = await talk.terminal()
            assert await talk.close_code() == 1012
        assert await server.status() == 0
    assert rows(cwd) == {end["response"]["id"]: (True, end["response"])}
    assert answer_text(end["response"]) == "w0 w1 "


async def test_sudden_death_costs_only_what_was_running(cwd: Path, upstream: Upstream) -> None:
    """After kill -9 the lock is free, the history is whole, and the running answer is lost."""
    upstream.queue(Script(tokens=("At ", "7:40.")), Script(gated=True))
    async with serving(cwd, *model(upstream)) as server:
        async with server.talk() as talk:
            first = (await talk.answer(FERRY))[-1]["response"]
            await talk.ask("And what does a bicycle cost?")
            request = await upstream.request(1)
            request.release(3)
            created = await talk.until("response.created")
            delta = await talk.until("response.output_text.delta")
            # The row of acceptance is written beside the stream.
            await until(lambda: len(rows(cwd)) == 2)
            server.signal(signal.SIGKILL)
            assert await server.status() == -signal.SIGKILL
        await request.closed()
    async with serving(cwd, *model(upstream)) as server:
        stored = rows(cwd)
        assert stored[first["id"]] == (True, first)
        finished, lost = stored[created["response"]["id"]]
        assert finished
        assert (lost["status"], lost["ragsocket"]["reason"]) == ("incomplete", "worker_lost")
        async with server.talk() as talk:
            # Whoever comes back for it, or stops it late, learns its end.
            named = {"response_id": created["response"]["id"]}
            after = delta["sequence_number"]
            await talk.send({"type": "response.resume", "starting_after": after, **named})
            end = await talk.terminal()
            assert end["response"] == lost
            await talk.send({"type": "response.cancel", **named})
            assert await talk.terminal() == end
            await talk.ask("Really?", conversation=first["conversation"]["id"])
            assert (await talk.terminal())["type"] == "response.completed"
        said = [message["content"] for message in (await upstream.request(2)).messages]
        assert any(FERRY in text for text in said)
        assert "At 7:40." in said
        server.signal(signal.SIGTERM)
        assert await server.status() == 0


async def test_two_servers_do_not_share_a_state_directory(cwd: Path) -> None:
    """The second one is refused with the directory's name; ingestion beside it is allowed."""
    async with serving(cwd) as server:
        second = await run_async("serve", "--port", "0", cwd=cwd)
        assert second.returncode == 2
        assert "state directory .ragsocket is in use by another ragsocket (process " in (
            second.stderr
        )
        assert str(server.process.pid) in second.stderr
        assert "--state-dir" in second.stderr
        assert second.stderr.count("\n") == 1
        beside = await run_async("ingest", "documents", cwd=cwd)
        assert beside.returncode == 0
        server.signal(signal.SIGTERM)
        assert await server.status() == 0
    async with serving(cwd):
        pass
