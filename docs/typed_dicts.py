"""Writes the wire's shapes as TypedDicts for the Python client, from the models of the server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from ragsocket.protocol import input_items, resources, server_events
from ragsocket.protocol.client_events import ResponseCreate
from ragsocket.protocol.errors import CLOSE_CODES, EVENT_ERRORS, FAILURES
from ragsocket.protocol.server_events import SERVER_EVENTS

HEAD = '''"""What goes over the wire. Generated from the server's models by docs/generate.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict


class Close(NamedTuple):
    """What a client should do after a close code."""

    meaning: str
    retry: bool
    resume: bool

'''


MODELS: dict[str, type[BaseModel]] = {
    name: model
    for module in (resources, input_items, server_events)
    for name, model in vars(module).items()
    if isinstance(model, type) and issubclass(model, BaseModel)
}


def python_types() -> str:
    """Return the whole module."""
    _, schema = models_json_schema(
        [(model, "serialization") for model in SERVER_EVENTS], ref_template="{model}"
    )
    shapes: dict[str, Any] = schema["$defs"]
    events = " | ".join(model.__name__ for model in SERVER_EVENTS)
    parts = [HEAD]
    parts += [_typed_dict(name, shape) for name, shape in shapes.items()]
    parts += [_ask_fields(), f"ServerEvent = {events}\n"]
    codes = {int(code): tuple(close) for code, close in CLOSE_CODES.items()}
    lines = (
        f"    {code}: Close({meaning!r}, retry={retry}, resume={resume}),\n"
        for code, (meaning, retry, resume) in codes.items()
    )
    parts.append(f"CLOSE_CODES: Mapping[int, Close] = {{\n{''.join(lines)}}}\n")
    known = {**EVENT_ERRORS, **FAILURES}
    retried = sorted(str(code) for code, fact in known.items() if fact.retry)
    parts.append(f"RETRYABLE = frozenset({retried!r})\n")
    return _formatted("\n\n".join(parts))


def _formatted(source: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--stdin-filename", "wire.py", "-"],
        input=source,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def _typed_dict(name: str, shape: dict[str, Any]) -> str:
    """Return a class; a member that may be absent is NotRequired."""
    model = MODELS[name]
    absent = {member for member, field in model.model_fields.items() if field.exclude_if}
    lines = [f"class {name}(TypedDict):", f'    """{_sentence(shape)}"""', ""]
    for member, of in shape.get("properties", {}).items():
        kind = _type(of)
        lines.append(f"    {member}: {f'NotRequired[{kind}]' if member in absent else kind}")
    return "\n".join(lines) + "\n"


def _ask_fields() -> str:
    """Return the fields of an ask that a caller may name beside its input."""
    schema = ResponseCreate.model_json_schema(ref_template="{model}")
    ours = ("type", "event_id", "stream_id", "input", "conversation", "stream")
    lines = [
        "class AskFields(TypedDict, total=False):",
        '    """What an ask may say as well."""',
        "",
    ]
    for member, of in schema["properties"].items():
        if member not in ours:
            lines.append(f"    {member}: {_loose(of)}")
    return "\n".join(lines) + "\n"


def _loose(of: dict[str, Any]) -> str:
    """Return the type of a field of an ask; nested objects are plain mappings."""
    if "$ref" in of:
        return "Mapping[str, Any]"
    if "anyOf" in of:
        return _union(_loose(one) for one in of["anyOf"])
    if of.get("type") == "array":
        return "list[Any]"
    if "oneOf" in of or of.get("type") == "object":
        return "Mapping[str, Any]"
    return _type(of)


def _type(of: dict[str, Any]) -> str:
    if "$ref" in of:
        return str(of["$ref"])
    if "const" in of:
        return f"Literal[{of['const']!r}]"
    if "enum" in of:
        return f"Literal[{', '.join(map(repr, of['enum']))}]"
    for union in ("anyOf", "oneOf"):
        if union in of:
            return _union(_type(one) for one in of[union])
    match of.get("type"):
        case "string":
            return "str"
        case "integer":
            return "int"
        case "number":
            return "float"
        case "boolean":
            return "bool"
        case "null":
            return "None"
        case "array":
            return f"list[{_type(of.get('items', {}))}]"
        case "object":
            more = of.get("additionalProperties")
            return f"dict[str, {_type(more) if isinstance(more, dict) else 'Any'}]"
    return "Any"


def _union(types: Iterable[str]) -> str:
    return " | ".join(dict.fromkeys(types))


def _sentence(shape: dict[str, Any]) -> str:
    text = str(shape.get("description", "")).split("\n\n")[0]
    return " ".join(text.split())
