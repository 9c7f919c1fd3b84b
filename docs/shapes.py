"""What the generators of both clients' types ask of the server's models."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from ragsocket.protocol.errors import EVENT_ERRORS, FAILURES
from ragsocket.protocol.resources import Wire
from ragsocket.protocol.server_events import SERVER_EVENTS

RETRIED = sorted(str(code) for code, fact in {**EVENT_ERRORS, **FAILURES}.items() if fact.retry)
"""Codes of errors after which the same may work later."""


def said() -> dict[str, Any]:
    """Return the schema of every server event, and of all that stands in one, by its name."""
    _, schema = models_json_schema(
        [(model, "serialization") for model in SERVER_EVENTS], ref_template="{model}"
    )
    shapes: dict[str, Any] = schema["$defs"]
    return shapes


def left_out(name: str) -> set[str]:
    """Return the members of a shape that are not there when they say nothing."""
    model = next(one for one in _models(Wire) if one.__name__ == name)
    return {member for member, field in model.model_fields.items() if field.exclude_if}


def sentence(shape: dict[str, Any]) -> str:
    """Return the first sentence or two that describe a shape, in one line."""
    return " ".join(str(shape.get("description", "")).split("\n\n")[0].split())


def one_of(kinds: Iterable[str]) -> str:
    """Return what is one of some kinds; both languages write it so."""
    return " | ".join(dict.fromkeys(kinds))


def _models(base: type[BaseModel]) -> Iterable[type[BaseModel]]:
    for model in base.__subclasses__():
        yield model
        yield from _models(model)
