"""The Python client's README and examples run as they stand, against the sample documents."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from anyio.streams.text import TextReceiveStream

from harness import PATIENCE_S, Served, serving
from upstream import Script, Upstream, words

CLIENT = Path(__file__).parent.parent.parent / "clients" / "python"
SNIPPETS = dict(
    re.findall(
        r"<!-- example (\w+) -->\n```python\n(.*?)```", (CLIENT / "README.md").read_text(), re.S
    )
)


async def run(served: Served, *arguments: str, told: str = "") -> str:
    """Run Python with the client on its path, and return what it printed."""
    command = [
        sys.executable,
        *(one.replace("127.0.0.1:8000", served.address) for one in arguments),
    ]
    with anyio.fail_after(60):
        done = await anyio.run_process(
            command,
            input=told.encode(),
            stderr=subprocess.STDOUT,
            check=False,
            env={"PYTHONPATH": str(CLIENT / "src"), "PYTHONDONTWRITEBYTECODE": "1"},
        )
    assert done.returncode == 0, done.stdout.decode()
    return done.stdout.decode()


def example(name: str) -> str:
    """The path of an example."""
    return str(CLIENT / "examples" / f"{name}.py")


async def test_asking_as_the_readme_does(extracting: Served) -> None:
    """Its first program prints an answer, and one that goes on from it."""
    assert "Mirefoot" in await run(extracting, "-c", SNIPPETS["ask"])


async def test_stopping_as_the_readme_does(
    samples: Path, tmp_path: Path, upstream: Upstream
) -> None:
    """Its second program stops the model, and says how much is kept."""
    upstream.default = Script(tokens=words(4_000), rate=400)
    async with serving(shutil.copytree(samples, tmp_path / "state"), upstream=upstream) as served:
        printed = await run(served, "-c", SNIPPETS["stop"])
        left = await (await upstream.request(0)).closed()
    assert "(cancelled; the server keeps" in printed
    assert left.written < 4_000


def test_every_snippet_is_run() -> None:
    """No whole program of the README goes without a test."""
    assert set(SNIPPETS) == {"ask", "stop"}


async def test_the_chat(extracting: Served) -> None:
    """It answers line after line, until there are no more."""
    questions = "Which huts allow dogs?\nWhat does a night cost?\n"
    printed = await run(extracting, example("chat"), "ws://127.0.0.1:8000", told=questions)
    assert "Mirefoot" in printed


async def test_stopping_after_some_words(samples: Path, tmp_path: Path, upstream: Upstream) -> None:
    """The answer ends with the word that was the last one wanted."""
    upstream.queue(Script(gated=True))

    async def answer() -> None:
        (await upstream.request(0)).release(5)

    state = shutil.copytree(samples, tmp_path / "state")
    async with serving(state, upstream=upstream) as served, anyio.create_task_group() as tasks:
        tasks.start_soon(answer)
        printed = await run(served, example("stop_after_words"), "ws://127.0.0.1:8000", "5")
    assert "cancelled after 5 words" in printed


async def test_two_conversations(extracting: Served) -> None:
    """Both are answered, and they are two."""
    printed = await run(extracting, example("two_conversations"), "ws://127.0.0.1:8000")
    assert printed.endswith("True\n")


async def test_the_official_sdk(served: Served, upstream: Upstream) -> None:
    """A cancel sent as it is stops the answer of the SDK's connection."""
    upstream.queue(Script(rate=200, tokens=("word ",) * 400))
    printed = await run(served, example("official_sdk"), "ws://127.0.0.1:8000")
    assert printed.startswith("cancelled ")


@asynccontextmanager
async def living(served: Served) -> AsyncIterator[tuple[TextReceiveStream, anyio.abc.Process]]:
    """The example that lives through a restart."""
    command = [sys.executable, example("through_a_restart"), f"ws://{served.address}"]
    environment = {"PYTHONPATH": str(CLIENT / "src")}
    async with await anyio.open_process(command, env=environment) as process:
        assert process.stdout is not None
        yield TextReceiveStream(process.stdout), process
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)


async def test_living_through_a_restart(samples: Path, tmp_path: Path, upstream: Upstream) -> None:
    """One answer before, one after; the program notices nothing."""
    state = shutil.copytree(samples, tmp_path / "state")
    upstream.default = Script(tokens=("Fine.",))
    async with serving(state, upstream=upstream) as served:
        port = int(served.address.rpartition(":")[2])
        async with living(served) as (out, process):
            assert process.stdin is not None
            with anyio.fail_after(PATIENCE_S * 2):
                assert await out.receive() == "Fine.\n"
                served.server.should_exit = True
                await served.stopped.wait()
                async with serving(state, upstream=upstream, port=port):
                    await process.stdin.send(b"\n")
                    assert await out.receive() == "Fine.\n"
