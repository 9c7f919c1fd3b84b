"""`make bench-model`: the default model through the whole server, on this machine.

Prints how long a start and a first answer take, how much sooner a follow-up begins because its
prompt is in the cache, when the model is free after a stop, and four chats at once. The figures
of the last run stand in docs/benchmarks.md.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio
import websockets

from ragsocket.app import create_app
from ragsocket.engine.models.local import LocalModel
from ragsocket.server import Server
from ragsocket.settings import Settings

ROOT = Path(__file__).parent.parent
CONVERSATIONS = (
    ("What do I pay if I cancel my bed ten days before arrival?", "And two days before?"),
    ("How much is a summer night at Highspur for an adult?", "And for members?"),
    ("Are dogs allowed at Cairn Hollow?", "Why not there?"),
    ("How many anchors hold the chains below Highspur?", "With what force were they pulled?"),
    ("What does half a litre of beer cost at Mirefoot?", "And at Highspur?"),
)
TERMINAL = ("response.completed", "response.incomplete", "response.failed", "error")
STOPS = 10


@dataclass
class Answer:
    """What came of one question; times in seconds from its asking.

    Attributes:
        text: the answer.
        first: to the first text.
        whole: to the end.
        gap: the longest time between two pieces of text.
    """

    text: str = ""
    first: float = 0.0
    whole: float = 0.0
    gap: float = 0.0


@dataclass
class Bench:
    """A server with the default model.

    Attributes:
        url: of a socket.
        model: the model inside.
    """

    url: str
    model: LocalModel

    async def ask(self, socket: websockets.ClientConnection, **fields: Any) -> Answer:
        """Ask, and read to the end."""
        answer = Answer()
        began = last = time.perf_counter()
        await socket.send(json.dumps({"type": "response.create", **fields}))
        while True:
            event = json.loads(await socket.recv())
            now = time.perf_counter()
            if event["type"] == "response.output_text.delta":
                answer.first = answer.first or now - began
                answer.gap = max(answer.gap, now - last) if answer.text else 0.0
                answer.text += event["delta"]
                last = now
            elif event["type"] in TERMINAL:
                answer.whole = now - began
                return answer

    async def free(self) -> None:
        """Wait until no slot of the model is at work."""
        assert self.model._up is not None
        while await self.model._up.child.busy(60):
            await anyio.sleep(0.002)

    async def forget(self, *, caches: bool = True) -> None:
        """Give the model a new process, which has read nothing yet, or never keeps what it read."""
        self.model._load = replace(self.model._load, caches=caches)
        process = self.model.process_id
        assert process is not None
        os.kill(process, signal.SIGKILL)
        while self.model.process_id in (None, process) or self.model.state is not None:
            await anyio.sleep(0.05)


@asynccontextmanager
async def serving(state: Path) -> AsyncIterator[Bench]:
    """Run the server over the sample documents."""
    settings = Settings(port=0, state_dir=state, data=ROOT / "data")
    app = create_app(settings)
    server = Server(app, settings)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve)
        while not server.started or app.state.runner.engine.readiness():
            await anyio.sleep(0.05)
        host, port = server.address
        model = app.state.runner.engine._engine._tokens
        assert isinstance(model, LocalModel), "ragsocket models pull"
        yield Bench(f"ws://{host}:{port}/v1/responses", model)
        server.should_exit = True


async def follow_ups(bench: Bench) -> None:
    """Ask follow-ups: after the question before, of a model that has read nothing, and of one
    that keeps nothing, which reads a prompt once to judge and once to answer."""
    warm: list[float] = []
    cold: list[float] = []
    off: list[float] = []
    histories = []
    for first, second in CONVERSATIONS:
        async with websockets.connect(bench.url) as socket:
            said = await bench.ask(socket, input=first)
            histories.append(
                [
                    {"role": "user", "content": first},
                    {"role": "assistant", "content": said.text},
                    {"role": "user", "content": second},
                ]
            )
            warm.append((await bench.ask(socket, input=histories[-1])).first)
    for times, caches in ((cold, True), (off, False)):
        for history in histories:
            if caches or not times:
                await bench.forget(caches=caches)
            async with websockets.connect(bench.url) as socket:
                times.append((await bench.ask(socket, input=history)).first)
    show("follow-up, first text", warm)
    for name, times in (("nothing read yet", cold), ("no prompt cache", off)):
        ratio = statistics.median(c / w for c, w in zip(times, warm, strict=True))
        show(f"  {name}, {ratio:.1f} times", times)


async def stops(bench: Bench, *, writing: bool) -> None:
    """Stop answers, and see when the model is free."""
    took = []
    for number in range(STOPS):
        first, _ = CONVERSATIONS[number % len(CONVERSATIONS)]
        async with websockets.connect(bench.url) as socket:
            ask = {"type": "response.create", "input": f"{first} Explain it, number {number}."}
            await socket.send(json.dumps(ask))
            wanted = "response.output_text.delta" if writing else "response.output_item.done"
            while json.loads(await socket.recv())["type"] != wanted:
                pass
            if not writing:
                await anyio.sleep(0.5)
            began = time.perf_counter()
            await socket.send(json.dumps({"type": "response.cancel"}))
            await bench.free()
            took.append(time.perf_counter() - began)
    show(f"free after a stop while {'writing' if writing else 'reading'}", took)


async def at_once(bench: Bench, chats: int) -> None:
    """Ask several questions at once."""
    answers: list[Answer] = []

    async def chat(question: str) -> None:
        async with websockets.connect(bench.url) as socket:
            answers.append(await bench.ask(socket, input=question))

    began = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for first, _ in CONVERSATIONS[:chats]:
            tasks.start_soon(chat, first)
    show(f"{chats} at once, first text", [answer.first for answer in answers])
    show(f"{chats} at once, longest pause", [answer.gap for answer in answers])
    print(f"{f'{chats} at once, all answered':36}{time.perf_counter() - began:9.2f} s")


def show(name: str, seconds: Sequence[float]) -> None:
    """Print a row: median, and the range."""
    low, high = min(seconds), max(seconds)
    print(f"{name:36}{statistics.median(seconds):9.2f} s   {low:.2f} to {high:.2f}", flush=True)


async def main() -> None:
    """Measure, and print."""
    with tempfile.TemporaryDirectory() as folder:
        for number in ("first", "second"):
            began = time.perf_counter()
            async with serving(Path(folder)) as bench, websockets.connect(bench.url) as socket:
                print(f"{f'{number} start, ready':36}{time.perf_counter() - began:9.2f} s")
                answer = await bench.ask(socket, input=CONVERSATIONS[0][0])
                print(
                    f"{'  first text, whole answer':36}{answer.first:9.2f} s   {answer.whole:.2f}"
                )
        async with serving(Path(folder)) as bench:
            await stops(bench, writing=True)
            await stops(bench, writing=False)
            await at_once(bench, 4)
            await follow_ups(bench)


if __name__ == "__main__":
    anyio.run(main)
