"""The documents that machines read: JSON Schema and AsyncAPI, made of the models."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from jsonschema import Draft202012Validator

from harness import Served, serving
from ragsocket import __version__
from ragsocket.protocol import examples as examples_module
from ragsocket.protocol.decode import decode
from ragsocket.protocol.examples import examples
from ragsocket.protocol.server_events import SERVER_EVENTS
from ragsocket.protocol.specification import CLIENT_EVENTS, asyncapi, event_type, json_schema
from upstream import Script, Upstream

JAVASCRIPT = Path(__file__).parent / "js"
CLIENT_TYPES = {event_type(event) for event in CLIENT_EVENTS}
SERVER_TYPES = {event_type(event) for event in SERVER_EVENTS}


async def parsed(*documents: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what the official parser says of each of some AsyncAPI documents."""
    modules = JAVASCRIPT / "node_modules" / "@asyncapi"
    assert modules.exists(), "run `make setup`: npm's @asyncapi/parser is missing"
    with anyio.fail_after(60):
        done = await anyio.run_process(
            ["node", str(JAVASCRIPT / "asyncapi.mjs")], input=json.dumps(documents).encode()
        )
    said: list[dict[str, Any]] = json.loads(done.stdout)
    return said


async def test_the_official_parser_finds_nothing_to_say(served: Served) -> None:
    """AsyncAPI as it is served has no error, warning or hint; one that is wrong is noticed."""
    async with served.http() as http:
        document = (await http.get("/asyncapi.json")).json()
    wrong = asyncapi("1")
    wrong["operations"]["responses.send"]["channel"] = {"$ref": "#/channels/nowhere"}
    of_ours, of_wrong = await parsed(document, wrong)
    assert of_ours == {"messages": len(CLIENT_EVENTS) + len(SERVER_EVENTS), "found": []}
    assert of_wrong["found"]
    assert document["servers"]["here"]["host"] == served.address
    assert document["info"]["version"] == __version__


def test_the_command_prints_the_document(tmp_path: Path) -> None:
    """`ragsocket asyncapi` prints it, whatever the settings are."""
    done = subprocess.run(
        [sys.executable, "-m", "ragsocket", "asyncapi"],
        capture_output=True,
        check=True,
        cwd=tmp_path,
        env={"RAGSOCKET_PORT": "abc", "PYTHONPATH": str(Path(__file__).parents[1] / "src")},
    )
    assert json.loads(done.stdout) == asyncapi(__version__)


async def test_the_schema_is_served(served: Served) -> None:
    """`/schema.json` is a JSON Schema of every frame, by the name of its direction."""
    async with served.http() as http:
        answer = await http.get("/schema.json")
    assert answer.headers["content-type"] == "application/schema+json"
    schema = answer.json()
    Draft202012Validator.check_schema(schema)
    assert schema == json_schema()
    assert len(schema["$defs"]["ClientEvent"]["oneOf"]) == len(CLIENT_EVENTS)
    assert len(schema["$defs"]["ServerEvent"]["oneOf"]) == len(SERVER_EVENTS)


@pytest.mark.parametrize("kind", sorted(CLIENT_TYPES | SERVER_TYPES))
def test_every_event_has_an_example_that_fits(kind: str) -> None:
    """Each event has one example, and the schema of its direction takes it."""
    assert kind in examples(), f"add an example of {kind} to {examples_module.__name__}"
    example = examples()[kind]
    direction = "ClientEvent" if kind in CLIENT_TYPES else "ServerEvent"
    schema = {**json_schema(), "anyOf": [{"$ref": f"#/$defs/{direction}"}]}
    Draft202012Validator(schema).validate(example)
    assert not Draft202012Validator(schema).is_valid({**example, "type": "response.nothing"})
    if kind in CLIENT_TYPES:
        assert decode(json.dumps(example)).type == kind


def test_there_is_no_example_of_what_is_not_there() -> None:
    """An event that was taken out takes its example along."""
    assert set(examples()) == CLIENT_TYPES | SERVER_TYPES


@pytest.mark.parametrize(
    ("examples_per_door", "phases"),
    [
        ("5", "examples,fuzzing"),
        pytest.param(
            "150",
            "examples,coverage,fuzzing,stateful",
            marks=(pytest.mark.soak, pytest.mark.timeout(1_800)),
        ),
    ],
    ids=["quick", "long"],
)
async def test_http_is_what_its_description_says(
    examples_per_door: str, phases: str, upstream: Upstream, state: Path, tmp_path: Path
) -> None:
    """Whatever schemathesis sends: no 5xx, no status, type or shape that is not described."""
    upstream.default = Script(tokens=("At ", "7:40 [1]."))
    async with serving(state, upstream=upstream) as served:
        checks = (
            "not_a_server_error",
            "status_code_conformance",
            "content_type_conformance",
            "response_schema_conformance",
        )
        command = [
            *(sys.executable, "-m", "schemathesis.cli", "run"),
            f"http://{served.address}/openapi.json",
            *("--max-examples", examples_per_door, "--phases", phases),
            *("--checks", ",".join(checks), "--request-timeout", "20", "--seed", "3"),
        ]
        done = await anyio.run_process(command, cwd=tmp_path, check=False, stderr=subprocess.STDOUT)
    said = done.stdout.decode()
    assert done.returncode == 0, said
    assert re.search(r"[1-9][0-9]* passed", said), said


async def test_the_longest_question_fits_into_an_address(served: Served) -> None:
    """5,000 characters pass in whatever alphabet, and one more is refused in words."""
    path = "/stream-question/"
    async with served.http() as http:
        answer = await http.get(path, params={"query_text": "\U0001f600" * 5_000})
        assert answer.status_code == 200
        assert answer.headers["X-Response-Id"]
        refused = await http.get(path, params={"query_text": "\U0001f600" * 5_001})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "query_text"
    assert "5000" in refused.json()["error"]["message"]
