"""The examples of the README run as they stand, against the sample documents."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from harness import Served

ROOT = Path(__file__).parent.parent
JAVASCRIPT = ROOT / "tests" / "js"
EXAMPLE = re.compile(r"<!-- example (\w+) -->\n```\w+\n(.*?)```", re.DOTALL)
EXAMPLES = dict(EXAMPLE.findall((ROOT / "README.md").read_text()))


def example(name: str, served: Served) -> str:
    """Return an example, pointed at the test's server."""
    return str(EXAMPLES[name]).replace("127.0.0.1:8000", served.address)


async def run(*command: str, cwd: Path = ROOT) -> str:
    """Run a program to its end and return what it printed."""
    with anyio.fail_after(60):
        done = await anyio.run_process(command, cwd=cwd, check=False, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout.decode()
    return done.stdout.decode()


@pytest.mark.parametrize("name", ["python", "sdk"])
async def test_the_python_examples(extracting: Served, name: str) -> None:
    """The ten lines with `websockets`, and those with the official SDK, print a cited answer."""
    printed = await run(sys.executable, "-c", example(name, extracting))
    assert "Mirefoot" in printed
    assert "[1]" in printed


async def test_the_javascript_example(extracting: Served, tmp_path: Path) -> None:
    """The JavaScript lines print a cited answer, on Node 20 with `ws` as the README says."""
    assert (JAVASCRIPT / "node_modules" / "ws").exists(), "run `make setup`: npm's `ws` is missing"
    script = tmp_path / "example.mjs"
    source = JAVASCRIPT / "node_modules" / "ws" / "wrapper.mjs"
    script.write_text(f'import WebSocket from "{source}";\n{example("javascript", extracting)}')
    printed = await run("node", str(script))
    assert "searched" in printed
    assert "Mirefoot" in printed


async def test_the_shell_example(extracting: Served) -> None:
    """The line for a shell prints the same answer as plain text."""
    if not shutil.which("curl") and "CI" not in os.environ:
        pytest.skip("curl is not installed")
    printed = await run("sh", "-c", example("curl", extracting))
    assert "Mirefoot" in printed


def test_every_example_is_run() -> None:
    """No example of the README goes without a test."""
    assert set(EXAMPLES) == {"python", "javascript", "sdk", "curl"}
