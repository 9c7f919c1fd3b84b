"""The wire as documents that machines read: JSON Schema, and AsyncAPI 3 for the two sockets.

Both are made of the models that the server itself validates and writes with.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from ragsocket.protocol.client_events import AnyClientEvent
from ragsocket.protocol.examples import examples
from ragsocket.protocol.server_events import SERVER_EVENTS, Hello

CLIENT_EVENTS: tuple[type[BaseModel], ...] = get_args(AnyClientEvent)

SOCKETS = {
    "conversation": (
        "/ws",
        "Each lane keeps a conversation of its own: an ask that names no history goes on with it.",
    ),
    "responses": (
        "/v1/responses",
        "The standard's meaning: nothing is remembered unless an ask names its history.",
    ),
}
"""The sockets: their names in the document, and of each the address and what it is for."""


def event_type(event: type[BaseModel]) -> str:
    """Return the `type` that an event has on the wire."""
    name: str = event.model_fields["type"].default
    return name


@cache
def _schemas(reference: str) -> tuple[dict[type[BaseModel], dict[str, Any]], dict[str, Any]]:
    """Return the schema of each event, and every definition, with references in a given form."""
    wanted: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        *((event, "validation") for event in CLIENT_EVENTS),
        *((event, "serialization") for event in SERVER_EVENTS),
    ]
    named, document = models_json_schema(wanted, ref_template=reference)
    definitions: dict[str, Any] = _plain(document["$defs"])
    for event in CLIENT_EVENTS:
        # The model has a default for it; a frame without it is no event.
        schema = definitions[event.__name__]
        schema["required"] = sorted({*schema.get("required", ()), "type"})
    return {event: named[event, mode] for event, mode in wanted}, definitions


def _plain(part: Any) -> Any:
    """Return a schema without OpenAPI's hint at the tag of a union, which is no JSON Schema."""
    if isinstance(part, list):
        return [_plain(one) for one in part]
    if isinstance(part, dict):
        return {name: _plain(one) for name, one in part.items() if name != "discriminator"}
    return part


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of every frame; `$defs` has `ClientEvent` and `ServerEvent`."""
    events, definitions = _schemas("#/$defs/{model}")
    either = {
        "ClientEvent": [events[event] for event in CLIENT_EVENTS],
        "ServerEvent": [events[event] for event in SERVER_EVENTS],
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "ragsocket",
        "description": "One frame, either way. A frame is one JSON object.",
        "anyOf": [{"$ref": f"#/$defs/{name}"} for name in either],
        "$defs": {**definitions, **{name: {"oneOf": forms} for name, forms in either.items()}},
    }


def asyncapi(version: str, host: str = "127.0.0.1:8000") -> dict[str, Any]:
    """Return the AsyncAPI document of the sockets.

    Args:
        version: the server's.
        host: its host and port.
    """
    events, definitions = _schemas("#/components/schemas/{model}")
    return {
        "asyncapi": "3.1.0",
        "id": "urn:ragsocket",
        "info": {
            "title": "ragsocket",
            "version": version,
            "description": "Answers from documents, streamed over a WebSocket and stopped at "
            "will: the Responses protocol, and a few events of its own (`ragsocket:…`).",
            "license": {"name": "MIT"},
            "contact": {"name": "whoever runs this server"},
            "tags": [{"name": "questions", "description": "Asking, stopping, following."}],
        },
        "defaultContentType": "application/json",
        "servers": {
            "here": {"host": host, "protocol": "ws", "description": "This server."},
        },
        "channels": {
            name: {
                "address": address,
                "title": address,
                "description": meaning,
                "servers": [{"$ref": "#/servers/here"}],
                "messages": _references("#/components/messages", (*CLIENT_EVENTS, *_sent(address))),
                "bindings": {"ws": {"method": "GET", "bindingVersion": "0.1.0"}},
            }
            for name, (address, meaning) in SOCKETS.items()
        },
        "operations": {
            f"{name}.{action}": {
                "action": action,
                "channel": {"$ref": f"#/channels/{name}"},
                "title": f"{who} on {address}",
                "summary": summary,
                "description": f"{summary} One event per text frame.",
                "messages": [
                    {"$ref": f"#/channels/{name}/messages/{event.__name__}"} for event in said
                ],
            }
            for name, (address, _) in SOCKETS.items()
            for action, who, summary, said in (
                ("receive", "Client events", "What clients say.", CLIENT_EVENTS),
                ("send", "Server events", "What the server says.", _sent(address)),
            )
        },
        "components": {
            "messages": {
                event.__name__: _message(event, events[event])
                for event in (*CLIENT_EVENTS, *SERVER_EVENTS)
            },
            "schemas": definitions,
        },
    }


def _sent(address: str) -> tuple[type[BaseModel], ...]:
    """Return what the server says on a socket; only `/ws` greets."""
    return tuple(event for event in SERVER_EVENTS if event is not Hello or address == "/ws")


def _references(place: str, events: Iterable[type[BaseModel]]) -> dict[str, Any]:
    return {event.__name__: {"$ref": f"{place}/{event.__name__}"} for event in events}


def _message(event: type[BaseModel], schema: dict[str, Any]) -> dict[str, Any]:
    text = " ".join((event.__doc__ or "").split("\n\n")[0].split())
    example = examples().get(event_type(event))
    return {
        "name": event_type(event),
        "title": event_type(event),
        "summary": text,
        "contentType": "application/json",
        "payload": schema,
        "examples": [{"name": event.__name__, "payload": example}] if example else [],
    }
