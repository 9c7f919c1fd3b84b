"""Several servers on one Postgres: whose responses are left over, and who ends them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio
import pytest
from test_history import answered, commit, question

from harness import PATIENCE_S, beside
from postgres import Postgres
from ragsocket.errors import StaleOwner
from ragsocket.protocol.resources import OutputMessage, OutputText, Response
from ragsocket.responses import leases
from ragsocket.responses.history import History, Record
from ragsocket.responses.leases import AdvisoryLocks, Left, OneProcess, key_of


@pytest.fixture
def shared(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty Postgres database, looked at more often than people would."""
    monkeypatch.setattr(leases, "GRACE_S", 0.3)
    monkeypatch.setattr(leases, "BEAT_S", 0.05)
    monkeypatch.setattr(AdvisoryLocks, "look_again_s", 0.05)
    return postgres.fresh()


async def ended(history: History, response_id: str) -> Record:
    """Wait until the end of a response is stored."""
    with anyio.fail_after(PATIENCE_S):
        while True:
            record = await history.get(response_id, owner="local")
            if record is not None and record.last_number is not None:
                return record
            await anyio.sleep(0.02)


@asynccontextmanager
async def running(database: str, lease: str, response_id: str) -> AsyncIterator[History]:
    """A server in whose hands a response is."""
    async with History.open(database, lease=lease) as history:
        history.accept(answered(response_id, ""), question("q"), owner="local")
        await history.settled()
        yield history


async def backends(database: str, sql: str) -> None:
    """Run SQL that is about the connections of others."""
    async with beside(database) as connection:
        await connection.exec_driver_sql(sql)


async def test_only_what_a_lost_server_began_is_ended(shared: str) -> None:
    """One server ends while another answers: the first one's rows end, the other's go on."""
    async with running(shared, "one", "r1"):
        pass
    async with running(shared, "two", "r2") as two, History.open(shared, lease="three") as three:
        lost = await ended(three, "r1")
        assert lost.response.ragsocket.reason == "worker_lost"
        assert lost.response.status == "incomplete"
        # Longer than a lock may be free.
        for _ in range(3):
            await three._end_lost()
            await anyio.sleep(leases.GRACE_S / 2)
        await commit_again(two, "r2")
        assert (await ended(three, "r2")).response.status == "completed"


async def commit_again(history: History, response_id: str) -> None:
    """End a response that was accepted."""
    await history.commit(
        answered(response_id, "a"), question("q"), owner="local", last_number=9, moves_head=False
    )


async def test_a_running_server_ends_what_another_leaves(shared: str) -> None:
    """Nobody has to start: the row of a server that is gone ends soon after."""
    async with History.open(shared, lease="two") as two:
        async with running(shared, "one", "r1"):
            pass
        assert (await ended(two, "r1")).response.ragsocket.reason == "worker_lost"


async def test_of_two_that_race_one_ends_it(shared: str) -> None:
    """Whoever ends a row is told so; of several at once, one is."""
    told: list[str] = []

    class Everything(OneProcess):
        async def ended(self, response: Response, last_number: int) -> None:
            told.append(response.id)

    async with running(shared, "one", "r1"):
        pass
    async with anyio.create_task_group() as tasks:

        async def start(lease: str) -> None:
            async with History.open(shared, lease=lease, leases=Everything()):
                pass

        for n in range(6):
            tasks.start_soon(start, f"l{n}")
    assert told == ["r1"]


async def test_a_lock_is_taken_again(shared: str) -> None:
    """A connection that Postgres cut is made anew, and its server's responses go on."""
    async with running(shared, "one", "r1") as one, History.open(shared, lease="two") as two:
        for _ in range(3):
            await backends(
                shared,
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'",
            )
            await held(shared, "one", "two")
        await anyio.sleep(leases.GRACE_S * 1.5)
        await commit_again(one, "r1")
        assert (await ended(two, "r1")).response.status == "completed"


async def held(database: str, *names: str) -> None:
    """Wait until these leases are held."""
    keys = {key_of(name) for name in names}
    with anyio.fail_after(PATIENCE_S):
        while True:
            async with beside(database) as connection:
                rows = await connection.execute(leases._HELD)
                if keys <= set(rows.scalars()):
                    return
            await anyio.sleep(0.02)


async def test_a_restart_of_postgres_ends_nothing(shared: str, postgres: Postgres) -> None:
    """All locks are gone with it; every server takes its own again, and ends its answers."""
    async with running(shared, "one", "r1") as one, running(shared, "two", "r2") as two:
        await anyio.to_thread.run_sync(postgres.restart)
        await held(shared, "one", "two")
        await anyio.sleep(leases.GRACE_S * 1.5)
        await commit_again(one, "r1")
        await commit_again(two, "r2")
        for response_id in ("r1", "r2"):
            assert (await ended(one, response_id)).response.status == "completed"


async def test_a_server_that_was_taken_for_lost_stores_nothing(shared: str) -> None:
    """Its row ended `worker_lost`, and stays so; what it still has to say is refused."""
    async with running(shared, "one", "r1") as one:
        async with History.open(shared, lease="two", leases=OneProcess()):
            pass
        with pytest.raises(StaleOwner):
            await commit_again(one, "r1")
        await commit(one, answered("r2", "a"), "q")
        assert (await ended(one, "r1")).response.ragsocket.reason == "worker_lost"


async def test_others_may_know_more_of_leases(database: str) -> None:
    """Who lives and what was told can come from elsewhere; both are asked for, and kept."""
    told: list[tuple[str, int]] = []

    class Elsewhere:
        look_again_s = 0.02
        dead: Sequence[str] = ()

        async def gone(self, leases: frozenset[str]) -> frozenset[str]:
            return leases & set(self.dead)

        async def left(self, response_id: str) -> Left | None:
            part = OutputText(text="so far")
            return Left((OutputMessage(id="m", status="incomplete", content=(part,)),), 7)

        async def ended(self, response: Response, last_number: int) -> None:
            told.append((response.id, last_number))

    elsewhere = Elsewhere()
    async with History.open(database, lease="one", leases=elsewhere) as one:
        one.accept(answered("r1", ""), question("q"), owner="local")
        async with History.open(database, lease="two", leases=elsewhere) as two:
            two.accept(answered("r2", ""), question("q"), owner="local")
        assert (await one.get("r2", owner="local")).last_number is None  # type: ignore[union-attr]
        elsewhere.dead = ("two",)
        record = await ended(one, "r2")
        assert record.last_number == 7
        assert [turn.text for turn in await one.turns("r2", owner="local")] == ["q", "so far"]
        assert (await one.get("r1", owner="local")).last_number is None  # type: ignore[union-attr]
    assert told == [("r2", 7)]
