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
from ragsocket.errors import RequestError

CHUNK_BYTES = 1024 * 1024
HEAD_BYTES = 1024


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
            name: of the file; says of a text without a head whether it is a web page.

        Raises:
            RequestError: they are neither a PDF, nor a web page, nor text in UTF-8.
        """
        head = content.read(HEAD_BYTES)
        if not head:
            raise RequestError(
                "unsupported_file", "the file is empty: send one with text.", param="file"
            )
        kind = _kind(head, name)
        # A web page says its encoding itself.
        text = codecs.getincrementaldecoder("utf-8" if kind == "txt" else "latin-1")()
        digest = hashlib.sha256()
        copied = self._directory / f"{secrets.token_hex(8)}.tmp"
        try:
            with copied.open("xb") as copy:
                chunk = head
                while chunk:
                    if kind != "pdf":
                        _check(chunk, text)
                    digest.update(chunk)
                    copy.write(chunk)
                    chunk = content.read(CHUNK_BYTES)
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
    begins = head.removeprefix(codecs.BOM_UTF8).lstrip().lower()
    if begins.startswith(b"%pdf-"):
        return "pdf"
    if begins.startswith((b"<!doctype html", b"<html")):
        return "html"
    return "html" if name.lower().endswith((".html", ".htm")) else "txt"


def _check(chunk: bytes, text: codecs.IncrementalDecoder, *, last: bool = False) -> None:
    try:
        text.decode(chunk, last)
        if b"\0" not in chunk:
            return
    except UnicodeDecodeError:
        pass
    raise RequestError(
        "unsupported_file",
        "the file is neither a PDF, nor a web page, nor text in UTF-8: convert it to one of them.",
        param="file",
    )
