"""`make bench-clients`: how long a stop takes in each client, beside a ping on the same socket.

A stop is the time from the call of `cancel()` until the client has the server's terminal event:
the server has then stopped forwarding, closed the model's connection and stored the answer. A
ping is one `ragsocket:ping` and its pong, just before the answer is asked for, and once more in the
middle of it. What the figures say stands in docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.model import wish
from benchmarks.processes import ROOT, Processes
from ragsocket_client import Answer, Client, connect

TIMES = 60
PACES = {"50 tokens/s": wish(1_000, 50), "flat out": wish(100_000, None)}
PIECES = 3
"""How many pieces of text are read before the stop."""


class Times(msgspec.Struct):
    """Microseconds, one of each per answer."""

    ping_us: list[float] = msgspec.field(default_factory=list)
    streaming_ping_us: list[float] = msgspec.field(default_factory=list)
    stop_us: list[float] = msgspec.field(default_factory=list)


async def took(work: Callable[[], Awaitable[object]]) -> float:
    """Return how many microseconds something took."""
    began = time.perf_counter_ns()
    await work()
    return (time.perf_counter_ns() - began) / 1e3


def pinging(client: Client) -> Callable[[], Awaitable[object]]:
    """Return what sends a ping on the client's own socket and waits for the pong."""
    way = client.way
    take, pong = way._take, asyncio.Event()

    def taking(event: dict[str, Any]) -> None:
        if event["type"] == "ragsocket:pong":
            pong.set()
        take(event)

    async def ping() -> None:
        pong.clear()
        assert way._socket is not None
        await way._socket.send('{"type": "ragsocket:ping"}')
        await pong.wait()

    way._take = taking  # type: ignore[method-assign]
    return ping


async def measure(url: str, asked: str, times: int) -> Times:
    """Stop answers with the Python client."""
    told = Times()
    async with connect(url) as client:
        ping, chat = pinging(client), client.conversation()
        await chat.ask(wish(1, None))
        for _ in range(times):
            told.ping_us.append(await took(ping))
            answer: Answer = chat.ask(asked, tool_choice="none")
            pieces = 0
            async for _ in answer.texts():
                pieces += 1
                if pieces == PIECES:
                    told.streaming_ping_us.append(await took(ping))
                    told.stop_us.append(await took(answer.cancel))
            assert answer.reason == "cancelled", answer.reason
    return told


def in_node(url: str, asked: str, times: int) -> Times:
    """Stop answers with the JavaScript client."""
    command = ["node", str(ROOT / "benchmarks/stop.mjs"), url, asked, str(times)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return msgspec.json.decode(done.stdout, type=Times)


def row(name: str, pace: str, told: Times) -> str:
    """One line of the table: medians, and how many pings a stop takes."""
    ping, streaming, stop = map(
        statistics.median, (told.ping_us, told.streaming_ping_us, told.stop_us)
    )
    return (
        f"| {name:10} | {pace:11} | {ping:7,.0f} | {streaming:12,.0f} | {stop:7,.0f} "
        f"| {stop / ping:6.1f} | {stop / streaming:9.1f} |"
    )


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.stop", description=__doc__)
    parser.add_argument("--times", type=int, default=TIMES, help="stops per row")
    times = parser.parse_args().times
    print("| client     | model       | ping µs | in answer µs | stop µs | × ping | × in answer |")
    print("|------------|-------------|--------:|-------------:|--------:|-------:|------------:|")
    with tempfile.TemporaryDirectory() as folder:
        processes = Processes(Path(folder))
        with processes.running:
            processes.start(["ours"])
            _, url = processes.servers["ours"]
            for pace, asked in PACES.items():
                told = asyncio.run(measure(url, asked, times))
                print(row("Python", pace, told), flush=True)
                print(row("JavaScript", pace, in_node(url, asked, times)), flush=True)


if __name__ == "__main__":
    main()
