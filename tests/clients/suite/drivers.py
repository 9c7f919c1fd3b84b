"""Drivers: what makes a client do what a step says, and reports what became of it.

A driver of another language is a program that reads commands from stdin and writes reports to
stdout, one JSON object a line; README.md lists them. The one for Python runs in this process.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from ragsocket_client import (
    Answer,
    Client,
    Conversation,
    Interrupted,
    Offline,
    RagsocketError,
    RateLimited,
    connect,
)

Line = dict[str, Any]
Report = Callable[[Line], None]

PATIENT_S, IMPATIENT_S = 5.0, 0.1


class Driver(Protocol):
    """A client under test.

    Attributes:
        report: what is told of it; set before the first command.
    """

    report: Report

    async def do(self, command: Line) -> None:
        """Have it do something."""


class Process:
    """A client that a program drives."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.report: Report = lambda line: None

    async def do(self, command: Line) -> None:
        """Send a command."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")

    async def read(self) -> None:
        """Pass its reports on, until it ends."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.report(json.loads(line))

    @classmethod
    @asynccontextmanager
    async def running(cls, *command: str, cwd: Path | None = None) -> AsyncIterator[Process]:
        """Run a program until the block ends."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, cwd=cwd)
        driver = cls(process)
        try:
            async with asyncio.TaskGroup() as tasks:
                reading = tasks.create_task(driver.read())
                yield driver
                reading.cancel()
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


class InProcess:
    """The Python client."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self.report: Report = lambda line: None
        self._tasks = tasks
        self._living: asyncio.Task[None] | None = None
        self._commands: asyncio.Queue[Line] = asyncio.Queue()
        self._answers: dict[str, Answer] = {}
        self._chats: dict[str, Conversation] = {}

    async def do(self, command: Line) -> None:
        """Do it after what was to be done before."""
        if command["do"] == "connect":
            await self._end()
            self._commands = asyncio.Queue()
            live = self._live(command, self._commands, self._about(command))
            self._living = self._tasks.create_task(live)
        else:
            self._commands.put_nowait(command)

    @classmethod
    @asynccontextmanager
    async def running(cls) -> AsyncIterator[InProcess]:
        """Be ready until the block ends."""
        async with asyncio.TaskGroup() as tasks:
            driver = cls(tasks)
            yield driver
            await driver._end()

    async def _end(self) -> None:
        """Leave nothing of a case that went wrong."""
        if self._living is not None and not self._living.done():
            self._living.cancel()
            await asyncio.wait([self._living])

    def _about(self, command: Line) -> Report:
        """What tells of this case alone."""
        return lambda line: self.report({"case": command["case"], **line})

    async def _live(self, command: Line, commands: asyncio.Queue[Line], report: Report) -> None:
        self._answers, self._chats = {}, {}
        tokens = list(command.get("tokens", ()))

        async def token() -> str:
            made = tokens.pop(0) if len(tokens) > 1 else tokens[0]
            if made is None:
                raise RuntimeError("there is no token now")
            return str(made)

        heartbeat_s = IMPATIENT_S if command.get("impatient") else PATIENT_S
        shown = token if tokens else command.get("token")
        try:
            async with asyncio.TaskGroup() as tasks:
                client = connect(command["url"], token=shown, heartbeat_s=heartbeat_s)
                tasks.create_task(self._watch(client, report))
                async with client:
                    while (step := await commands.get())["do"] != "close":
                        self._obey(client, step, tasks, report)
        except* RagsocketError as failed:
            report({"failed": known(failed.exceptions[0])})  # type: ignore[arg-type]
        report({"done": True})

    async def _watch(self, client: Client, report: Report) -> None:
        async for state in client.states():
            told: Line = {"name": type(state).__name__.lower()}
            for name in ("code", "reason", "retryable"):
                if hasattr(state, name):
                    told[name] = getattr(state, name)
            report({"state": told})
            if isinstance(state, Offline):
                # Nobody has the time to wait as long as a client does in life.
                client.hurry()

    def _obey(self, client: Client, step: Line, tasks: asyncio.TaskGroup, report: Report) -> None:
        answers, kind = self._answers, step["do"]
        if kind == "echo":
            report({"echo": True})
        elif kind == "cancel":
            answers[step["answer"]].stop()
        else:
            answer = self._begin(client, step)
            answers[step["as"]] = answer
            tasks.create_task(self._read(answer, step, report))

    def _begin(self, client: Client, step: Line) -> Answer:
        kind, fields = step["do"], step.get("fields", {})
        if kind == "ask":
            name = step.get("chat", "c")
            if name not in self._chats:
                self._chats[name] = client.conversation(step.get("conversation"))
            return self._chats[name].ask(step["input"], **fields)
        if kind == "resume":
            return client.resume(step["id"], starting_after=step.get("after", -1))
        answer = self._answers[step["answer"]]
        if kind == "steer":
            return answer.steer(step["input"])
        if kind == "edit":
            return answer.edit(step["input"], **fields)
        assert kind == "regenerate", kind
        return answer.regenerate(**fields)

    async def _read(self, answer: Answer, step: Line, report: Report) -> None:
        told, numbers, error = "", [], None
        name = step["as"]
        try:
            if step.get("read") == "events":
                async for event in answer:
                    numbers.append(event.get("sequence_number"))
            elif step.get("read") == "whole":
                told = await answer
            else:
                async for text in answer.texts():
                    told += text
                    report({"of": name, "told": told})
                    if told == step.get("leave_at"):
                        break
        except RagsocketError as failed:
            error = known(failed)
        await answer.wait()
        report(
            {
                "of": name,
                "ended": {
                    "told": told, "numbers": numbers, "error": error, "id": answer.id,
                    "text": answer.text, "status": answer.status, "reason": answer.reason,
                    "usage": answer.usage,
                    "total_ms": answer.timings.get("total_ms"),
                    "sources": [source["filename"] for source in answer.sources],
                    "marked": [answer.text[: mark["index"]] for mark in answer.citations],
                },
            }
        )  # fmt: skip


def known(error: RagsocketError) -> Line:
    """What an error says."""
    return {
        "type": type(error).__name__,
        "message": error.message,
        "code": error.code,
        "param": error.param,
        "text": error.text,
        "retryable": error.retryable,
        "response_id": error.response_id,
        "reason": error.reason if isinstance(error, Interrupted) else None,
        "retry_after": error.retry_after if isinstance(error, RateLimited) else None,
    }
