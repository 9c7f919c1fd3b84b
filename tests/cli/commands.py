"""Runs the real command as processes: to its end, as a server, and in a pseudo-terminal."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import httpx
import websockets
from anyio.abc import Process

from harness import PATIENCE_S, Talk

STARTS_WITHIN_S = 60.0
"""To load everything on a machine that is busy with other things."""

COMMAND = [sys.executable, "-m", "ragsocket"]
SOURCE = Path(__file__).parents[2] / "src"
CLIENT = Path(__file__).parents[2] / "clients" / "python" / "src"
# Makes the pseudo-terminal the one that controls the process, so that keys become signals; whoever
# runs the tests in the background of a shell has it ignore some of them.
_LOG_IN = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "os.login_tty(0); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)
_TERMINAL_COMMANDS = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def environment(**extra: str) -> dict[str, str]:
    """This process's environment with `extra`, and without what this machine could run itself."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("RAGSOCKET_")}
    plain = {"RAGSOCKET_EMBED_MODEL": "none", "RAGSOCKET_MODELS_DIR": "no-models-here"}
    terminal = {"PYTHONPATH": f"{SOURCE}{os.pathsep}{CLIENT}", "TERM": "xterm", "PYTHONUTF8": "1"}
    return kept | terminal | plain | extra


def run(
    *arguments: str | Path, cwd: Path, stdin: str = "", **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, in a directory of its own."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd,
        env=environment(**env),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=STARTS_WITHIN_S,
        check=False,
    )


async def run_async(
    *arguments: str | Path, cwd: Path, stdin: str = "", **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end while this loop goes on."""
    with anyio.fail_after(STARTS_WITHIN_S):
        done = await anyio.run_process(
            [*COMMAND, *map(str, arguments)],
            cwd=cwd,
            env=environment(**env),
            input=stdin.encode(),
            check=False,
        )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


@dataclass
class Serving:
    """A server that is a process.

    Attributes:
        address: `host:port`.
        greeting: what it printed when it began to listen.
        log: the file of its stderr.
    """

    process: Process
    address: str
    greeting: str
    log: Path

    @asynccontextmanager
    async def talk(self, path: str = "/ws") -> AsyncIterator[Talk]:
        """Open a socket."""
        async with websockets.connect(f"ws://{self.address}{path}") as socket:
            yield Talk(socket)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    async def status(self) -> int:
        """Wait for its end and return the exit status."""
        with anyio.fail_after(PATIENCE_S):
            return await self.process.wait()


@asynccontextmanager
async def serving(
    cwd: Path, *arguments: str | Path, port: int = 0, **env: str
) -> AsyncIterator[Serving]:
    """Run `ragsocket serve` until the block ends; ready for questions when it begins."""
    log = cwd / "serve.log"
    command = [*COMMAND, "serve", "--port", str(port), *map(str, arguments)]
    with log.open("ab") as stderr:
        process = await anyio.open_process(
            command, cwd=cwd, env=environment(**env), stdin=subprocess.DEVNULL, stderr=stderr
        )
    try:
        greeting = ""
        assert process.stdout is not None
        with anyio.fail_after(STARTS_WITHIN_S):
            while "reference" not in greeting:
                try:
                    greeting += (await process.stdout.receive()).decode()
                except anyio.EndOfStream:
                    raise AssertionError(log.read_text()) from None
        found = re.search(r"http://(\S+)", greeting)
        assert found is not None
        server = Serving(process, found[1], greeting, log)
        await ready(server.address)
        yield server
    finally:
        with anyio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
            await process.aclose()


async def ready(address: str) -> None:
    """Wait until a server can answer questions."""
    async with httpx.AsyncClient(base_url=f"http://{address}", timeout=PATIENCE_S) as http:
        with anyio.fail_after(STARTS_WITHIN_S):
            while (await http.get("/readyz")).status_code != 200:
                await anyio.sleep(0.05)


class Terminal:
    """A process in a pseudo-terminal, and everything that appeared on its screen."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process = process
        self.raw = b""
        self._master = master
        self._read_to = 0

    @property
    def screen(self) -> str:
        """What appeared so far, without the commands that colour it."""
        text = self.raw.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "")
        return _TERMINAL_COMMANDS.sub("", text)

    def type(self, text: str) -> None:
        """Press keys; a character 3 is Ctrl-C."""
        os.write(self._master, text.encode())

    async def shows(self, text: str) -> None:
        """Wait until a text appears after what was waited for before."""
        found = -1
        with anyio.move_on_after(PATIENCE_S):
            while (found := self.screen.find(text, self._read_to)) < 0:
                if not await self._read():
                    break
        assert found >= 0, f"there is no {text!r} in:\n{self.screen}"
        self._read_to = found + len(text)

    async def status(self) -> int:
        """Wait for the end and return the exit status."""
        with anyio.fail_after(PATIENCE_S):
            while await self._read():
                pass
            while (status := self.process.poll()) is None:
                await anyio.sleep(0.01)
        return status

    async def _read(self) -> bool:
        await anyio.wait_readable(self._master)
        try:
            more = os.read(self._master, 65536)
        except OSError:
            return False  # Linux says so when the other side is closed
        self.raw += more
        return bool(more)


@contextmanager
def terminal(cwd: Path, *arguments: str | Path, width: int = 100, **env: str) -> Iterator[Terminal]:
    """Run a command in a pseudo-terminal, of which Ctrl-C is sent as a terminal does."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (40, width))
    process = subprocess.Popen(
        [sys.executable, "-c", _LOG_IN, *COMMAND[1:], *map(str, arguments)],
        cwd=cwd,
        env=environment(**env),
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    try:
        yield Terminal(process, master)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(timeout=PATIENCE_S)
        os.close(master)
