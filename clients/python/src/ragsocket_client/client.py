"""The client: a connection, the conversations on it, and the documents behind it."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import secrets
from collections.abc import AsyncGenerator
from pathlib import Path
from types import TracebackType
from typing import Any, Unpack
from urllib.parse import urlsplit, urlunsplit

from ragsocket_client import http
from ragsocket_client.answer import RESULTS, Answer
from ragsocket_client.connection import Closed, Connecting, Connection, State, Token
from ragsocket_client.errors import ConnectionLost, RagsocketError, ServerFailed
from ragsocket_client.wire import AskFields, SearchResult

LANES = 32


def connect(url: str, *, token: Token = None, heartbeat_s: float = 15.0) -> Client:
    """Make a client; `async with` opens it.

    Args:
        url: `ws://host:port` or `http://host:port`, with or without a path.
        token: a key, or what to call for one at every connect; it may be async.
        heartbeat_s: how often the server is pinged, and how long it may take to answer before
            the connection counts as lost.

    Raises:
        ValueError: the URL is none of these.
    """
    return Client(url, token=token, heartbeat_s=heartbeat_s)


class Client:
    """A connection to a server, which is opened again by itself when it is lost.

    It is an async context manager. Leaving it stops the answers that go on.
    """

    def __init__(self, url: str, *, token: Token, heartbeat_s: float) -> None:
        parts = urlsplit(url)
        secure = {"ws": "", "http": "", "wss": "s", "https": "s"}.get(parts.scheme)
        if secure is None or not parts.hostname:
            raise ValueError(f"{url!r} is no address of a server: write ws://127.0.0.1:8000.")
        path = parts.path.rstrip("/")
        for door in ("/v1/responses", "/ws"):
            path = path.removesuffix(door)
        self._base = urlunsplit((f"http{secure}", parts.netloc, path, "", ""))
        self._socket_url = urlunsplit((f"ws{secure}", parts.netloc, f"{path}/v1/responses", "", ""))
        self._token = token
        self._heartbeat_s = heartbeat_s
        self.tasks = asyncio.TaskGroup()
        self._connection: Connection | None = None
        self._lane = itertools.cycle(range(LANES))
        self._watching: set[asyncio.Queue[State]] = set()

    @property
    def state(self) -> State:
        """Where the connection stands."""
        return self._connection.state if self._connection else Connecting()

    async def states(self) -> AsyncGenerator[State]:
        """Yield the state, and every later one until it is closed."""
        changes: asyncio.Queue[State] = asyncio.Queue()
        self._watching.add(changes)
        try:
            state = self.state
            yield state
            while not isinstance(state, Closed):
                state = await changes.get()
                yield state
        finally:
            self._watching.discard(changes)

    async def __aenter__(self) -> Client:
        """Connect.

        Raises:
            AuthExpired: the token is not taken.
            ConnectionLost: there is no server, or it does not let us in.
        """
        await self.tasks.__aenter__()
        try:
            self._connection = Connection(
                self._socket_url, self._token, self._heartbeat_s, self.tasks, self._note_state
            )
            await self._connection.open()
        except BaseException as error:
            await _left(self.tasks, error)
            raise
        self._running = self.tasks.create_task(self._connection.run())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the answers that go on, and close the socket."""
        assert self._connection is not None
        try:
            await self._connection.leave()
        finally:
            self._running.cancel()
            self._connection.end("this client was closed.")
            await _left(self.tasks, error)

    def conversation(self, id: str | None = None) -> Conversation:
        """Return a conversation: a new one, or one that there is."""
        return Conversation(self, f"c{next(self._lane)}", id)

    def resume(self, response_id: str, *, starting_after: int = -1) -> Answer:
        """Follow an answer that somebody asked for, from its start to its end.

        Events up to `starting_after` are not handed out, but count for its text. Stopping it
        stops it for everybody.
        """
        answer = Answer(self.way, {}, id=response_id, seen=starting_after)
        self.way.follow(answer)
        return answer

    def hurry(self) -> None:
        """Connect again now, for example because the network is back."""
        self.way.hurry()

    async def upload(self, path: str | Path, *, vector_store_id: str | None = None) -> Any:
        """Upload a file, and put it into a vector store if one is named; returns the file.

        Raises:
            RagsocketError: the server does not take it.
        """
        file = Path(path)
        fields = {"purpose": "user_data"}
        made = await self.http("POST", "/v1/files", file=file, fields=fields)
        if vector_store_id is not None:
            place = f"/v1/vector_stores/{vector_store_id}/files"
            await self.http("POST", place, body={"file_id": made["id"]})
        return made

    async def search(
        self, query: str, *, vector_store_id: str, max_num_results: int | None = None
    ) -> list[SearchResult]:
        """Search a vector store without asking a model; returns passages, best first.

        Raises:
            RagsocketError: the server refuses.
        """
        body: dict[str, Any] = {"query": query}
        if max_num_results is not None:
            body["max_num_results"] = max_num_results
        found = await self.http("POST", f"/v1/vector_stores/{vector_store_id}/search", body=body)
        return list(found["data"])

    async def http(self, method: str, path: str, **what: Any) -> Any:
        """Ask one of the server's HTTP doors, and return its JSON; see docs/protocol.md.

        Raises:
            RagsocketError: the server refuses.
        """
        token = self._token
        if callable(token):
            made = token()
            token = await made if inspect.isawaitable(made) else made
        return await http.request(f"{self._base}{path}", method=method, token=token, **what)

    @property
    def way(self) -> Connection:
        """The way to the server.

        Raises:
            ConnectionLost: this client was not opened.
        """
        if self._connection is None:
            raise ConnectionLost("this client is not open: use `async with connect(url)`.")
        return self._connection

    async def new_conversation(self) -> str:
        """Make a conversation; a lost connection is a reason to try again.

        Raises:
            RagsocketError: the server refuses, or this client is closed.
        """
        for tries in itertools.count():
            try:
                made = await self.http(
                    "POST", "/v1/conversations", body={}, timeout_s=2 * self._heartbeat_s
                )
                return str(made["id"])
            except (ConnectionLost, ServerFailed) as error:
                if isinstance(self.state, Closed):
                    raise
                await self.way.ready_again(error, tries)
        raise AssertionError

    def _note_state(self, state: State) -> None:
        for changes in self._watching:
            changes.put_nowait(state)


class Conversation:
    """A conversation: each question is answered in the light of those before.

    Attributes:
        id: its name; None until the first question.
    """

    def __init__(self, client: Client, lane: str, id: str | None) -> None:
        self.id = id
        self._client = client
        self._lane = lane
        self._naming = asyncio.Lock()

    @property
    def place(self) -> dict[str, Any]:
        """The fields of an ask that say where it belongs."""
        return {"conversation": self.id, "stream_id": self._lane}

    def ask(self, input: str | list[Any], **fields: Unpack[AskFields]) -> Answer:
        """Ask, and return the answer, which begins to come at once.

        Args:
            input: the question, or input items.
            fields: see the fields of `response.create` in docs/protocol.md.
        """
        include = [RESULTS, *(one for one in fields.get("include") or () if one != RESULTS)]
        event: dict[str, Any] = {
            **fields,
            "type": "response.create",
            "event_id": f"ask_{secrets.token_hex(8)}",
            "input": input,
            "include": include,
        }
        answer = Answer(self._client.way, event, self)
        if isinstance(self._client.state, Closed):
            self._client.way.begin(answer)
        else:
            self._client.tasks.create_task(self._begin(answer))
        return answer

    def steer(self, answer: Answer, input: str | list[Any]) -> Answer:
        """Stop an answer of this conversation, and answer `input` in its place."""
        if answer.ended or answer.id is None:
            answer.stop()
            return self.ask(input)
        event: dict[str, Any] = {
            "type": "response.steer",
            "event_id": f"ask_{secrets.token_hex(8)}",
            "previous_response_id": answer.id,
            "input": input,
        }
        steered = Answer(self._client.way, event, self, target=answer)
        self._client.way.begin(steered)
        return steered

    async def _begin(self, answer: Answer) -> None:
        try:
            async with self._naming:
                if self.id is None:
                    self.id = await self._client.new_conversation()
        except RagsocketError as error:
            answer.fail(error)
            return
        if answer.cancel_wanted:
            answer.drop()
            return
        answer.asked.update(self.place)
        self._client.way.begin(answer)


async def _left(tasks: asyncio.TaskGroup, error: BaseException | None) -> None:
    """Leave a task group without the group that it makes of errors."""
    kind = type(error) if error is not None else None
    try:
        await tasks.__aexit__(kind, error, error.__traceback__ if error else None)
    except BaseExceptionGroup:
        if error is None:
            raise
