"""Both clients do what the suite for clients says."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from javascript import JAVASCRIPT
from jsonschema import Draft202012Validator
from suite.drivers import Driver, InProcess, Process
from suite.player import Player
from suite.server import Server

from conformance.channels import Mismatch
from conformance.script import Case, read_cases
from ragsocket.protocol.server_events import SERVER_EVENTS
from ragsocket.protocol.specification import event_type

FOLDER = Path(__file__).parent / "suite"
CASES = read_cases(FOLDER / "cases")
MODELS = {event_type(event): event for event in SERVER_EVENTS}
NUMBERS = itertools.count()
BEGUN: list[dict[str, Any]] = [{"receive": {}}, {"create": "a"}]


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """One loop for the whole suite, since one server runs through it."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Server]:
    """The scripted server."""
    async with Server() as running:
        yield running


CLIENTS = ["python", "javascript"]


@asynccontextmanager
async def driving(client: str) -> AsyncIterator[Driver]:
    """Drive one of the clients until the block ends."""
    if client == "javascript":
        async with Process.running("node", "tests/driver.mjs", cwd=JAVASCRIPT) as program:
            yield program
    else:
        async with InProcess.running() as here:
            yield here


@pytest.fixture(scope="module", params=CLIENTS)
async def driver(request: pytest.FixtureRequest) -> AsyncIterator[Driver]:
    """Each client in its turn."""
    async with driving(request.param) as client:
        yield client


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
async def test_case(case: Case, server: Server, driver: Driver) -> None:
    """The client does what the case says, and the scripted server speaks as the real one does."""
    player = Player(server, driver, case, next(NUMBERS))
    await player.play()
    for event in player.sent:
        if player.was_made(event):
            MODELS[event["type"]].model_validate(event)


@pytest.mark.parametrize("path", sorted((FOLDER / "cases").glob("*.json")), ids=lambda p: p.stem)
def test_the_scripts_keep_to_their_schema(path: Path) -> None:
    """Every file of cases is what the schema says, so that other players can rely on it."""
    schema = json.loads((FOLDER / "schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(json.loads(path.read_text()))


def test_every_case_has_a_name_of_its_own() -> None:
    """An id names one case, whatever file it stands in."""
    ids = [case.id for case in CASES]
    assert len(set(ids)) == len(ids)
    assert len(ids) >= 50
    assert not [id for id in ids if "$" in id]


@pytest.mark.parametrize(
    ("steps", "why"),
    [
        ([{"receive": {"type": "response.cancel"}}], "step 3 .*not .*response.cancel"),
        ([], "nobody expected"),
        ([*BEGUN, {"say": "a", "text": "x"}, {"told": "y"}], "not within"),
        ([*BEGUN, {"end": "a"}, {"ended": "a", "status": "failed"}], "status is"),
    ],
)
@pytest.mark.parametrize("client", CLIENTS)
async def test_a_client_that_does_something_else_is_noticed(
    client: str, steps: list[dict[str, Any]], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that is not met, and a frame that nobody expects, fail the case."""
    monkeypatch.setattr("suite.player.PATIENCE_S", 5)
    begins: list[dict[str, Any]] = [
        {"connect": {}},
        {"accept": "s"},
        {"ask": "a", "input": "Q?", "conversation": "c"},
    ]
    case = Case("wrong", "A wrong case.", (), (*begins, *steps), {})
    # Of its own, since a case that fails leaves behind what was under way.
    async with Server() as server, driving(client) as driver:
        with pytest.raises(Mismatch, match=why):
            await Player(server, driver, case, next(NUMBERS)).play()
