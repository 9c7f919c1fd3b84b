"""The database is shut down, restarted, paused, locked, made read-only and full under a server."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
from sqlalchemy import text

from harness import PATIENCE_S, Event, Served, Talk, beside, serving, until, written
from postgres import Between, Postgres
from upstream import Request, Script, Upstream

GATED = Script(tokens=("One ", "two ", "three."), gated=True)
FERRY = "When does the ferry to Holm leave?"


@pytest.fixture
def fresh(postgres: Postgres) -> Iterator[str]:
    """An empty Postgres database; the server under it runs again afterwards."""
    yield postgres.fresh()
    postgres.start()


async def missing(served: Served) -> dict[str, str]:
    """What `/readyz` says is missing; `/healthz` always answers."""
    async with served.http() as http:
        assert (await http.get("/healthz")).status_code == 200
        answer = await http.get("/readyz")
    found: dict[str, str] = answer.json()["missing"]
    assert answer.status_code == (503 if found else 200)
    return found


async def recovered(served: Served) -> None:
    """Wait until the server is ready again."""
    with anyio.fail_after(PATIENCE_S):
        while await missing(served):
            await anyio.sleep(0.05)


async def finished(database: str) -> dict[str, str]:
    """The ends that are stored, by the ids of their responses."""
    async with beside(database) as connection:
        rows = await connection.execute(text("SELECT id, response FROM responses WHERE finished"))
        return {row.id: row.response for row in rows}


async def closing(served: Served) -> None:
    """Wait until the end of every answer that runs is being stored."""
    await until(lambda: all(run.closing for run in served.runner._unfinished))


async def the_rest(talk: Talk, request: Request) -> Event:
    """Let the model say the rest; return the terminal event's response."""
    request.release(3)
    response: Event = (await talk.terminal())["response"]
    return response


async def assert_goes_on(talk: Talk, database: str, *, from_: str | None) -> None:
    """Ask, on a socket that was open all the time; the answer is stored and goes on from there."""
    end = (await talk.answer("And dogs?"))[-1]["response"]
    assert end["status"] == "completed"
    assert end["previous_response_id"] == from_
    assert end["id"] in await finished(database)


async def test_a_restart_in_mid_answer_is_not_noticed(
    state: Path, upstream: Upstream, postgres: Postgres, fresh: str
) -> None:
    """The answer streams on, its end is stored, and the next question goes on from it."""
    upstream.queue(GATED)
    async with (
        serving(state, upstream=upstream, database_url=fresh) as served,
        served.talk() as talk,
    ):
        id, request = await written(talk, upstream)
        await anyio.to_thread.run_sync(postgres.restart)
        assert (await the_rest(talk, request))["status"] == "completed"
        assert await missing(served) == {}
        await assert_goes_on(talk, fresh, from_=id)


async def test_shut_down_and_started_while_an_end_waits(
    state: Path, upstream: Upstream, postgres: Postgres, fresh: str
) -> None:
    """An end that cannot be stored yet is stored when Postgres is back within the deadline."""
    upstream.queue(GATED)
    async with (
        serving(state, upstream=upstream, database_url=fresh, commit_timeout_s=20) as served,
        served.talk() as talk,
    ):
        id, request = await written(talk, upstream)
        await anyio.to_thread.run_sync(postgres.stop)
        request.release(3)
        await closing(served)
        assert "history" in await missing(served)
        await anyio.to_thread.run_sync(postgres.start)
        assert (await talk.terminal())["response"]["status"] == "completed"
        await assert_goes_on(talk, fresh, from_=id)


@pytest.mark.parametrize("how", ["stop", "pause"])
async def test_away_for_longer_than_the_deadline(
    state: Path, upstream: Upstream, postgres: Postgres, fresh: str, how: str
) -> None:
    """Shut down or paused: the answer fails, all says so, and all is well when it is back."""
    upstream.queue(GATED)
    async with (
        serving(state, upstream=upstream, database_url=fresh, commit_timeout_s=0.5) as served,
        served.talk() as talk,
        served.http() as http,
    ):
        first = (await talk.recv())["conversation"]
        _, request = await written(talk, upstream)
        hurt, mend = {
            "stop": (postgres.stop, postgres.start), "pause": (postgres.pause, postgres.resume)
        }[how]  # fmt: skip
        await anyio.to_thread.run_sync(hurt)
        try:
            end = await the_rest(talk, request)
            assert (end["status"], end["ragsocket"]["code"]) == ("failed", "history_unavailable")
            assert "history" in await missing(served)
            for path in (f"/v1/conversations/{first}", "/v1/responses/resp_0"):
                answer = await http.get(path)
                assert answer.status_code == 503
                assert answer.json()["error"]["code"] == "history_unavailable"
        finally:
            await anyio.to_thread.run_sync(mend)
        await recovered(served)
        assert await finished(fresh) == {}
        await assert_goes_on(talk, fresh, from_=None)


async def test_a_lock_that_is_given_back_in_time(
    state: Path, upstream: Upstream, database: str
) -> None:
    """A slow database delays the end of an answer, and nothing of it before."""
    upstream.queue(GATED)
    async with (
        serving(state, upstream=upstream, database_url=database) as served,
        served.talk() as talk,
    ):
        id, request = await written(talk, upstream)
        await served.runner.history.settled()
        async with beside(database, locking=True):
            request.release(3)
            await closing(served)
        assert (await talk.terminal())["response"]["status"] == "completed"
        await assert_goes_on(talk, database, from_=id)


async def test_made_read_only(
    state: Path, upstream: Upstream, postgres: Postgres, fresh: str
) -> None:
    """As after a fail-over: answers cannot be stored, which is said, until it is undone."""
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid != pg_backend_pid()"

    def turn(state: str) -> None:
        # Even for whoever may not write: this is how it is given back.
        allow = "SET default_transaction_read_only = off;"
        forbid = f"ALTER DATABASE postgres SET default_transaction_read_only = {state};"
        postgres.sql(f"{allow} {forbid} {cut}", fresh)

    async with (
        serving(state, upstream=upstream, database_url=fresh, commit_timeout_s=1) as served,
        served.talk() as talk,
    ):
        await anyio.to_thread.run_sync(turn, "on")
        end = (await talk.answer(FERRY))[-1]["response"]
        assert end["ragsocket"]["code"] == "history_unavailable"
        assert "history" in await missing(served)
        await anyio.to_thread.run_sync(turn, "off")
        await recovered(served)
        await assert_goes_on(talk, fresh, from_=None)


async def test_cut_before_it_says_that_an_end_is_stored(
    state: Path, upstream: Upstream, postgres: Postgres, fresh: str
) -> None:
    """It was stored, so it is told as stored, and it is stored once."""
    upstream.queue(GATED)
    async with (
        Between(postgres, fresh) as between,
        serving(state, upstream=upstream, database_url=between.url) as served,
        served.talk() as talk,
    ):
        id, request = await written(talk, upstream)
        await served.runner.history.settled()
        between.then = "cut"
        end = await the_rest(talk, request)
        assert between.kept.is_set()
        assert end["status"] == "completed"
        await assert_goes_on(talk, fresh, from_=id)


async def test_silent_when_it_should_say_that_an_end_is_stored(
    state: Path, upstream: Upstream, postgres: Postgres, fresh: str
) -> None:
    """It was stored, but the client had to be told that it is not: then it is not."""
    upstream.queue(GATED)
    async with (
        Between(postgres, fresh) as between,
        serving(state, upstream=upstream, database_url=between.url, commit_timeout_s=1) as served,
        served.talk() as talk,
    ):
        _, request = await written(talk, upstream)
        await served.runner.history.settled()
        between.then = "silent"
        request.release(3)
        await between.kept.wait()
        end = (await talk.terminal())["response"]
        assert end["ragsocket"]["code"] == "history_unavailable"
        await recovered(served)
        assert await finished(fresh) == {}
        await assert_goes_on(talk, fresh, from_=None)


@contextmanager
def full_disk(file: Path) -> Iterator[None]:
    """Let no file of this process grow beyond what this one has, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_full_disk(state: Path, upstream: Upstream) -> None:
    """A SQLite file that cannot grow: the answer fails, which is said, until there is room."""
    async with serving(state, upstream=upstream) as served, served.talk() as talk:
        first = (await talk.answer("x" * 200_000))[-1]["response"]
        upstream.queue(GATED)
        _, request = await written(talk, upstream)
        await served.runner.history.settled()
        with full_disk(state / "history.sqlite3-wal"):
            end = await the_rest(talk, request)
            assert (end["status"], end["ragsocket"]["code"]) == ("failed", "history_unavailable")
            assert "history" in await missing(served)
            async with served.http() as http:
                assert (await http.get(f"/v1/responses/{first['id']}")).json() == first
        assert await missing(served) == {}
        database = f"sqlite:///{state / 'history.sqlite3'}"
        assert set(await finished(database)) == {first["id"]}
        await assert_goes_on(talk, database, from_=first["id"])
