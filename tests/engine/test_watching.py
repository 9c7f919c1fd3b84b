"""A folder that changes while questions are answered from it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
import watchfiles
from material import write_files

from harness import PATIENCE_S
from ragsocket.engine.late import LateEngine
from ragsocket.engine.watching import changes
from ragsocket.errors import RequestError
from ragsocket.settings import Settings


@asynccontextmanager
async def loaded(tmp_path: Path, *, watch: bool) -> AsyncIterator[LateEngine]:
    """An engine over a folder, as a server has it, with everything in it read."""
    write_files(tmp_path / "documents", {"huts.md": "Mirefoot has forty beds."})
    settings = Settings(
        data=tmp_path / "documents",
        # In the folder, and not hidden: what is written there must not count as a change.
        state_dir=tmp_path / "documents" / "state",
        llm_model="none",
        embed_model="none",
        watch=watch,
    )
    engine = LateEngine(settings)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(engine.load)
        with anyio.fail_after(PATIENCE_S):
            while engine.readiness():
                await anyio.sleep(0.02)
            while "Mirefoot has forty beds." not in await search(engine):
                await anyio.sleep(0.02)
        yield engine
        tasks.cancel_scope.cancel()


async def search(engine: LateEngine) -> list[str]:
    """Return the passages about beds."""
    try:
        found = await engine.documents.search("local", "vs_default", "beds", top_k=9)
    except RequestError:
        return []
    return [source.text for source in found]


async def until(engine: LateEngine, right: Callable[[list[str]], bool]) -> None:
    """Search until the passages are right."""
    with anyio.fail_after(PATIENCE_S):
        while not right(await search(engine)):
            await anyio.sleep(0.02)


async def test_changes_are_found_while_the_server_runs(tmp_path: Path) -> None:
    """New files, changed ones, deleted ones, a folder that is moved away: nobody need be told."""
    root = tmp_path / "documents"
    async with loaded(tmp_path, watch=True) as engine:
        write_files(root, {"new/spur.md": "Highspur has twelve beds."})
        write_files(root, {"huts.md": "Mirefoot has fifty beds."})
        both = {"Highspur has twelve beds.", "Mirefoot has fifty beds."}
        await until(engine, lambda texts: set(texts) == both)
        (root / "new").rename(tmp_path / "elsewhere")
        os.remove(root / "huts.md")
        await until(engine, lambda texts: texts == [])


async def test_our_own_files_and_hidden_ones_are_no_changes(tmp_path: Path) -> None:
    """The index in the folder must not cause the folder to be read."""
    root = tmp_path / "documents"
    write_files(root, {"state/index": "x", "a.md": "x"})
    noticed = []

    async def watch(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        task_status.started()
        async for _ in changes(root, but=root / "state"):
            noticed.append(True)

    async with anyio.create_task_group() as tasks:
        await tasks.start(watch)
        with anyio.fail_after(PATIENCE_S):
            # Again and again: when the watch begins, nobody tells.
            while not noticed:
                write_files(root, {"a.md": "y"})
                await anyio.sleep(0.05)
            await quiet(noticed)
            write_files(root, {"state/index": "y", ".hidden.md": "y", ".git/a.md": "y"})
            await quiet(noticed)
            assert noticed == []
            write_files(root, {"b.md": "z"})
            while not noticed:
                await anyio.sleep(0.02)
        tasks.cancel_scope.cancel()


async def quiet(noticed: list[bool]) -> None:
    """Wait until a while goes by in which nothing is noticed."""
    while True:
        noticed.clear()
        await anyio.sleep(0.3)
        if not noticed:
            return


async def test_a_folder_that_cannot_be_watched_is_looked_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the system has no watches left, changes are found by looking."""
    write_files(tmp_path, {"a.md": "x"})
    real = vars(watchfiles.main)["RustNotify"]

    def no_watches(paths: list[str], debug: bool, polls: bool, *more: object) -> object:
        if not polls:
            raise OSError(28, "OS file watch limit reached")
        return real(paths, debug, polls, 20, *more[1:])

    monkeypatch.setattr("watchfiles.main.RustNotify", no_watches)
    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks:

            async def change() -> None:
                for number in range(1000):
                    write_files(tmp_path, {"a.md": "x" * number})
                    await anyio.sleep(0.05)

            tasks.start_soon(change)
            async for _ in changes(tmp_path, but=tmp_path / "state"):
                break
            tasks.cancel_scope.cancel()
    assert "watch limit" in caplog.text
