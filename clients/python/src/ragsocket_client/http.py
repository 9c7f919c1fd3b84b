"""The few requests that do not go over the socket, by the standard library, in a thread."""

from __future__ import annotations

import asyncio
import json
import secrets
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any

from ragsocket_client.errors import ConnectionLost, RagsocketError, RateLimited, kind_of

TIMEOUT_S = 60.0


async def request(
    url: str,
    *,
    method: str = "GET",
    body: Mapping[str, Any] | None = None,
    file: Path | None = None,
    fields: Mapping[str, str] | None = None,
    token: str | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Any:
    """Ask, and return the JSON of the answer.

    Args:
        url: where.
        method: of HTTP.
        body: sent as JSON.
        file: sent as multipart, with `fields` beside it.
        fields: see `file`.
        token: who asks.
        timeout_s: how long the server may be silent.

    Raises:
        ConnectionLost: nothing answers there.
        RagsocketError: the server refuses, and says why.
    """
    asked = await asyncio.to_thread(_prepared, url, method, body, file, fields or {}, token)
    return await asyncio.to_thread(_answer, asked, timeout_s)


def _prepared(
    url: str,
    method: str,
    body: Mapping[str, Any] | None,
    file: Path | None,
    fields: Mapping[str, str],
    token: str | None,
) -> urllib.request.Request:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    data = None
    if file is not None:
        boundary = secrets.token_hex(16)
        headers["Content-Type"] = f"multipart/form-data; boundary={boundary}"
        data = _multipart(file, fields, boundary)
    elif body is not None:
        headers["Content-Type"] = "application/json"
        data = json.dumps(body).encode()
    return urllib.request.Request(url, data=data, headers=headers, method=method)


def _answer(asked: urllib.request.Request, timeout_s: float) -> Any:
    try:
        with urllib.request.urlopen(asked, timeout=timeout_s) as answer:
            # Cut off in its headers an answer has no length, and ends where the connection did:
            # then what there is of it is no JSON.
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            raise _refusal(error) from None
    except (OSError, ValueError, HTTPException) as error:
        raise ConnectionLost(f"{asked.full_url} cannot be asked: {error}") from error


def _refusal(error: urllib.error.HTTPError) -> RagsocketError:
    status, retry_after = error.code, error.headers.get("Retry-After")
    try:
        detail = json.loads(error.read())["error"]
        message, code, param = detail["message"], detail["code"], detail["param"]
    except (OSError, ValueError, HTTPException, KeyError, TypeError):
        message, code, param = f"the server answered {status}", "", None
    if status == 429:
        wait = float(retry_after) if retry_after and retry_after.isdecimal() else None
        return RateLimited(message, retry_after=wait, code=code)
    return kind_of(status)(message, code=code, param=param)


def _multipart(file: Path, fields: Mapping[str, str], boundary: str) -> bytes:
    name = file.name.replace("\\", "_").replace('"', "%22").replace("\r", "").replace("\n", "")
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
        for key, value in fields.items()
    ]
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
    parts += [
        f"{head}Content-Type: application/octet-stream\r\n\r\n".encode(),
        file.read_bytes(),
        f"\r\n--{boundary}--\r\n".encode(),
    ]
    return b"".join(parts)
