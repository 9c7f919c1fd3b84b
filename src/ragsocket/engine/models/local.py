"""A model on this machine as a `TokenStream`: one child process, kept alive, and its queue.

At most as many answers are written at once as the model has slots; more wait in the order in
which they came. A slot is held from the request until the model is done with it. An answer that
is stopped while the model still reads its prompt goes on holding its slot until the model says
that it is free, which is after the step that it is in.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup

from ragsocket.engine.base import Functions, ModelEvent, Sampling
from ragsocket.engine.chat_chunks import upstream_error
from ragsocket.engine.models.catalog import sha256_of
from ragsocket.engine.models.child_process import Child, ChildFailed, Load, running_child
from ragsocket.engine.models.choice import LocalFile
from ragsocket.engine.token_stream import Message, OpenAICompatible

log = logging.getLogger("ragsocket.engine")

BATCH_TOKENS = 64
"""Tokens of prompts that the model reads in one step. A stop takes effect, and the other answers
get their next token, after one step; larger steps read a little faster."""

LOOK_EVERY_S = 0.01
"""How often a stopped answer's slot is looked at; the answer comes between two steps."""

# Stands for the probability of a word that is not among the likeliest.
UNSAID = 1e-6

# The estimate of a prompt's tokens may be a third too low.
SPARE = 1.34


@dataclass(frozen=True, slots=True)
class Pace:
    """How patient the supervision is, in seconds.

    Attributes:
        load_s: until the model is loaded.
        probe_every_s: between two looks at a process that is well.
        hung_after_s: without an answer to one look.
        free_within_s: until the slot of a stopped answer is free.
        first_pause_s: before the first restart; it doubles with every further one.
        longest_pause_s: the pause does not grow beyond.
        well_after_s: a process that lived this long counts as well, and restarts begin anew.
    """

    load_s: float = 120.0
    probe_every_s: float = 2.0
    hung_after_s: float = 5.0
    free_within_s: float = 60.0
    first_pause_s: float = 0.25
    longest_pause_s: float = 30.0
    well_after_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Waits:
    """What answers wait for, in seconds: as `OpenAICompatible` takes it."""

    connect_s: float = 10.0
    first_token_s: float = 120.0
    token_s: float = 60.0


class LocalModel:
    """Runs a model file in a child process, and answers from it.

    Serves while `run` runs, or inside of `async with`.

    Args:
        file: the model.
        slots: answers at once.
        threads: threads that compute; None for one per processor.
        max_output_tokens: room for one answer beside its prompt.
        waits: what answers wait for.
        pace: how patient the supervision is.
    """

    def __init__(
        self,
        file: LocalFile,
        *,
        slots: int = 4,
        threads: int | None = None,
        max_output_tokens: int = 1024,
        waits: Waits | None = None,
        pace: Pace | None = None,
    ) -> None:
        self.models: Sequence[str] = (file.name,)
        self._file = file
        self._load = Load(
            name=file.name,
            path=file.path,
            slots=slots,
            slot_tokens=_rounded(2 * file.context_tokens * SPARE + max_output_tokens),
            batch_tokens=BATCH_TOKENS,
            threads=threads or processors(),
        )
        self._waits = waits or Waits()
        self._pace = pace or Pace()
        self._slots = anyio.Semaphore(slots)
        self._up: _Up | None = None
        self._state: str | None = "loading"
        self._settled = anyio.Event()
        self._tasks: TaskGroup | None = None
        self._runner: TaskGroup | None = None

    @property
    def state(self) -> str | None:
        """What the model is busy with in place of answering; None if it can answer."""
        return self._state

    @property
    def min_assent(self) -> float | None:
        """See `LocalFile.min_assent`."""
        return self._file.min_assent

    @property
    def process_id(self) -> int | None:
        """The child process; None while there is none."""
        return None if self._up is None else self._up.child.process.pid

    async def __aenter__(self) -> Self:
        """Begin to run."""
        self._runner = anyio.create_task_group()
        await self._runner.__aenter__()
        self._runner.start_soon(self.run)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        """End the child process."""
        assert self._runner is not None
        self._runner.cancel_scope.cancel()
        return await self._runner.__aexit__(kind, error, trace)

    async def run(self) -> None:
        """Keep the child process alive until cancelled; it is gone when this ends."""
        try:
            async with anyio.create_task_group() as self._tasks:
                await self._supervise()
        finally:
            self._tasks = None
            self._say("stopped")

    async def ready(self) -> bool:
        """Wait until the model was loaded or could not be, and return which."""
        await self._settled.wait()
        return self._up is not None

    async def aclose(self) -> None:
        """End the answers that run; the process ends with `run`."""
        if self._up is not None:
            await self._up.tokens.aclose()

    async def stream(
        self,
        messages: Sequence[Message],
        *,
        model: str,
        sampling: Sampling,
        functions: Functions | None = None,
    ) -> AsyncGenerator[ModelEvent]:
        """See `TokenStream.stream`. Waits for a slot, and for a model that is being loaded.

        Raises:
            EngineError: `upstream_unavailable` while the model is restarted; or from the model.
        """
        async with self._slot() as up:
            events = up.tokens.stream(messages, model=model, sampling=sampling, functions=functions)
            async with aclosing(events):
                async for event in events:
                    yield event

    async def assent(self, messages: Sequence[Message]) -> float:
        """Return how much likelier the model begins with Yes than with No.

        It reads the prompt for this, and need not read it again for an answer to one that
        begins in the same way.

        Args:
            messages: the prompt, which asks for Yes or No.

        Returns:
            The difference of the two logarithms; 0 if it begins with neither.

        Raises:
            EngineError: see `stream`.
        """
        async with self._slot() as up:
            try:
                begins = await up.child.first_token(
                    self.models[0], messages, self._waits.first_token_s
                )
            except ChildFailed as error:
                raise upstream_error("upstream_unavailable") from error
        yes, no = (
            sum(math.exp(log) for token, log in begins.items() if token.strip().lower() == word)
            for word in ("yes", "no")
        )
        return math.log(yes + UNSAID) - math.log(no + UNSAID)

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[_Up]:
        """Hold a slot of the model; after an error or a stop until the model is done with it."""
        await self._slots.acquire()
        up: _Up | None = None
        whole = False
        try:
            await self._settled.wait()
            if self._up is None:
                raise upstream_error("upstream_unavailable")
            up = self._up
            up.answering += 1
            yield up
            whole = True
        finally:
            if up is not None:
                up.answering -= 1
            if up is None or whole or self._tasks is None:
                self._slots.release()
            else:
                self._tasks.start_soon(self._release_when_free, up)

    async def _release_when_free(self, up: _Up) -> None:
        """Give a stopped answer's slot to the next one as soon as the model is done with it."""
        try:
            with anyio.move_on_after(self._pace.free_within_s):
                # Between the answers that go on, every busy slot is one of a stopped answer.
                while self._up is up:
                    if await up.child.busy(self._pace.free_within_s) <= up.answering:
                        break
                    await anyio.sleep(LOOK_EVERY_S)
                return
            log.warning("the model did not let go of a stopped answer")
            up.hangs.set()
        except ChildFailed:
            # Whether it lives is for the supervision to find out.
            pass
        finally:
            self._slots.release()

    async def _supervise(self) -> None:
        if fault := await self._fault_of_file():
            log.error("the model cannot be used: %s", fault)
            self._say(fault)
            self._settled.set()
            return
        restarts = 0
        while True:
            began = anyio.current_time()
            try:
                reason = await self._serve()
            except ChildFailed as error:
                reason = str(error)
            except OSError as error:
                reason = f"its process could not be started ({error})"
            if anyio.current_time() - began > self._pace.well_after_s:
                restarts = 0
            restarts += 1
            self._say(f"restarting ({restarts}): {reason}")
            self._settled.set()
            pause = min(self._pace.first_pause_s * 2 ** (restarts - 1), self._pace.longest_pause_s)
            log.error("the model %s: %s; restart in %.1f s", self._file.name, reason, pause)
            await anyio.sleep(pause)

    async def _serve(self) -> str:
        """Run one child process to its end, and return the reason of that.

        Raises:
            ChildFailed: it did not come up.
        """
        async with running_child(self._load, within_s=self._pace.load_s) as child:
            tokens = OpenAICompatible(
                child.url,
                self.models,
                api_key=child.key,
                connect_timeout_s=self._waits.connect_s,
                first_token_timeout_s=self._waits.first_token_s,
                token_timeout_s=self._waits.token_s,
                # Written after every step of reading, and so the server notices within one step
                # that nobody listens any more; without, it would read the prompt to its end.
                # The likeliest words unless a request says otherwise: documents are to be read, not
                # played with.
                extra={"return_progress": True, "temperature": 0},
            )
            self._up = _Up(child, tokens, anyio.Event())
            self._say(None)
            self._settled.set()
            log.info("the model %s is ready (process %d)", self._file.name, child.process.pid)
            try:
                return await self._watch(self._up)
            finally:
                self._up = None
                with anyio.CancelScope(shield=True):
                    await tokens.aclose()

    async def _watch(self, up: _Up) -> str:
        """Wait until the process ends or hangs, and return which; one that hangs is killed."""
        while True:
            with anyio.move_on_after(self._pace.probe_every_s):
                return await up.child.ended()
            hangs = "it did not let go of a stopped answer" if up.hangs.is_set() else None
            if not await up.child.responds(self._pace.hung_after_s):
                hangs = f"it did not answer for {self._pace.hung_after_s:g} seconds"
            if hangs is not None and up.child.process.returncode is None:
                up.child.process.kill()
                return hangs

    async def _fault_of_file(self) -> str | None:
        file = self._file
        try:
            if file.sha256 is None:
                await to_thread.run_sync(lambda: file.path.open("rb").close())
            elif await to_thread.run_sync(sha256_of, file.path) != file.sha256:
                return (
                    f"{file.path} is not the official file of {file.name}; run: ragsocket models "
                    f"pull {file.name}"
                )
        except OSError as error:
            return f"{file.path} cannot be read ({error.strerror})"
        return None

    def _say(self, state: str | None) -> None:
        self._state = state


@dataclass(slots=True)
class _Up:
    """A child process that serves.

    Attributes:
        child: the process.
        tokens: its client.
        hangs: set when it was seen to hang.
        answering: answers that read from it.
    """

    child: Child
    tokens: OpenAICompatible
    hangs: anyio.Event
    answering: int = 0


def processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _rounded(tokens: float) -> int:
    """Round up to what the runtime allots in."""
    return math.ceil(tokens / 256) * 256
