"""Writes the generated tables of the documentation from the models they describe.

    python docs/generate.py           writes them into the documents
    python docs/generate.py --check   exits with 1 if a document is out of date

A table stands between `<!-- table NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ragsocket.protocol.chat import CHAT_REFUSED, ChatCompletionCreate
from ragsocket.protocol.client_events import (
    REFUSED,
    Ping,
    ResponseCancel,
    ResponseCreate,
    ResponseResume,
    RetrievalOptions,
)
from ragsocket.protocol.errors import CLOSE_CODES, EVENT_ERRORS, FAILURES, Fact
from ragsocket.protocol.resources import Facts
from ragsocket.protocol.server_events import SERVER_EVENTS
from ragsocket.settings import Settings

ROOT = Path(__file__).parent.parent
DOCUMENTS = (ROOT / "docs" / "protocol.md", ROOT / "docs" / "settings.md")
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


def facts() -> str:
    """What stands in `response.ragsocket`; the meanings are those of the model's docstring."""
    text = Facts.__doc__ or ""
    meanings = dict(re.findall(r"^\s+(\w+): (.+)$", text, re.MULTILINE))
    return table(
        ("field", "meaning"), ([f"`{name}`", meanings[name]] for name in Facts.model_fields)
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


def settings() -> str:
    """Every setting, its environment variable and its default."""
    rows = [
        [f"`RAGSOCKET_{name.upper()}`", f"`{field.default!s}`", field.description or ""]
        for name, field in Settings.model_fields.items()
    ]
    return table(("environment", "default", "meaning"), rows)


TABLES: dict[str, Callable[[], str]] = {
    "create-fields": lambda: classed_fields(ResponseCreate, REFUSED),
    "chat-fields": lambda: classed_fields(ChatCompletionCreate, CHAT_REFUSED),
    "retrieval-fields": lambda: fields_of(RetrievalOptions),
    "cancel-fields": lambda: fields_of(ResponseCancel),
    "resume-fields": lambda: fields_of(ResponseResume),
    "ping-fields": lambda: fields_of(Ping),
    "facts": facts,
    "server-events": server_events,
    "event-errors": lambda: codes(EVENT_ERRORS),
    "failures": lambda: codes(FAILURES),
    "close-codes": close_codes,
    "settings": settings,
}


def generated(text: str) -> str:
    """Return a document with its tables written anew."""
    return TABLE.sub(lambda m: f"{m[1]}{TABLES[m[2]]()}{m[3]}", text)


def main() -> int:
    """Write the documents, or with `--check` say which ones are out of date."""
    stale = []
    for document in DOCUMENTS:
        text = document.read_text()
        if generated(text) != text:
            stale.append(document.name)
            if "--check" not in sys.argv:
                document.write_text(generated(text))
    print("\n".join(stale) or "up to date")  # noqa: T201
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
