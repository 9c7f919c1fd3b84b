"""The real server on a real port, and a raw client that speaks JSON."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import websockets
from anyio.abc import TaskGroup
from fastapi import FastAPI
from openai import AsyncOpenAI
from sqlalchemy.ext.asyncio import AsyncConnection

from ragsocket.app import create_app
from ragsocket.engine.base import Engine
from ragsocket.responses.database import connect, parsed
from ragsocket.responses.runner import Runner
from ragsocket.server import Server
from ragsocket.settings import Settings
from upstream import Request, Upstream

if TYPE_CHECKING:
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.llms import LLM

PATIENCE_S = 20.0
TERMINAL = ("response.completed", "response.incomplete", "response.failed")

Event = dict[str, Any]


@dataclass
class Served:
    """A running server.

    Attributes:
        address: `host:port`.
        app: the application inside.
        server: the uvicorn server.
        settings: what it was started with.
    """

    address: str
    app: FastAPI
    server: Server
    settings: Settings
    stopped: anyio.Event

    @property
    def runner(self) -> Runner:
        """The runner inside."""
        runner: Runner = self.app.state.runner
        return runner

    def http(self, **kwargs: Any) -> httpx.AsyncClient:
        """A client for the HTTP doors."""
        url = f"http://{self.address}"
        # Reading the certificates of the world takes longer than most of these tests.
        return httpx.AsyncClient(base_url=url, timeout=PATIENCE_S, verify=False, **kwargs)

    async def refusal(self, path: str, body: Any) -> tuple[int, Event]:
        """Post a body, bytes as they are and all else as JSON; return status and error."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self.http() as http:
            answer = await http.post(path, content=content)
        error: Event = answer.json()["error"]
        return answer.status_code, error

    @asynccontextmanager
    async def talk(self, path: str = "/ws", **kwargs: Any) -> AsyncIterator[Talk]:
        """Open a socket."""
        uri = f"ws://{self.address}{path}"
        async with websockets.connect(uri, max_size=None, **kwargs) as socket:
            yield Talk(socket)

    async def idle(self) -> None:
        """Wait until no response is unfinished."""
        await until(lambda: self.runner.running == 0)


@dataclass
class Talk:
    """A raw conversation over one socket; remembers everything it was sent."""

    socket: websockets.ClientConnection
    seen: list[Event] = field(default_factory=list)

    async def send(self, event: Event | str | bytes) -> None:
        """Send an event, or a frame just as it is."""
        await self.socket.send(json.dumps(event) if isinstance(event, dict) else event)

    async def ask(self, question: str | list[Event], **fields: Any) -> None:
        """Send a `response.create`; the question is text, or items."""
        await self.send({"type": "response.create", "input": question, **fields})

    async def recv(self) -> Event:
        """Return the next event."""
        with anyio.fail_after(PATIENCE_S):
            event: Event = json.loads(await self.socket.recv())
        self.seen.append(event)
        return event

    async def until(self, *types: str, **fields: Any) -> Event:
        """Return the next event of one of these types that has these fields."""
        while True:
            event = await self.recv()
            if event["type"] in types and fields.items() <= event.items():
                return event

    async def terminal(self) -> Event:
        """Return the next terminal event."""
        return await self.until(*TERMINAL)

    async def answer(self, question: str | list[Event], **fields: Any) -> list[Event]:
        """Ask, and return every event of the answer."""
        first = len(self.seen)
        await self.ask(question, **fields)
        await self.terminal()
        return self.seen[first:]

    async def close_code(self) -> int:
        """Read until the server closes, and return its code."""
        try:
            while True:
                await self.recv()
        except websockets.ConnectionClosed as closed:
            assert closed.rcvd is not None
            return closed.rcvd.code


@asynccontextmanager
async def beside(database: str, *, locking: bool = False) -> AsyncIterator[AsyncConnection]:
    """A connection to a database beside that of the server, in a transaction.

    Args:
        database: its URL.
        locking: whether nobody else may write meanwhile.
    """
    engine = connect(parsed(database))
    async with engine.begin() as connection:
        if locking and engine.dialect.name == "sqlite":
            await connection.exec_driver_sql("BEGIN IMMEDIATE")
        elif locking:
            await connection.exec_driver_sql("LOCK responses, conversations IN EXCLUSIVE MODE")
        yield connection
    await engine.dispose()


def text_of(events: list[Event]) -> str:
    """Return the text that the deltas add up to."""
    return "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta")


def answer_text(response: Event) -> str:
    """Return the text of a Response's message."""
    return "".join(
        part["text"]
        for item in response["output"]
        if item["type"] == "message"
        for part in item["content"]
    )


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something holds that nobody announces; fails after `PATIENCE_S`."""
    with anyio.fail_after(PATIENCE_S):
        while not condition():
            await anyio.sleep(0.005)


async def written(
    talk: Talk,
    upstream: Upstream,
    count: int = 1,
    *,
    question: str = "When does the ferry to Holm leave?",
    **fields: Any,
) -> tuple[str, Request]:
    """Ask, read `count` deltas of one token each; the response's id, and the model's request."""
    number = len(upstream.requests)
    await talk.ask(question, **fields)
    created = await talk.until("response.created")
    request = await upstream.request(number)
    for _ in range(count):
        request.release(1)
        await talk.until("response.output_text.delta")
    return created["response"]["id"], request


def index(folder: Path, state: Path) -> None:
    """Ingest a folder of documents into a state directory, for searching by words alone."""
    # Late, as the server does: many tests need no index.
    from ragsocket.engine.ingestion.pipeline import ingest

    settings = Settings(state_dir=state)
    ingest(
        folder,
        settings.index_path,
        embed=None,
        chunk_tokens=settings.chunk_tokens,
        chunk_overlap_tokens=settings.chunk_overlap_tokens,
    )


def official(served: Served) -> AsyncOpenAI:
    """The official client, which repeats nothing by itself."""
    url = f"http://{served.address}/v1"
    return AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=PATIENCE_S)


@asynccontextmanager
async def serving(
    state: Path,
    *,
    upstream: Upstream | None = None,
    data: Path | None = None,
    engine: Engine | None = None,
    llm: LLM | None = None,
    embed_model: BaseEmbedding | None = None,
    **settings: Any,
) -> AsyncIterator[Served]:
    """Run the server in this loop, on a port of its own, until the block ends."""
    # Whatever the machine offers, a test runs on what it names.
    settings = {"port": 0, "llm_model": "none", "embed_model": "none", **settings}
    if upstream is not None:
        settings = {**settings, "llm_url": upstream.url, "llm_model": "scripted"}
    chosen = Settings(state_dir=state, data=data, **settings)
    app = create_app(chosen, engine=engine, llm=llm, embed_model=embed_model)
    server = Server(app, chosen)
    stopped = anyio.Event()

    async def serve(tasks: TaskGroup) -> None:
        try:
            await server.serve()
        finally:
            stopped.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve, tasks)
        await until(lambda: server.started)
        host, port = server.address
        served = Served(f"{host}:{port}", app, server, chosen, stopped)
        await until(lambda: not served.runner.engine.readiness())
        try:
            yield served
        finally:
            server.should_exit = True
            with anyio.CancelScope(shield=True), anyio.fail_after(PATIENCE_S):
                await stopped.wait()
