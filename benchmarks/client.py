"""One measurement: people who ask one server at the same time. A process of its own.

Reads a `Load` as JSON from stdin and prints its `Figures`. The text of every answer is compared
with what the model wrote: a missing, doubled or surplus token ends the process with a `Miscount`.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field

import aiohttp
import anyio
import msgspec
import psutil
import uvloop

from benchmarks.load import Figures, Load
from benchmarks.model import wish
from upstream import words

ASK_WITHIN_S = 0.02
"""At a human pace people do not ask in the same instant, but within one token of each other."""

QUESTION = "How long are answers kept at the harbour office, and when does the ferry leave?"
TERMINAL = frozenset({"response.completed", "response.incomplete", "response.failed", "error"})


class Miscount(Exception):
    """An answer is not what the model wrote."""


class Refused(Exception):
    """The server did not answer."""


class OurEvent(msgspec.Struct):
    """What is read of a Responses event."""

    type: str
    delta: str | None = None
    text: str | None = None


class TokenFrame(msgspec.Struct):
    """A frame of the small servers."""

    token: str = ""
    done: bool = False


@dataclass
class Taken:
    """What all the people saw."""

    answers: int = 0
    tokens: int = 0
    first_ms: list[float] = field(default_factory=list)
    forward_us: list[float] = field(default_factory=list)


_our_event = msgspec.json.Decoder(OurEvent).decode
_token_frame = msgspec.json.Decoder(TokenFrame).decode


def check(text: str, tokens: int, rate: int | None) -> None:
    """Hold an answer to what the model wrote.

    Raises:
        Miscount: it is something else.
    """
    expected = list(words(tokens)) if rate is None else [f"{index} " for index in range(tokens)]
    seen = [f"{token.partition('@')[0]} " for token in text.split(" ")[:-1]]
    if seen != expected or not text.endswith(" "):
        pairs = list(zip(seen, expected, strict=False))
        at = next((index for index, (is_, ought) in enumerate(pairs) if is_ != ought), len(pairs))
        raise Miscount(f"{len(seen)} tokens instead of {tokens}; the first wrong one is {at}.")


def cpu_s(pid: int) -> float:
    """CPU time of a process, its ended threads included.

    Linux keeps a clock per process that is exact to the nanosecond, and whose number is made of
    the pid; elsewhere the kernel's ticks of ten milliseconds have to do.
    """
    if sys.platform == "linux":
        return time.clock_gettime((~pid << 3) | 2)
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


class Person:
    """One who asks on one socket, and counts."""

    def __init__(self, load: Load, socket: aiohttp.ClientWebSocketResponse, taken: Taken) -> None:
        self._load = load
        self._socket = socket
        self._taken = taken
        question = f"{QUESTION} {wish(load.tokens, load.rate)}"
        if load.protocol == "tokens":
            ask: dict[str, str] = {"question": question}
        else:
            ask = {"type": "response.create", "input": question}
            if not load.search:
                ask["tool_choice"] = "none"
        self._ask = msgspec.json.encode(ask).decode()

    async def ask(self) -> None:
        """Ask once and read to the end."""
        load, taken = self._load, self._taken
        asked = time.monotonic_ns()
        await self._socket.send_str(self._ask)
        texts: list[str] = []
        done = False
        while not done:
            message = await self._socket.receive()
            if message.type is not aiohttp.WSMsgType.TEXT:
                raise Refused(f"the socket ended: {message.type.name} {message.data}")
            now = time.monotonic_ns()
            text, done = self._read(message.data, texts)
            if not text:
                continue
            if not texts:
                taken.first_ms.append((now - asked) / 1e6)
            texts.append(text)
            if load.rate is not None:
                for token in text.split(" ")[:-1]:
                    taken.forward_us.append((now - int(token.partition("@")[2])) / 1e3)
        check("".join(texts), load.tokens, load.rate)
        taken.answers += 1
        taken.tokens += load.tokens

    def _read(self, frame: str, texts: list[str]) -> tuple[str | None, bool]:
        if self._load.protocol == "tokens":
            small = _token_frame(frame)
            return small.token, small.done
        event = _our_event(frame)
        if event.type == "response.output_text.done" and event.text != "".join(texts):
            raise Miscount("output_text.done differs from the deltas.")
        if event.type in TERMINAL and event.type != "response.completed":
            raise Refused(frame[:500])
        return event.delta, event.type == "response.completed"


async def measure(load: Load) -> Figures:
    """Open every socket, then let everybody ask, and take the time of that."""
    taken = Taken()
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
    async with session:
        chats = []
        for _ in range(load.at_once * load.chats):
            socket = await session.ws_connect(load.url, max_msg_size=0, compress=0)
            chats.append(Person(load, socket, taken))

        async def ask(number: int) -> None:
            if load.rate is not None:
                await anyio.sleep(ASK_WITHIN_S * number / load.at_once)
            for chat in chats[number :: load.at_once]:
                for _ in range(load.turns):
                    await chat.ask()

        pids = {**load.pids, "client": os.getpid()}
        before = {name: cpu_s(pid) for name, pid in pids.items()}
        began = time.monotonic()
        async with anyio.create_task_group() as tasks:
            for number in range(load.at_once):
                tasks.start_soon(ask, number)
        seconds = time.monotonic() - began
        used = {name: cpu_s(pid) - before[name] for name, pid in pids.items()}
    return Figures(
        answers=taken.answers,
        tokens=taken.tokens,
        seconds=seconds,
        cpu_s=used,
        first_ms=taken.first_ms,
        forward_us=taken.forward_us,
    )


def main() -> None:
    """The process."""
    load = msgspec.json.decode(sys.stdin.buffer.read(), type=Load)
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(measure(load))))


if __name__ == "__main__":
    main()
