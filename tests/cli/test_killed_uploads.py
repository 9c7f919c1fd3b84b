"""Uploads and a server that is killed."""

from __future__ import annotations

import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import anyio
from commands import STARTS_WITHIN_S, serving
from openai import AsyncOpenAI

import harness

NOTE = b"The lighthouse lamp burns seal oil.\n"


async def test_after_kill_9_an_ingestion_goes_on_where_it_stood(cwd: Path) -> None:
    """A file that was in progress is completed by the next server, and an answer quotes it."""
    arguments = ("--data", "documents", "--llm-model", "none")
    lock_path = cwd / ".ragsocket" / "index" / "vs_default_uploads.lock"
    with closing(sqlite3.connect(lock_path, isolation_level=None)) as lock:
        # As long as it is held the ingestion waits, so the kill meets it at work.
        lock.execute("BEGIN EXCLUSIVE")
        async with serving(cwd, *arguments) as server, client_of(server.address) as client:
            file = await client.files.create(file=("keeper.md", NOTE), purpose="assistants")
            files = client.vector_stores.files
            member = await files.create("vs_default", file_id=file.id, attributes={"year": 1911})
            assert member.status == "in_progress"
            server.signal(signal.SIGKILL)
            assert await server.status() == -signal.SIGKILL
        lock.execute("ROLLBACK")
    async with (
        harness.serving(cwd / ".ragsocket", data=cwd / "documents") as served,
        client_of(served.address) as client,
    ):
        with anyio.fail_after(STARTS_WITHIN_S):
            done = await client.vector_stores.files.poll(
                file.id, vector_store_id="vs_default", poll_interval_ms=50
            )
        assert (done.status, done.attributes) == ("completed", {"year": 1911})
        answer = await client.responses.create(input="What does the lighthouse lamp burn?")
        assert "seal oil" in answer.output_text
        assert (await client.files.content(file.id)).read() == NOTE


def client_of(address: str) -> AsyncOpenAI:
    """The official client."""
    return AsyncOpenAI(base_url=f"http://{address}/v1", api_key="none", timeout=harness.PATIENCE_S)
