"""What `ragsocket doctor` looks at. Each check returns what it found, or raises `Wrong`."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anyio

from ragsocket.cli.printable import without_secrets
from ragsocket.engine.models.choice import local_model
from ragsocket.errors import ConfigError
from ragsocket.settings import Settings

OLDEST_PYTHON = (3, 11)
OLDEST_PACKAGES = {"uvicorn": "0.52.1", "websockets": "16"}
"""The packages whose older versions work at first and fail under load."""

LEAST_DISK_BYTES = 200 * 1024 * 1024
ANSWER_WITHIN_S = 5.0
OWNER = "local"

Check = Callable[[Settings], str]


class Wrong(Exception):
    """Something must be mended.

    Attributes:
        text: what was found.
        fix: what to do about it, a sentence.
    """

    def __init__(self, text: str, fix: str) -> None:
        super().__init__(text)
        self.text = text
        self.fix = fix


def python() -> str:
    """Look at the interpreter."""
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < OLDEST_PYTHON:
        raise Wrong(found, "Install Python 3.11 or newer and set ragsocket up with it.")
    return found


def packages() -> str:
    """Look at the versions of what carries the sockets."""
    found = {name: version(name) for name in OLDEST_PACKAGES}
    text = ", ".join(f"{name} {number}" for name, number in found.items())
    for name, oldest in OLDEST_PACKAGES.items():
        if _numbers(found[name]) < _numbers(oldest):
            raise Wrong(text, f"Install {name} {oldest} or newer.")
    return text


def state_directory(settings: Settings) -> str:
    """Try to write where index and conversations are kept."""
    directory = settings.state_dir
    there = _nearest(directory)
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise Wrong(
            f"{directory} cannot be written to ({error.strerror})",
            "Make it a directory that this user may write to, or name another with --state-dir "
            "(RAGSOCKET_STATE_DIR).",
        ) from error
    return f"{directory} can be written to" if there == directory else f"{directory} can be made"


def disk(settings: Settings) -> str:
    """Look at the space that is left for index and conversations."""
    free = shutil.disk_usage(_nearest(settings.state_dir)).free
    text = f"{free / 1024**3:.1f} GiB free"
    if free < LEAST_DISK_BYTES:
        raise Wrong(text, "Make room, or name a directory on another disk with --state-dir.")
    return text


def engine(settings: Settings) -> str:
    """Load what answers questions."""
    try:
        importlib.import_module("ragsocket.engine.compose")
    except ImportError as error:
        raise Wrong(f"cannot be loaded ({error})", "Install ragsocket anew.") from error
    return f"LlamaIndex {version('llama-index-core')} loads"


def documents(settings: Settings) -> str:
    """Look for documents that can be read."""
    folder = settings.data
    if folder is None:
        return "no folder is named; --data or RAGSOCKET_DATA would"
    if not folder.is_dir():
        raise Wrong(
            f"{folder} is not a folder", "Make it, or name another with --data (RAGSOCKET_DATA)."
        )
    from ragsocket.engine.reading.folder import list_folder
    from ragsocket.engine.reading.kinds import FORMATS

    listing = list_folder(folder, settings.state_dir)
    unreadable = [
        *(name for name, path in listing.files if not os.access(path, os.R_OK)),
        *(name for name, _ in listing.refused),
    ]
    if unreadable:
        more = f" and {len(unreadable) - 1} more" if len(unreadable) > 1 else ""
        raise Wrong(
            f"{unreadable[0]}{more} in {folder} cannot be read",
            "Make it readable for this user, or take it out of the folder.",
        )
    if not listing.files:
        suffixes = ", ".join(format.suffixes[0] for format in FORMATS.values())
        raise Wrong(f"{folder} holds no documents", f"Put some there: {suffixes}, …")
    return f"{len(listing.files)} in {folder}"


def index(settings: Settings) -> str:
    """Open the index as a server does."""
    from ragsocket.engine.index import Index

    async def look() -> tuple[int, int]:
        opened = Index(settings.index_path)
        try:
            await opened.open()
            return opened.revision, opened.snapshot(OWNER).passages
        finally:
            opened.close()

    revision, passages = anyio.run(look)
    if revision:
        return f"revision {revision}, {passages} passages"
    if settings.data is None:
        raise Wrong(
            "there is none, and no folder to make it from",
            "Name one with --data (RAGSOCKET_DATA), or run: ragsocket ingest DIR.",
        )
    return "none yet; the first start makes it"


def history(settings: Settings) -> str:
    """Open the conversations' database as it is, and change nothing.

    Raises:
        ConfigError: its URL or its tables cannot be used; the message names the fix.
    """
    from sqlalchemy import func, select
    from sqlalchemy.exc import SQLAlchemyError

    from ragsocket.responses import schema
    from ragsocket.responses.database import RESPONSES, connect, parsed, reaching, shown

    url = parsed(settings.history_url)
    place = shown(url)
    if url.drivername.startswith("sqlite") and not Path(str(url.database)).exists():
        return f"{place} is made at the first start"

    async def look() -> tuple[schema.Schema, int]:
        found = await schema.look(url)
        found.check(url)
        if found.state == "empty":
            return found, 0
        opened = connect(url, timeout_s=ANSWER_WITHIN_S)
        try:
            async with opened.connect() as connection:
                counted = await connection.scalar(select(func.count()).select_from(RESPONSES))
                return found, counted or 0
        finally:
            await opened.dispose()

    try:
        with reaching():
            found, answers = anyio.run(look)
    except (SQLAlchemyError, OSError) as error:
        reason = getattr(error, "orig", None) or error
        fix = (
            "Move the file away, or name another with RAGSOCKET_DATABASE_URL."
            if url.drivername.startswith("sqlite")
            else "Start that Postgres, or correct RAGSOCKET_DATABASE_URL."
        )
        raise Wrong(f"{place} cannot be opened ({reason})", fix) from error
    if found.state == "empty":
        return f"{place} is empty; its tables are made at the first start"
    if found.state == "newest":
        return f"{answers} answers in {place}, tables of revision {found.revision}"
    return (
        f"{answers} answers in {place}, tables of revision {found.revision or schema.FIRST}; "
        f"the next start brings them to {schema.NEWEST}, so make a backup before"
    )


def model(settings: Settings) -> str:
    """Look whether a model here can be run, or ask its server whether it has it.

    Raises:
        ConfigError: it cannot be run here.
    """
    url, name = settings.llm_url, settings.llm_model
    if (local := local_model(settings)) is not None:
        return f"{local.name}, on this machine"
    if url is None or name in (None, "none"):
        return "none; answers are extracts from the documents"
    key = settings.llm_api_key.get_secret_value() if settings.llm_api_key else None
    listed = _ask(f"{url.rstrip('/')}/models", key, "RAGSOCKET_LLM_URL")
    try:
        names = [str(entry["id"]) for entry in listed["data"]]
    except (KeyError, TypeError) as error:
        raise Wrong(
            f"{without_secrets(url)} lists no models as OpenAI-compatible servers do",
            "Correct RAGSOCKET_LLM_URL.",
        ) from error
    if name not in names and f"{name}:latest" not in names:
        raise Wrong(
            f"{without_secrets(url)} has no model {name!r}",
            f"It has {', '.join(names[:10]) or 'none'}: name one with --llm-model "
            "(RAGSOCKET_LLM_MODEL).",
        )
    return f"{name} at {without_secrets(url)}"


def embeddings(settings: Settings) -> str:
    """Embed a word."""
    from ragsocket.engine.ingestion import BuiltInEmbed, choose_embedding

    chosen = choose_embedding(settings)
    if chosen is None:
        return "none; words decide alone"
    if isinstance(chosen, BuiltInEmbed):
        return f"{chosen.built_in}, built in"
    body = {"model": chosen.model, "input": ["ragsocket"], "encoding_format": "float"}
    url = f"{chosen.url.rstrip('/')}/embeddings"
    answer = _ask(url, chosen.api_key, "RAGSOCKET_EMBED_URL", body)
    try:
        dimensions = len(answer["data"][0]["embedding"])
    except (KeyError, IndexError, TypeError) as error:
        raise Wrong(
            f"{without_secrets(chosen.url)} sends no vectors as OpenAI-compatible servers do",
            "Correct RAGSOCKET_EMBED_URL or RAGSOCKET_EMBED_MODEL.",
        ) from error
    return f"{chosen.model} at {without_secrets(chosen.url)}, {dimensions} dimensions"


def port(settings: Settings) -> str:
    """Try to listen, or find out who does."""
    from ragsocket.cli.listening import bound, dialled

    try:
        with bound(settings.host, settings.port):
            pass
    except ConfigError:
        try:
            alive = _ask(f"http://{dialled(settings.host, settings.port)}/healthz", None, "")
            there = alive["version"] if alive["status"] == "alive" else None
        except (Wrong, KeyError, TypeError):
            there = None
        if there is None:
            raise
        return f"ragsocket {there} already listens on {settings.host}:{settings.port}"
    return f"{settings.host}:{settings.port} is free"


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    # A redirect would carry the key to wherever it points.
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _ask(url: str, key: str | None, setting: str, body: object = None) -> Any:
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    # No proxies, as the engine's own clients have none.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects)
    place = without_secrets(url)
    try:
        request = urllib.request.Request(url, data, headers)
        with opener.open(request, timeout=ANSWER_WITHIN_S) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (401, 403):
            raise Wrong(
                f"{place} refuses the key ({error.code})",
                "Set RAGSOCKET_LLM_API_KEY to a valid one.",
            ) from error
        raise Wrong(
            f"{place} answers with status {error.code}",
            f"Correct {setting}; it usually ends in /v1.",
        ) from error
    except (OSError, ValueError) as error:
        if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
            raise Wrong(f"{place} does not answer in JSON", f"Correct {setting}.") from error
        reason = getattr(error, "reason", error)
        raise Wrong(
            f"{place} cannot be reached ({getattr(reason, 'strerror', None) or reason})",
            f"Start that server, or correct {setting}.",
        ) from error


def _nearest(directory: Path) -> Path:
    """The directory itself, or the closest one above it that exists."""
    return next(p for p in (directory, *directory.absolute().parents) if p.exists())


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())
