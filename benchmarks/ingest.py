"""`make bench-ingest`: ten thousand files of every kind, taken in, changed and searched.

Measures the ingestion alone; a second one that has nothing to do; and the server that follows the
folder while fifty answers stream from it. Prints what it finds; the figures of the last run stand
in docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import psutil
import websockets

from benchmarks.documents import make_folder
from benchmarks.model import wish
from benchmarks.processes import OTHER_CORES, SERVER_CORES, Processes
from ragsocket.engine.ingestion import Progress, Report, run_ingestion
from ragsocket.settings import Settings

ANSWERS = 50
CHANGES = 7
PATIENCE_S = 1800.0
MIB = 1024 * 1024


@dataclass
class Memory:
    """Resident memory of processes by what they run, in bytes, sampled over a measurement."""

    of: dict[str, list[int]] = field(default_factory=dict)

    def sample(self, parent: psutil.Process) -> None:
        """Look at a process and all below it."""
        for process in [parent, *parent.children(recursive=True)]:
            try:
                name = " ".join(process.cmdline()[-2:]).rpartition(" ")[2] or "?"
                used = process.memory_info().rss
            except psutil.Error:
                continue
            kind = name.rpartition(".")[2] if name.startswith("ragsocket.") else "parent"
            self.of.setdefault(kind, []).append(used)

    def line(self, kind: str) -> str:
        """Say how it went: at a quarter, half, three quarters of the samples, and at most."""
        seen = self.of.get(kind, [0])
        at = [seen[len(seen) * quarter // 4] // MIB for quarter in (1, 2, 3)]
        return f"{at[0]}, {at[1]}, {at[2]}; at most {max(seen) // MIB} MiB"


def settings_of(state: Path, embed_url: str) -> Settings:
    """Return what an ingestion is run with."""
    return Settings(state_dir=state, embed_url=f"{embed_url}/v1", embed_model="scripted")


def embedded(embed_url: str) -> int:
    """Return how many texts the embeddings server was asked for so far."""
    with urllib.request.urlopen(f"{embed_url}/count") as answer:
        return int(json.load(answer)["texts"])


async def take_in(settings: Settings, documents: Path) -> tuple[Report, float, Memory]:
    """Run an ingestion; return report, seconds until words could be searched, and memory."""
    memory, began, searchable = Memory(), time.monotonic(), 0.0
    parent = psutil.Process()

    def note(progress: Progress) -> None:
        nonlocal searchable
        if progress.revision and not searchable:
            searchable = time.monotonic() - began

    async def sample() -> None:
        while True:
            memory.sample(parent)
            await anyio.sleep(0.25)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sample)
        report = await run_ingestion(settings, documents, on_progress=note)
        tasks.cancel_scope.cancel()
    return report, searchable, memory


@dataclass
class Streams:
    """Answers that stream while something else is measured."""

    url: str
    answers: int = 0
    tokens: int = 0
    failed: int = 0

    async def run(self, count: int) -> None:
        """Keep so many people asking, until cancelled."""
        async with anyio.create_task_group() as people:
            for number in range(count):
                people.start_soon(self._ask, number)

    async def _ask(self, number: int) -> None:
        async with websockets.connect(self.url, max_size=None) as socket:
            turn = 0
            while True:
                turn += 1
                asked = f"What is said of the mark m{number * 7 + turn}x? {wish(100, 50)}"
                body = {"type": "response.create", "input": asked}
                await socket.send(json.dumps(body))
                async for frame in socket:
                    event = json.loads(frame)
                    if event["type"] == "response.output_text.delta":
                        self.tokens += 1
                    elif event["type"] == "response.completed":
                        self.answers += 1
                        break
                    elif event["type"] in ("response.failed", "response.incomplete", "error"):
                        self.failed += 1
                        await anyio.sleep(0.5)
                        break


async def search(address: str, query: str) -> list[dict[str, Any]]:
    """Search the folder's store over HTTP."""

    def ask() -> list[dict[str, Any]]:
        request = urllib.request.Request(
            f"http://{address}/v1/vector_stores/vs_default/search",
            json.dumps({"query": query, "max_num_results": 3}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]
            return found

    return await anyio.to_thread.run_sync(ask)


async def change_seen(address: str, path: Path, number: int) -> float:
    """Change a file; return the seconds until a search finds what it says now."""
    word = f"changed{number}q"
    began = time.monotonic()
    await anyio.Path(path).write_text(f"This file has the word {word} in it.\n")
    with anyio.fail_after(60):
        while not any(word in json.dumps(hit) for hit in await search(address, word)):
            await anyio.sleep(0.05)
    return time.monotonic() - began


class Server:
    """The server that watches the folder, in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.address = f"127.0.0.1:{port}"

    async def next_line(self) -> dict[str, Any]:
        """Return what it says next."""

        def read() -> str:
            assert self.process.stdout is not None
            ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE_S)
            return self.process.stdout.readline() if ready else ""

        line: dict[str, Any] = json.loads(await anyio.to_thread.run_sync(read))
        return line

    async def end(self) -> dict[str, Any]:
        """Stop it; return how its loop fared."""
        self.process.terminate()
        while "worst" not in (line := await self.next_line()):
            pass
        return line


def histogram(stalls: dict[str, Any]) -> str:
    """Return how often the loop stood still for how long, as a table."""
    kinds = ("busy", "late")
    edges = sorted({int(edge) for kind in kinds for edge in stalls[kind]})
    rows = ["| for | a callback kept the loop | a timer was late |", "|---|--:|--:|"]
    for edge in edges:
        told = f"under {edge} ms" if edge < 10_000 else "longer"
        counts = " | ".join(f"{stalls[kind].get(str(edge), 0):,}" for kind in kinds)
        rows.append(f"| {told} | {counts} |")
    return "\n".join(rows)


async def alone(folder: Path, documents: Path, embed_url: str, size: int) -> None:
    """Measure ingestions without a server."""
    settings = settings_of(folder / "state", embed_url)
    report, searchable, memory = await take_in(settings, documents)
    files = report.added + len(report.failed)
    print(
        f"first run    {report.seconds:.1f} s: {files / report.seconds:.0f} files/s, "
        f"{size / MIB / report.seconds:.2f} MB/s; {report.passages:,} passages, "
        f"{len(report.failed)} files refused by name"
    )
    reading = searchable or report.seconds
    print(
        f"  words      searchable after {reading:.1f} s: {files / reading:.0f} files/s, "
        f"{size / MIB / reading:.2f} MB/s"
    )
    print(f"  memory     ingestion {memory.line('ingestion')}; reader {memory.line('reading')}")
    before = embedded(embed_url)
    again, _, memory = await take_in(settings, documents)
    print(
        f"second run   {again.seconds:.1f} s: {again.read} files read, "
        f"{embedded(embed_url) - before} passages embedded, {len(again.failed)} refused as before"
    )
    moved = Path(await anyio.Path(documents).rename(documents.with_name("moved")))
    again, _, _ = await take_in(settings, moved)
    print(
        f"moved        {again.seconds:.1f} s: {again.read} files read, "
        f"{embedded(embed_url) - before} passages embedded"
    )
    await anyio.Path(moved).rename(documents)


async def served(processes: Processes, folder: Path, documents: Path, embed_url: str) -> None:
    """Measure a server that takes the folder in, and follows it, beside streaming answers."""
    _, model = processes.start_process([sys.executable, "-m", "benchmarks.model"], OTHER_CORES)
    state = folder / "served"
    state.mkdir()
    # An older revision, to answer from while the folder is read.
    few = folder / "few"
    make_folder(few, 20)
    await run_ingestion(settings_of(state / "state", embed_url), few)
    command = [sys.executable, "-m", "benchmarks.servers.watched"]
    command += ["--folder", str(state), "--documents", str(documents)]
    command += ["--model-url", str(model["url"]), "--embed-url", f"{embed_url}/v1"]
    process, said = processes.start_process(command, ())
    server = Server(process, int(said["port"]))
    streams = Streams(f"ws://{server.address}/ws")
    memory = Memory()
    began = time.monotonic()

    async def sample() -> None:
        while True:
            memory.sample(psutil.Process(process.pid))
            await anyio.sleep(0.25)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sample)
        tasks.start_soon(streams.run, ANSWERS)
        with anyio.fail_after(PATIENCE_S):
            # What is loaded once, before the first answer, is not what is measured.
            while not streams.tokens:
                await anyio.sleep(0.05)
            process.send_signal(signal.SIGUSR1)
            told = await server.next_line()
        print(
            f"served       taken in after {time.monotonic() - began:.1f} s beside {ANSWERS} "
            f"streaming answers: {told['passages']:,} passages"
        )
        seen = [
            await change_seen(server.address, documents / f"changed-{n}.md", n)
            for n in range(CHANGES)
        ]
        print(
            f"  a change   seen after {statistics.median(seen):.2f} s (median), "
            f"{max(seen):.2f} s (longest of {len(seen)})"
        )
        tasks.cancel_scope.cancel()
    print(f"  answers    {streams.answers} of {streams.tokens:,} deltas, {streams.failed} failed")
    print(f"  memory     server {memory.line('parent')}; reader {memory.line('reading')}")
    stalls = await server.end()
    print(f"\n{histogram(stalls)}")
    for took, what in stalls["worst"]:
        print(f"  {took} ms {what}")


async def measure(files: int) -> None:
    """Measure all of it in a folder of its own."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as ends:
        folder = Path(name)
        documents = folder / "documents"
        made = make_folder(documents, files)
        print(
            f"{made.files:,} files, {made.size / MIB:.1f} MB, {made.broken} broken; "
            f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}"
        )
        processes = Processes(folder)
        ends.callback(processes.running.close)
        command = [sys.executable, "-m", "benchmarks.embedder"]
        _, embedder = processes.start_process(command, OTHER_CORES or SERVER_CORES)
        # What changed in the last two seconds is hashed again by the next run.
        await anyio.sleep(2.5)
        await alone(folder, documents, str(embedder["url"]), made.size)
        await served(processes, folder, documents, str(embedder["url"]))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    anyio.run(measure, parser.parse_args(arguments).files)


if __name__ == "__main__":
    main()
