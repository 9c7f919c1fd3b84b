"""Writes what the JavaScript client knows of the wire, from the models of the server."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from ragsocket.protocol.client_events import ResponseCreate
from ragsocket.protocol.errors import CLOSE_CODES, EVENT_ERRORS, FAILURES
from ragsocket.protocol.resources import Wire
from ragsocket.protocol.server_events import SERVER_EVENTS

HEAD = """/// <reference lib="esnext.disposable" />
/** What goes over the wire. Generated from the server's models by docs/generate.py. */
"""
BY_THE_CLIENT = ("type", "event_id", "stream_id", "input", "conversation", "include", "stream")
"""Fields of an ask that are the client's own business."""

CODES = re.compile(r"(// codes: .*?\n).*?(// end\n)", re.DOTALL)


def type_declarations() -> str:
    """Return `events.d.ts`: every server event with its resources, and the fields of an ask."""
    _, said = models_json_schema(
        [(model, "serialization") for model in SERVER_EVENTS], ref_template="{model}"
    )
    asked = ResponseCreate.model_json_schema(ref_template="{model}Input")
    fields = {name: of for name, of in asked["properties"].items() if name not in BY_THE_CLIENT}
    used: dict[str, Any] = {}
    _collect(fields, asked["$defs"], used)
    parts = [HEAD]
    parts += [_interface(name, of, _always(name, of)) for name, of in said["$defs"].items()]
    parts += [_interface(f"{name}Input", of, _needed(of)) for name, of in used.items()]
    extra = {"description": "What an ask may say beside its input.", "properties": fields}
    parts.append(_interface("AskFields", extra, set()))
    parts.append(
        "/** An event of the server; there may be others, which you can pass by. */\n"
        "export type ServerEvent =\n"
        + "".join(f"  | {model.__name__}\n" for model in SERVER_EVENTS).rstrip()
        + ";\n"
    )
    return "\n".join(parts)


def with_codes(script: str) -> str:
    """Return the client's source with the tables of codes written anew."""
    comes_back = "".join(
        f"  {int(code)}: {'true' if close.retry else 'false'}, // {close.meaning}\n"
        for code, close in CLOSE_CODES.items()
    )
    known = {**EVENT_ERRORS, **FAILURES}
    retried = "".join(f'  "{code}",\n' for code in sorted(known) if known[code].retry)
    table = (
        "/**\n * Whether to connect again after a close code; others below 4000 are accidents.\n"
        " *\n * @type {Record<number, boolean>}\n */\n"
        f"export const COMES_BACK = {{\n{comes_back}}};\n"
        "/** Codes of errors after which the same may work later. */\n"
        f"const RETRYABLE = new Set([\n{retried}]);\n"
    )
    return CODES.sub(lambda found: found[1] + table + found[2], script)


def _always(name: str, of: dict[str, Any]) -> set[str]:
    """Return the members of a shape that are never left out."""
    model = next(one for one in _models(Wire) if one.__name__ == name)
    absent = {member for member, field in model.model_fields.items() if field.exclude_if}
    return set(of.get("properties", ())) - absent


def _needed(of: dict[str, Any]) -> set[str]:
    """Return the members that an ask must give; a constant says which shape it is."""
    constant = {member for member, shape in of.get("properties", {}).items() if "const" in shape}
    return constant | set(of.get("required", ()))


def _models(base: type[BaseModel]) -> Iterable[type[BaseModel]]:
    for model in base.__subclasses__():
        yield model
        yield from _models(model)


def _interface(name: str, of: dict[str, Any], always: set[str]) -> str:
    lines = []
    if "description" in of:
        lines.append(f"/** {_sentence(of['description'])} */")
    lines.append(f"export interface {name} {{")
    for member, shape in of.get("properties", {}).items():
        if "description" in shape:
            lines.append(f"  /** {_sentence(shape['description'])} */")
        lines.append(f"  {member}{'' if member in always else '?'}: {_type(shape)};")
    return "\n".join([*lines, "}", ""])


def _sentence(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split()).replace("*/", "* /")


def _type(of: dict[str, Any]) -> str:
    if "$ref" in of:
        return str(of["$ref"])
    if "const" in of:
        return _literal(of["const"])
    if "enum" in of:
        return _union(map(_literal, of["enum"]))
    for union in ("anyOf", "oneOf"):
        if union in of:
            return _union(_type(one) for one in of[union])
    match of.get("type"):
        case "integer" | "number":
            return "number"
        case "string" | "boolean" | "null" as plain:
            return str(plain)
        case "array":
            if of.get("maxItems") == 0:
                return "never[]"
            item = _type(of.get("items", {}))
            return f"({item})[]" if " " in item else f"{item}[]"
        case "object":
            more = of.get("additionalProperties")
            return f"Record<string, {_type(more) if isinstance(more, dict) else 'unknown'}>"
        case _:
            return "unknown"


def _literal(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else f'"{value}"'


def _union(kinds: Iterable[str]) -> str:
    return " | ".join(dict.fromkeys(kinds))


def _collect(shape: Any, known: dict[str, Any], used: dict[str, Any]) -> None:
    """Add the definitions that a shape refers to, and those that they refer to."""
    if isinstance(shape, list):
        for one in shape:
            _collect(one, known, used)
    elif isinstance(shape, dict):
        name = str(shape.get("$ref", "")).removesuffix("Input")
        if name in known and name not in used:
            used[name] = known[name]
            _collect(known[name], known, used)
        for one in shape.values():
            _collect(one, known, used)
