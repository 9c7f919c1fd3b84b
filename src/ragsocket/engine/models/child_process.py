"""Starts, asks and ends the child process that runs a model (`ragsocket.engine.models.child`)."""

from __future__ import annotations

import json
import logging
import secrets
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import anyio
from anyio.abc import ByteReceiveStream, Process
from anyio.streams.buffered import BufferedByteReceiveStream

from ragsocket.engine.token_stream import Message

log = logging.getLogger(__name__)

MAX_LINE_BYTES = 64 * 1024
STDERR_TAIL_BYTES = 4096
FIRST_TOKENS = 20
"""How many of the likeliest tokens are looked at."""

# What asking it may end in: silence, a broken connection, or something else than was asked for.
_NO_ANSWER = (aiohttp.ClientError, TimeoutError, OSError, ValueError, TypeError, KeyError)

END_WITHIN_S = 2.0
"""How long the process may take to end by itself, once its stdin was closed."""


class ChildFailed(Exception):
    """The process did not start, ended, or hangs; the text says which, for people."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a child is to load, and how it is to run.

    Attributes:
        name: what requests call the model.
        path: the model file.
        slots: answers at once.
        slot_tokens: prompt and answer of one slot, in tokens.
        batch_tokens: tokens of prompts that are read in one step.
        threads: threads that compute.
        caches: whether prompts that were read are kept; False is for measuring what that gains.
    """

    name: str
    path: Path
    slots: int
    slot_tokens: int
    batch_tokens: int
    threads: int
    caches: bool = True


class Child:
    """A child process that serves a model.

    Attributes:
        url: base URL of its OpenAI-compatible API.
        key: the key that it asks for.
        process: the process.
    """

    def __init__(
        self, url: str, key: str, process: Process, session: aiohttp.ClientSession
    ) -> None:
        self.url = f"{url}/v1"
        self.key = key
        self.process = process
        self._probes = url
        self._session = session

    async def responds(self, within_s: float) -> bool:
        """True if the server in it answers in time."""
        try:
            with anyio.fail_after(within_s):
                async with self._session.get(f"{self._probes}/health") as answer:
                    return answer.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    async def busy(self, within_s: float) -> int:
        """Return how many of its slots are at work. Answered between two steps of the model.

        Raises:
            ChildFailed: it does not say.
        """
        try:
            with anyio.fail_after(within_s):
                async with self._session.get(f"{self._probes}/slots") as answer:
                    slots = json.loads(await answer.read())
            return sum(1 for slot in slots if slot["is_processing"])
        except _NO_ANSWER as error:
            raise ChildFailed("it does not say which slots are at work") from error

    async def first_token(
        self, name: str, messages: Sequence[Message], within_s: float
    ) -> dict[str, float]:
        """Return the likeliest first tokens of an answer, each with the logarithm of its chance.

        Raises:
            ChildFailed: it does not say.
        """
        body = {
            "model": name,
            "messages": [{"role": one.role, "content": one.content} for one in messages],
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": FIRST_TOKENS,
            # As for answers: written to after every step, it notices that nobody listens.
            "stream": True,
            "return_progress": True,
        }
        try:
            with anyio.fail_after(within_s):
                async with self._session.post(f"{self.url}/chat/completions", json=body) as answer:
                    async for line in answer.content:
                        if line.startswith(b"data: {") and (said := _likeliest(line[6:])):
                            return said
        except _NO_ANSWER as error:
            raise ChildFailed("it does not say how likely its words are") from error
        raise ChildFailed("it does not say how likely its words are")

    async def ended(self) -> str:
        """Wait for its end, and return what it ended with."""
        status = await self.process.wait()
        return f"it was ended by signal {-status}" if status < 0 else f"it ended with {status}"


def _likeliest(chunk: bytes) -> dict[str, float]:
    """Return the likeliest tokens of a chunk; none for one that tells of progress."""
    for choice in json.loads(chunk).get("choices") or ():
        if said := (choice.get("logprobs") or {}).get("content"):
            return {one["token"]: one["logprob"] for one in said[0]["top_logprobs"]}
    return {}


@asynccontextmanager
async def running_child(load: Load, *, within_s: float) -> AsyncIterator[Child]:
    """Run a child process until the block ends.

    Args:
        load: what it is to load.
        within_s: how long that may take.

    Raises:
        ChildFailed: it did not come up.
    """
    key = secrets.token_urlsafe(24)
    # -P: the working directory may be a folder of documents, and must not be imported from.
    command = [sys.executable, "-P", "-m", "ragsocket.engine.models.child"]
    # A session of its own: Ctrl-C at the terminal is the parent's to handle, who ends the child.
    process = await anyio.open_process(command, start_new_session=True)
    tail = bytearray()
    try:
        async with anyio.create_task_group() as readers:
            assert process.stderr is not None
            readers.start_soon(_drain, process.stderr, tail)
            failure: ChildFailed | None = None
            try:
                url = await _come_up(process, load, key, within_s)
                async with aiohttp.ClientSession(
                    headers={"Authorization": f"Bearer {key}"},
                    cookie_jar=aiohttp.DummyCookieJar(),
                    # On a kept connection each answer would wait 40 ms for a delayed TCP ACK.
                    connector=aiohttp.TCPConnector(force_close=True),
                ) as session:
                    yield Child(url, key, process, session)
            except ChildFailed as error:
                # Raised outside, since the task group would wrap it.
                failure = error
            readers.cancel_scope.cancel()
        if failure is not None:
            if tail:
                words = tail.decode(errors="replace").strip()
                log.warning("the model's process said last: %s", words)
            raise failure
    finally:
        await _end(process)


async def _come_up(process: Process, load: Load, key: str, within_s: float) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    order = {
        "name": load.name,
        "model": str(load.path),
        "key": key,
        "slots": load.slots,
        "slot_tokens": load.slot_tokens,
        "batch_tokens": load.batch_tokens,
        "threads": load.threads,
        "caches": load.caches,
    }
    try:
        with anyio.fail_after(within_s):
            await process.stdin.send(json.dumps(order).encode() + b"\n")
            lines = BufferedByteReceiveStream(process.stdout)
            said = json.loads(await lines.receive_until(b"\n", MAX_LINE_BYTES))
    except TimeoutError as error:
        raise ChildFailed(f"it was not loaded within {within_s:g} seconds") from error
    except (
        anyio.EndOfStream,
        anyio.IncompleteRead,
        anyio.DelimiterNotFound,
        anyio.BrokenResourceError,
        anyio.ClosedResourceError,
        ValueError,
    ) as error:
        status = None
        with anyio.move_on_after(END_WITHIN_S):
            status = await process.wait()
        raise ChildFailed(f"it ended while it was loaded (status {status})") from error
    if "url" not in said:
        raise ChildFailed(f"{load.path} cannot be loaded ({said.get('error')})")
    return str(said["url"])


async def _drain(stream: ByteReceiveStream, tail: bytearray) -> None:
    async for chunk in stream:
        tail += chunk
        del tail[:-STDERR_TAIL_BYTES]


async def _end(process: Process) -> None:
    """Close its stdin, which ends it at once if it is well; kill it if it is not."""
    with anyio.CancelScope(shield=True):
        if process.returncode is None and process.stdin is not None:
            await process.stdin.aclose()
            with anyio.move_on_after(END_WITHIN_S):
                await process.wait()
        if process.returncode is None:
            process.kill()
        await process.aclose()
