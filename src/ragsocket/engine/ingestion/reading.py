"""Finds the documents of a folder and reads their text, through LlamaIndex's directory reader."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bs4 import BeautifulSoup
from bs4.element import NavigableString
from llama_index.core import SimpleDirectoryReader
from llama_index.core.readers.base import BaseReader
from llama_index.core.schema import Document
from pypdf import PdfReader

TEXT_SUFFIXES = frozenset({".md", ".markdown", ".txt"})
HTML_SUFFIXES = frozenset({".html", ".htm"})
SUFFIXES = TEXT_SUFFIXES | HTML_SUFFIXES | {".pdf"}

_FURNITURE = ["script", "style", "nav", "header", "footer", "aside", "noscript", "template", "svg"]
_BLOCKS = ["p", "div", "section", "article", "main", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol"]
_BLOCKS += ["dl", "table", "blockquote", "pre", "figure", "hr"]
_LINES = ["li", "dt", "dd", "tr"]


class Unreadable(Exception):
    """A file that cannot be taken in; the message is the reason, in a few words."""


@dataclass
class Listing:
    """The files of a folder, paths relative to it with `/`.

    Attributes:
        files: what can be read, in order of path.
        refused: path and reason of what lies there but is not followed.
        others: how many files of other kinds were passed over, by suffix.
    """

    files: list[tuple[str, Path]] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)


def list_folder(root: Path) -> Listing:
    """List a folder and the folders in it; names that begin with a dot are passed over.

    Symbolic links are followed to files inside the folder only; others are refused.
    """
    root = root.resolve()
    listing = Listing()
    for folder, folders, names in os.walk(root, onerror=lambda e: _refuse(listing, root, e)):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted([*names, *(d for d in folders if Path(folder, d).is_symlink())]):
            path = Path(folder, name)
            relative = path.relative_to(root).as_posix()
            if name.startswith("."):
                continue
            if path.is_symlink():
                target = path.resolve()
                if not target.is_relative_to(root):
                    listing.refused.append((relative, "symbolic link that leaves the folder"))
                    continue
                if not target.is_file():
                    continue  # a folder inside is listed where it stands
            if path.suffix.lower() not in SUFFIXES:
                listing.others[path.suffix.lower() or "no suffix"] += 1
            elif path.is_file():
                listing.files.append((relative, path))
    listing.files.sort()
    return listing


def _refuse(listing: Listing, root: Path, error: OSError) -> None:
    path = Path(error.filename or root)
    listing.refused.append((path.relative_to(root).as_posix(), error.strerror or "unreadable"))


def read_file(path: Path) -> list[Document]:
    """Read one file: a PDF as one document per page with text, anything else as one document.

    The metadata carries `page` (from 1) for a PDF and nothing else; no dates, so that touching a
    file changes nothing.

    Raises:
        Unreadable: it is broken, encrypted, not text, or has none.
    """
    # One warning per file about readers for kinds of files that are not taken in anyway.
    logging.getLogger("llama_index.core.readers.file.base").setLevel(logging.ERROR)
    try:
        documents = SimpleDirectoryReader.load_file(
            path,
            file_metadata=lambda _: {},
            file_extractor={
                ".pdf": _PdfPages(),
                **dict.fromkeys(HTML_SUFFIXES, _HtmlText()),
            },
            encoding="utf-8-sig",
            errors="strict",
            raise_on_error=True,
        )
    except UnicodeDecodeError as error:
        raise Unreadable(f"not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise Unreadable(error.strerror or "cannot be read") from error
    except Exception as error:
        # The directory reader wraps whatever a file's reader raised.
        cause = error.__cause__ or error
        if isinstance(cause, Unreadable):
            raise cause from None
        raise Unreadable(f"broken file ({type(cause).__name__})") from error
    documents = [document for document in documents if document.text.strip()]
    if not documents:
        raise Unreadable("has no text")
    if any("\0" in document.text for document in documents):
        raise Unreadable("binary data, not text")
    return documents


class _PdfPages(BaseReader):
    def lazy_load_data(
        self, file: Path, extra_info: dict[str, Any] | None = None
    ) -> Iterator[Document]:
        with file.open("rb") as stream:
            reader = PdfReader(stream)
            if reader.is_encrypted and not reader.decrypt(""):
                raise Unreadable("encrypted PDF")
            for number, page in enumerate(reader.pages, 1):
                # Fonts without a proper table yield characters that no encoding can carry.
                text = page.extract_text().replace("\0", "").encode(errors="replace").decode()
                yield Document(text=text, metadata={"page": number})


class _HtmlText(BaseReader):
    def lazy_load_data(
        self, file: Path, extra_info: dict[str, Any] | None = None
    ) -> Iterator[Document]:
        yield Document(text=html_text(file.read_bytes()), metadata={})


def html_text(content: bytes) -> str:
    """Return the readable text of a web page: its title, then one line per block.

    Scripts, styles, navigation, page headers and footers and asides are left out; a header inside
    an article or the main part belongs to the text.
    """
    soup = BeautifulSoup(content, "html.parser")
    title = " ".join(soup.title.get_text().split()) if soup.title else ""
    if soup.head:
        soup.head.decompose()
    for tag in soup.find_all(_FURNITURE):
        if not tag.decomposed and not (
            tag.name in ("header", "footer") and tag.find_parent(["article", "main"])
        ):
            tag.decompose()
    for string in soup.find_all(string=True):
        if type(string) is not NavigableString:
            string.extract()  # comments, doctype, CDATA
        elif not string.find_parent("pre"):
            string.replace_with(re.sub(r"\s+", " ", string))
    for names, gap in ((_BLOCKS, "\n\n"), (_LINES, "\n")):
        for tag in soup.find_all(names):
            tag.insert_before(gap)
            tag.insert_after(gap)
    # In front alone: end tags of cells may be missing, and a line break has none.
    for names, gap in ((["td", "th"], " "), (["br"], "\n")):
        for tag in soup.find_all(names):
            tag.insert_before(gap)
    lines = [line.strip() for line in soup.get_text().splitlines()]
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
    return text if not title or text.startswith(title) else f"{title}\n\n{text}".strip()
