"""Writes what is generated from the models: tables of the documents, types of the clients.

    python docs/generate.py           writes them into the documents
    python docs/generate.py --check   exits with 1 if a document is out of date

A table stands between `<!-- table NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from typed_dicts import python_types
from typescript import type_declarations, with_codes

from ragsocket.engine.reading.document import Limits
from ragsocket.engine.reading.kinds import FORMATS
from ragsocket.protocol.chat import CHAT_REFUSED, ChatCompletionCreate
from ragsocket.protocol.client_events import (
    REFUSED,
    Ping,
    ResponseCancel,
    ResponseCreate,
    ResponseResume,
    ResponseSteer,
    RetrievalOptions,
)
from ragsocket.protocol.conversations import ConversationFacts
from ragsocket.protocol.errors import CLOSE_CODES, EVENT_ERRORS, FAILURES, STEER_ERRORS, Fact
from ragsocket.protocol.examples import examples
from ragsocket.protocol.resources import Facts, Feedback
from ragsocket.protocol.server_events import SERVER_EVENTS
from ragsocket.protocol.specification import CLIENT_EVENTS, event_type
from ragsocket.settings import Settings

ROOT = Path(__file__).parent.parent
DOCUMENTS = tuple(ROOT / "docs" / name for name in ("protocol.md", "settings.md", "documents.md"))
TABLE = re.compile(r"(<!-- table ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def field_class(field: FieldInfo) -> str:
    """Return `hint` or `honoured`."""
    extra = field.json_schema_extra
    return "hint" if isinstance(extra, dict) and extra.get("field_class") == "hint" else "honoured"


def classed_fields(model: type[BaseModel], refused: dict[str, str]) -> str:
    """Every field of a request, in its class."""
    rows = [
        [f"`{name}`", field_class(field), field.description or ""]
        for name, field in model.model_fields.items()
    ]
    rows += [[f"`{name}`", "refused", f"{reason}."] for name, reason in refused.items()]
    return table(("field", "class", "meaning"), rows)


def fields_of(model: type[BaseModel]) -> str:
    """The fields of a small model."""
    rows = [[f"`{name}`", field.description or ""] for name, field in model.model_fields.items()]
    return table(("field", "meaning"), rows)


def facts(model: type[BaseModel]) -> str:
    """What stands in a `ragsocket` field; the meanings are those of the model's docstring."""
    text = model.__doc__ or ""
    meanings = dict(re.findall(r"^\s+(\w+): (.+)$", text, re.MULTILINE))
    return table(
        ("field", "meaning"), ([f"`{name}`", meanings[name]] for name in model.model_fields)
    )


def server_events() -> str:
    """Every server event with its fields."""
    rows = []
    for model in SERVER_EVENTS:
        fields = [f"`{name}`" for name in model.model_fields if name != "type"]
        meaning = " ".join((model.__doc__ or "").split("\n\n")[0].split())
        rows.append([f"`{model.model_fields['type'].default}`", meaning, ", ".join(fields)])
    return table(("type", "meaning", "fields"), rows)


def codes(known: dict[str, Fact]) -> str:
    """Error codes and whether to try again."""
    rows = ([f"`{c}`", f.meaning, "yes" if f.retry else "no"] for c, f in known.items())
    return table(("code", "meaning", "retry"), rows)


def close_codes() -> str:
    """Close codes and what to do after each."""
    rows = (
        [
            str(int(code)),
            close.meaning,
            *("yes" if x else "no" for x in (close.retry, close.resume)),
        ]
        for code, close in CLOSE_CODES.items()
    )
    return table(("code", "meaning", "connect again", "answers go on"), rows)


def client_examples() -> str:
    """One example of each client event."""
    return example_block(events_of(CLIENT_EVENTS))


def server_examples() -> str:
    """One example of each server event, with the Response cut short in all but one."""
    short = []
    for event in events_of(SERVER_EVENTS):
        if "response" in event and event["type"] != "response.completed":
            response = event["response"]
            some = {name: response[name] for name in ("id", "status", "error") if response[name]}
            facts = {name: fact for name, fact in response["ragsocket"].items() if fact is not None}
            short.append({**event, "response": {**some, "ragsocket": facts, "…": "…"}})
        else:
            short.append(event)
    return example_block(short)


def events_of(models: Iterable[type[BaseModel]]) -> list[dict[str, Any]]:
    """The examples of these events, in order."""
    known = examples()
    return [known[event_type(model)] for model in models if event_type(model) in known]


def example_block(events: Iterable[dict[str, Any]]) -> str:
    """Examples, each on a line of its own."""
    lines = [json.dumps(event, ensure_ascii=False) for event in events]
    text = "\n".join(lines).replace(', "…": "…"}', ", …}")
    return f"```text\n{text}\n```\n"


def settings() -> str:
    """Every setting, its environment variable and its default."""
    rows = [
        [f"`RAGSOCKET_{name.upper()}`", f"`{field.default!s}`", field.description or ""]
        for name, field in Settings.model_fields.items()
    ]
    return table(("environment", "default", "meaning"), rows)


def formats() -> str:
    """The kinds of files that are read."""
    rows = (
        [f.title, ", ".join(f"`{suffix}`" for suffix in f.suffixes), f.place or "headings alone"]
        for f in FORMATS.values()
    )
    return table(("kind", "suffixes", "a citation names, after the headings"), rows)


def reading_limits() -> str:
    """What reading a file may cost; the meanings are those of the model's docstring."""
    text = " ".join((Limits.__doc__ or "").partition("Attributes:")[2].split())
    meanings = dict(re.findall(r"(\w+): (.+?)(?= \w+: |$)", text))
    rows = (
        [f"`{name}`", meanings[name].rstrip("."), shown(name, value)]
        for name, value in dataclasses.asdict(Limits()).items()
    )
    return table(("limit", "meaning", "value"), rows)


def shown(name: str, value: float) -> str:
    """A limit as people write it."""
    if name.endswith("_bytes"):
        return f"{value // 1024**2:.0f} MiB"
    return f"{value:,}" + (" s" if name.endswith("_s") else "")


TABLES: dict[str, Callable[[], str]] = {
    "create-fields": lambda: classed_fields(ResponseCreate, REFUSED),
    "chat-fields": lambda: classed_fields(ChatCompletionCreate, CHAT_REFUSED),
    "retrieval-fields": lambda: fields_of(RetrievalOptions),
    "cancel-fields": lambda: fields_of(ResponseCancel),
    "steer-fields": lambda: fields_of(ResponseSteer),
    "steer-errors": lambda: codes(STEER_ERRORS),
    "resume-fields": lambda: fields_of(ResponseResume),
    "ping-fields": lambda: fields_of(Ping),
    "facts": lambda: facts(Facts),
    "feedback-fields": lambda: fields_of(Feedback),
    "conversation-facts": lambda: facts(ConversationFacts),
    "server-events": server_events,
    "event-errors": lambda: codes(EVENT_ERRORS),
    "failures": lambda: codes(FAILURES),
    "close-codes": close_codes,
    "client-examples": client_examples,
    "server-examples": server_examples,
    "settings": settings,
    "formats": formats,
    "reading-limits": reading_limits,
}


def generated(text: str) -> str:
    """Return a document with its tables written anew."""
    return TABLE.sub(lambda m: f"{m[1]}{TABLES[m[2]]()}{m[3]}", text)


JAVASCRIPT = ROOT / "clients" / "js"
PYTHON = ROOT / "clients" / "python" / "src" / "ragsocket_client"
WRITTEN: dict[Path, Callable[[str], str]] = {
    **dict.fromkeys(DOCUMENTS, generated),
    JAVASCRIPT / "events.d.ts": lambda _: type_declarations(),
    JAVASCRIPT / "answer.js": with_codes,
    PYTHON / "wire.py": lambda _: python_types(),
}
"""Each generated file, and how its new text comes from its old one."""


def main() -> int:
    """Write the documents, or with `--check` say which ones are out of date."""
    stale = []
    for document, write in WRITTEN.items():
        text = document.read_text() if document.exists() else ""
        written = write(text)
        if written != text:
            stale.append(document.name)
            if "--check" not in sys.argv:
                document.write_text(written)
    print("\n".join(stale) or "up to date")  # noqa: T201
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
