"""The JavaScript client as a package: its size, its types, and what the tools of npm say of it."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
from pathlib import Path

import pytest
from javascript import JAVASCRIPT

MOST_BYTES = 5_000
TOOLS = JAVASCRIPT / "node_modules" / ".bin"


def run(*command: str | Path, cwd: Path = JAVASCRIPT) -> str:
    """Run a tool to its end, and return what it printed."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "NO_COLOR": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as it would be published."""
    folder = tmp_path_factory.mktemp("package")
    run("npm", "pack", "--silent", "--pack-destination", folder)
    (packed,) = folder.glob("ragsocket-*.tgz")
    return packed


def test_it_is_small() -> None:
    """Minified and compressed it has at most 5 kB, and needs nothing else."""
    small = run(TOOLS / "esbuild", "ragsocket.js", "--bundle", "--minify", "--format=esm")
    assert len(gzip.compress(small.encode())) <= MOST_BYTES
    about = json.loads((JAVASCRIPT / "package.json").read_text())
    assert "dependencies" not in about


def test_the_tools_find_no_fault(package: Path) -> None:
    """`publint` and `attw` have nothing to say of what would be published."""
    assert "All good" in run(TOOLS / "publint", "--strict", package)
    run(TOOLS / "attw", "--profile", "esm-only", package)


USER = """
import { connect, RateLimited, type ServerEvent, type State } from "ragsocket";

const client = connect("http://x", { token: async () => "t" });
const chat = client.conversation();
const answer = chat.ask("q", { temperature: 0.3, signal: AbortSignal.timeout(3) });
for await (const event of answer) {
  if (event.type === "response.output_text.delta") event.delta.length;
  if (event.type === "response.completed") event.response.usage?.total_tokens;
}
const text: string = await answer;
const steered: string = await answer.steer(text);
const state: State = client.state;
if (state.name === "offline") state.retryAt.toFixed();
const every = (event: ServerEvent) => event.type;
const wait = (error: unknown) => error instanceof RateLimited && error.retryAfter;
// @ts-expect-error: there is no such event
every({ type: "response.nothing" });
// @ts-expect-error: what is for the client alone is not among the types
answer._take({});
// @ts-expect-error: a field that the server does not know
chat.ask(steered, { temprature: 1 });
wait(null);
"""


def test_its_types_help(package: Path, tmp_path: Path) -> None:
    """A strict program, of a library without the newest additions, is checked against them."""
    installed = tmp_path / "node_modules" / "ragsocket"
    installed.mkdir(parents=True)
    run("tar", "xzf", package, "--strip-components", "1", cwd=installed)
    (tmp_path / "user.mts").write_text(USER)
    run(
        TOOLS / "tsc", "--strict", "--noEmit", "--target", "es2022", "--module", "nodenext",
        "--lib", "es2022,dom,dom.asynciterable", "--types", "", "user.mts", cwd=tmp_path,
    )  # fmt: skip
