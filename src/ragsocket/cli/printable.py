"""Keeps what others wrote from steering the terminal."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

# C0 and C1 without newline and tab, and DEL: every terminal command begins with one of them.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """Return text without control characters; newlines and tabs stay.

    Works on any piece of a text, since no character depends on its neighbours.
    """
    return _CONTROLS.sub("", text)


def one_line(text: str) -> str:
    """Return text without control characters, with every run of white space as one space."""
    return " ".join(printable(text).split())


def without_secrets(url: str) -> str:
    """Return a URL without user, password and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
