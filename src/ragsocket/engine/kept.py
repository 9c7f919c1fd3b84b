"""The bytes of uploaded files, in a directory of their own, named by their content."""

from __future__ import annotations

import codecs
import hashlib
import os
import secrets
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

from ragsocket.engine.catalog import Bytes
from ragsocket.engine.documents import Kind
from ragsocket.engine.reading.document import Unreadable
from ragsocket.engine.reading.kinds import HEAD_BYTES, kind_of
from ragsocket.errors import RequestError

CHUNK_BYTES = 1024 * 1024
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class KeptBytes:
    """A directory of bytes; every method blocks."""

    def __init__(self, directory: Path) -> None:
        """Name the directory; it is made if missing."""
        self._directory = directory.absolute()
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, content: Bytes) -> Path:
        """Return where bytes are."""
        return self._directory / content.file_name

    def keep(self, content: BinaryIO, name: str) -> Bytes:
        """Copy bytes here, durably; returns what they are.

        Args:
            content: read from where it stands to its end.
            name: of the file; tells one kind of text from another.

        Raises:
            RequestError: they are of a kind that is not read.
        """
        head = content.read(HEAD_BYTES)
        if not head:
            raise RequestError(
                "unsupported_file", "the file is empty: send one with text.", param="file"
            )
        kind = _kind(head, name)
        # A web page says its encoding itself.
        text = codecs.getincrementaldecoder(
            "latin-1" if kind == "html" else "utf-16" if head.startswith(_UTF16) else "utf-8"
        )()
        digest = hashlib.sha256()
        copied = self._directory / f"{secrets.token_hex(8)}.tmp"
        try:
            with copied.open("xb") as copy:
                chunk = head
                while chunk:
                    if kind in ("html", "txt"):
                        _check(chunk, text)
                    digest.update(chunk)
                    copy.write(chunk)
                    chunk = content.read(CHUNK_BYTES)
                if kind in ("html", "txt"):
                    _check(b"", text, last=True)
                copy.flush()
                os.fsync(copy.fileno())
            kept = Bytes(digest.hexdigest(), kind)
            copied.replace(self.path(kept))
        finally:
            copied.unlink(missing_ok=True)
        return kept

    def delete(self, content: Bytes) -> None:
        """Delete bytes; who reads them already can go on."""
        self.path(content).unlink(missing_ok=True)

    def keep_only(self, names: Collection[str]) -> None:
        """Delete what a killed process left behind: all but the bytes of these names."""
        for path in self._directory.iterdir():
            if path.name not in names:
                path.unlink(missing_ok=True)


def _kind(head: bytes, name: str) -> Kind:
    try:
        kind = kind_of(head, name)
    except Unreadable as refusal:
        raise _refusal(str(refusal)) from None
    kinds: dict[str, Kind] = {"pdf": "pdf", "html": "html", "zip": "office"}
    return kinds.get(kind, "txt")


def _check(chunk: bytes, text: codecs.IncrementalDecoder, *, last: bool = False) -> None:
    try:
        if "\0" not in text.decode(chunk, last):
            return
    except UnicodeDecodeError:
        pass
    raise _refusal("is not text in UTF-8")


def _refusal(why: str) -> RequestError:
    return RequestError(
        "unsupported_file",
        f"the file {why}. Text in UTF-8, PDF, Office files, web pages and notebooks are read.",
        param="file",
    )
