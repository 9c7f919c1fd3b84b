"""The examples and the README of the JavaScript client run as they stand."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest
from javascript import ENDS_WITHIN_S, JAVASCRIPT, playing

from harness import Served, serving, until
from upstream import Script, Upstream

ROOT = JAVASCRIPT.parents[1]
SNIPPETS = re.findall(r"```js\n(.*?)```", (JAVASCRIPT / "README.md").read_text(), re.DOTALL)


OTHER_RUNTIMES = {
    "bun": [f"{JAVASCRIPT / 'node_modules' / '.bin' / 'bun'}", "run"],
    "deno": [f"{JAVASCRIPT / 'node_modules' / '.bin' / 'deno'}", "run", "--allow-all", "--quiet"],
}


async def run(
    served: Served,
    *command: str,
    stdin: str = "",
    folder: Path = JAVASCRIPT,
    runtime: Sequence[str] = ("node",),
) -> str:
    """Run a program to its end, and return what it printed."""
    environment = {"RAGSOCKET_URL": f"http://{served.address}", "DENO_NO_UPDATE_CHECK": "1"}
    with anyio.fail_after(ENDS_WITHIN_S):
        done = await anyio.run_process(
            [*runtime, *command],
            cwd=folder,
            input=stdin.encode(),
            env={**os.environ, **environment},
            stderr=subprocess.STDOUT,
            check=False,
        )
    assert done.returncode == 0, done.stdout.decode()
    return done.stdout.decode()


@pytest.mark.parametrize("runtime", ["node", *OTHER_RUNTIMES])
async def test_the_readme(extracting: Served, tmp_path: Path, runtime: str) -> None:
    """Its pieces, put together in their order, are one program that runs to its end."""
    program = "\n".join(SNIPPETS).replace("127.0.0.1:8000", extracting.address)
    if runtime == "node":
        before = 'import WebSocket from "ws"; globalThis.WebSocket ??= WebSocket;\n'
        printed = await run(extracting, "--input-type=module", "--eval", before + program)
    else:
        file = tmp_path / "readme.js"
        client = (JAVASCRIPT / "ragsocket.js").as_uri()
        file.write_text(program.replace('"ragsocket"', f'"{client}"'))
        printed = await run(extracting, str(file), runtime=OTHER_RUNTIMES[runtime])
    assert "Mirefoot" in printed
    assert "three years" in printed
    assert "Refused model_not_found false" in printed
    # The extracts may be whole before the stop is read.
    assert re.search(r"^(cancelled|completed) \d+$", printed, re.MULTILINE)
    assert printed.rstrip().endswith("closed")


async def test_the_chat(extracting: Served) -> None:
    """It answers every line."""
    questions = "When are dogs allowed in the huts?\nHow long are gift vouchers valid?\n"
    printed = await run(extracting, "examples/chat.js", stdin=questions)
    assert "Mirefoot" in printed
    assert "three years" in printed


@pytest.mark.parametrize(
    "runtime", [["node"], *OTHER_RUNTIMES.values()], ids=lambda it: Path(it[0]).name
)
async def test_stopping_after_some_words(
    served: Served, upstream: Upstream, runtime: list[str]
) -> None:
    """It stops, and the model with it."""
    upstream.queue(Script(rate=100, tokens=tuple(f"w{n} " for n in range(500))))
    ask = ("5", "When does the ferry to Holm leave?")
    printed = await run(served, "examples/stop.js", *ask, runtime=runtime)
    assert "cancelled; the conversation keeps" in printed
    await (await upstream.request(0)).closed()


async def test_two_conversations(extracting: Served) -> None:
    """Both are answered, each from its own documents."""
    printed = await run(extracting, "examples/two.js")
    assert "complaints.md" in printed
    assert "Mirefoot" in printed


async def test_the_official_sdk(samples: Path, tmp_path: Path, upstream: Upstream) -> None:
    """It is stopped over HTTP by leaving the loop, and over a socket by a cancel."""
    upstream.default = Script(rate=200, tokens=("word ",) * 4_000)
    # As a text, so that it finds the SDK where the tests have it.
    program = (JAVASCRIPT / "examples" / "openai.js").read_text()
    here = ROOT / "tests" / "js"
    async with serving(shutil.copytree(samples, tmp_path / "state"), upstream=upstream) as served:
        printed = await run(served, "--input-type=module", "--eval", program, folder=here)
        assert re.match(r"left after \d+ characters\ncancelled over the socket\n$", printed)
        for number in range(2):
            assert (await (await upstream.request(number)).closed()).written < 4_000


async def test_living_through_a_restart(samples: Path, tmp_path: Path, upstream: Upstream) -> None:
    """An answer that the restart cut off is asked for again, of the next server."""
    state = shutil.copytree(samples, tmp_path / "state")
    upstream.queue(Script(gated=True))
    upstream.default = Script(tokens=("All ", "is ", "well."))
    async with serving(state, upstream=upstream, drain_s=0.1) as first:
        port = int(first.address.rpartition(":")[2])
        said: list[str] = []

        async def example() -> None:
            said.append(await run(first, "examples/restart.js"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(example)
            (await upstream.request(0)).release(2)
            await (await upstream.request(0)).wrote(2)
            first.server.should_exit = True
            await first.stopped.wait()
            async with serving(state, upstream=upstream, port=port):
                await until(lambda: bool(said))
    assert "All is well." in said[0]


async def test_the_page(extracting: Served) -> None:
    """A plain HTML file, served from elsewhere, asks and shows answer and sources."""
    async with playing("page.html", f"http://{extracting.address}", script="page.mjs") as play:
        shown = await play.line()
    assert "Mirefoot" in shown["answer"]
    assert ".md" in shown["sources"]
    assert shown["state"] == "ready"
