"""The suite passes against this server, and notices a server that does not keep to it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from conformance.channels import Channel, Message, Mismatch
from conformance.player import Player, check_order
from conformance.script import FOLDER, Case, filled, misfit, read_cases
from harness import index, serving
from ragsocket.protocol.server_events import SERVER_EVENTS
from ragsocket.protocol.specification import event_type
from upstream import Upstream

CASES = read_cases()
MODELS = {event_type(event): event for event in SERVER_EVENTS}


@dataclass
class UnderTest:
    """The server under test, and the model's server at its back."""

    client: httpx.AsyncClient
    upstream: Upstream


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """One loop for the whole suite, since one server runs through it."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="module")
async def under_test(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[UnderTest]:
    """One server over the suite's two documents, started as README.md says."""
    state = tmp_path_factory.mktemp("conformance")
    index(FOLDER / "documents", state)
    async with (
        Upstream() as upstream,
        serving(state, upstream=upstream, detach_grace_s=1, token_timeout_s=3) as served,
        served.http() as client,
    ):
        yield UnderTest(client, upstream)


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
async def test_case(case: Case, under_test: UnderTest) -> None:
    """The server does what the case says, in events that its schema describes."""
    player = Player(under_test.client, under_test.upstream, case)
    await player.play()
    for channel in player.channels.values():
        for message in channel.seen:
            if isinstance(message.value, dict) and "type" in message.value:
                MODELS[message.value["type"]].model_validate(message.value)


@pytest.mark.parametrize("path", sorted((FOLDER / "cases").glob("*.json")), ids=lambda p: p.stem)
def test_the_scripts_keep_to_their_schema(path: Path) -> None:
    """Every file of cases is what the schema says, so that other runners can rely on it."""
    schema = json.loads((FOLDER / "schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(json.loads(path.read_text()))


def test_every_case_has_a_name_of_its_own() -> None:
    """An id names one case, whatever file it stands in; there are as many as the README says."""
    ids = [case.id for case in CASES]
    assert len(set(ids)) == len(ids)
    assert len(ids) >= 120
    assert not [id for id in ids if "$" in id]


def fits(pattern: Any, value: Any) -> bool:
    """True if a value fits a pattern."""
    return misfit(pattern, value, {}) is None


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, {"a": 2}),
        ({"a": 1}, {"a": 1.0}, {"a": True}),
        ([1, 2], [1, 2], [1, 2, 3]),
        ({"a": None}, {"a": None}, {}),
        ({"a": {"$any": True}}, {"a": 0}, {"a": None}),
        ({"a": {"$absent": True}}, {}, {"a": None}),
        ({"$has": "b"}, "abc", "ac"),
        ({"$starts": "a"}, "abc", "bc"),
        ({"$at_least": 2}, 2, 1),
        ({"$length": 1}, ["x"], []),
        ({"$one_of": [1, {"$has": "x"}]}, "xy", 2),
        ({"$not": 1}, 2, 1),
        ({"$some": [1, {"$at_least": 3}]}, [0, 1, 2, 3], [3, 1]),
        ({"$every": {"a": 1}}, [{"a": 1}], [{"a": 1}, {}]),
        ({"$keep": "x", "$is": {"a": 1}}, {"a": 1}, {"a": 2}),
    ],
)
def test_a_pattern_fits_what_it_says(pattern: Any, yes: Any, no: Any) -> None:
    """Each operator takes what it should, and refuses something else."""
    assert fits(pattern, yes)
    assert not fits(pattern, no)


def test_names_stand_for_what_was_found() -> None:
    """A name keeps its type, and is kept only if the whole pattern fits."""
    names: dict[str, Any] = {}
    assert misfit({"id": {"$keep": "r"}, "n": 1}, {"id": "x", "n": 2}, names) is not None
    assert names == {}
    assert misfit({"id": {"$keep": "r"}, "n": {"$keep": "n"}}, {"id": "x", "n": 2}, names) is None
    assert filled({"a": "${n}", "b": "/${r}/${n}", "c": "${later}"}, names) == {
        "a": 2,
        "b": "/x/2",
        "c": "${later}",
    }


@pytest.mark.parametrize(
    ("step", "why"),
    [
        ({"expect": {"type": "response.completed"}}, "step 2 .*not .*response.completed"),
        ({"until": {"type": "error"}, "without": [{"type": "response.completed"}]}, "before it"),
        ({"models": 7}, "it is [01], not 7"),
        ({"closed": 4400}, "it is 1000, not 4400"),
    ],
)
async def test_a_server_that_does_something_else_is_noticed(
    step: dict[str, Any], why: str, under_test: UnderTest
) -> None:
    """A step that is not met fails the case, names the step and says what came."""
    steps: list[dict[str, Any]] = [
        {"open": "a", "path": "/v1/responses"},
        {"send": {"type": "response.create", "input": "When does the ferry leave?"}},
        {"close": "a"} if "closed" in step else step,
        step,
    ]
    case = Case("wrong", "A wrong case.", (), tuple(steps), {})
    with pytest.raises(Mismatch, match=why):
        await Player(under_test.client, under_test.upstream, case).play()


@pytest.mark.parametrize(
    ("numbers", "ends"),
    [((0, 1, 1), ()), ((0, 2, 1), ()), ((0, 1, 2), (1,)), ((0, 1, 2), (1, 2))],
)
def test_events_out_of_order_are_noticed(numbers: tuple[int, ...], ends: tuple[int, ...]) -> None:
    """A number that does not rise and an event after the end fail every case."""
    good = Channel(seen=[numbered(0), numbered(1), *2 * [numbered(2, end=True)]])
    check_order("a", good)
    bad = Channel(seen=[numbered(n, end=n in ends) for n in numbers])
    with pytest.raises(Mismatch):
        check_order("a", bad)


def numbered(number: int, *, end: bool = False) -> Message:
    """One event of a response."""
    kind = "response.completed" if end else "response.in_progress"
    response: dict[str, Any] = {"id": "resp_1", "output": []}
    return Message({"type": kind, "sequence_number": number, "response": response})
