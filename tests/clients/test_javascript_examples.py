"""The examples and the README of the JavaScript client run as they stand."""

from __future__ import annotations

import os
import re
import subprocess

import anyio
from javascript import ENDS_WITHIN_S, JAVASCRIPT, playing

from harness import Served
from upstream import Script, Upstream

ROOT = JAVASCRIPT.parents[1]
SNIPPETS = re.findall(r"```js\n(.*?)```", (JAVASCRIPT / "README.md").read_text(), re.DOTALL)


async def run(served: Served, *command: str, stdin: str = "") -> str:
    """Run a program of Node to its end, and return what it printed."""
    environment = {"RAGSOCKET_URL": f"http://{served.address}"}
    with anyio.fail_after(ENDS_WITHIN_S):
        done = await anyio.run_process(
            ["node", *command],
            cwd=JAVASCRIPT,
            input=stdin.encode(),
            env={**os.environ, **environment},
            stderr=subprocess.STDOUT,
            check=False,
        )
    assert done.returncode == 0, done.stdout.decode()
    return done.stdout.decode()


async def test_the_readme(extracting: Served) -> None:
    """Its pieces, put together in their order, are one program that runs to its end."""
    program = "\n".join(SNIPPETS).replace("127.0.0.1:8000", extracting.address)
    before = 'import WebSocket from "ws"; globalThis.WebSocket ??= WebSocket;\n'
    printed = await run(extracting, "--input-type=module", "--eval", before + program)
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


async def test_stopping_after_some_words(served: Served, upstream: Upstream) -> None:
    """It stops, and the model with it."""
    upstream.queue(Script(rate=100, tokens=tuple(f"w{n} " for n in range(500))))
    printed = await run(served, "examples/stop.js", "5", "When does the ferry to Holm leave?")
    assert "cancelled; the conversation keeps" in printed
    await (await upstream.request(0)).closed()


async def test_two_conversations(extracting: Served) -> None:
    """Both are answered, each from its own documents."""
    printed = await run(extracting, "examples/two.js")
    assert "complaints.md" in printed
    assert "Mirefoot" in printed


async def test_the_page(extracting: Served) -> None:
    """A plain HTML file, served from elsewhere, asks and shows answer and sources."""
    async with playing("page.html", f"http://{extracting.address}", script="page.mjs") as play:
        shown = await play.line()
    assert "Mirefoot" in shown["answer"]
    assert ".md" in shown["sources"]
    assert shown["state"] == "ready"
