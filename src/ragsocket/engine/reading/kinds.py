"""Which files are read, and how each kind is told: by what is in it, then by its name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from ragsocket.engine.reading.document import Unreadable

HEAD_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of file.

    Attributes:
        title: what people call it.
        suffixes: of the names that are looked at in a folder.
        place: what a citation says beside the headings, in an example.
    """

    title: str
    suffixes: tuple[str, ...]
    place: str


FORMATS = {
    "markdown": Format("Markdown", (".md", ".markdown"), "lines 10-24"),
    "text": Format("text in UTF-8", (".txt", ".text", ".rst", ".adoc"), "lines 10-24"),
    "html": Format("web page", (".html", ".htm", ".xhtml"), ""),
    "pdf": Format("PDF", (".pdf",), "page 3"),
    "docx": Format("Word", (".docx", ".docm"), ""),
    "pptx": Format("PowerPoint", (".pptx", ".pptm"), "slide 2"),
    "xlsx": Format("Excel", (".xlsx", ".xlsm"), "sheet Costs, rows 10-24"),
    "csv": Format("table as text", (".csv", ".tsv"), "rows 10-24"),
    "notebook": Format("Jupyter notebook", (".ipynb",), "cell 4"),
    "json": Format("JSON", (".json",), "lines 10-24"),
    "code": Format(
        "source code and settings",
        (
            *(".py", ".pyi", ".js", ".mjs", ".cjs", ".jsx", ".ts", ".tsx", ".java", ".kt", ".kts"),
            *(".scala", ".c", ".h", ".cc", ".cpp", ".cxx", ".hpp", ".cs", ".go", ".rs", ".swift"),
            *(".rb", ".php", ".pl", ".lua", ".r", ".jl", ".ex", ".exs", ".erl", ".hs", ".ml"),
            *(".clj", ".dart", ".m", ".sh", ".bash", ".zsh", ".ps1", ".sql", ".proto", ".graphql"),
            *(".css", ".scss", ".vue", ".svelte", ".tf", ".yaml", ".yml", ".toml", ".ini"),
            *(".cfg", ".conf", ".properties", ".xml", ".tex"),
        ),
        "lines 10-24",
    ),
}

_BY_SUFFIX = {suffix: kind for kind, format in FORMATS.items() for suffix in format.suffixes}
SUFFIXES = frozenset(_BY_SUFFIX)
# Files whose whole name says what they are.
_BY_NAME = {
    **dict.fromkeys(("readme", "license", "licence", "copying", "notice", "changelog"), "text"),
    **dict.fromkeys(("makefile", "dockerfile", "rakefile", "gemfile", "jenkinsfile"), "code"),
}

_OLD_OFFICE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
# What else may hide behind a name that promises text.
_OTHERS = {
    _OLD_OFFICE: "an Office file that is encrypted or of the old kind: save it without a password, "
    "as .docx, .pptx or .xlsx",
    b"{\\rtf": "rich text (RTF): save it as .docx",
    b"\x89PNG": "a picture (PNG)",
    b"\xff\xd8\xff": "a picture (JPEG)",
    b"GIF8": "a picture (GIF)",
    b"\x1f\x8b": "a compressed file (gzip): unpack it",
    b"BZh": "a compressed file (bzip2): unpack it",
    b"\xfd7zXZ\0": "a compressed file (xz): unpack it",
    b"\x28\xb5\x2f\xfd": "a compressed file (zstd): unpack it",
    b"7z\xbc\xaf\x27\x1c": "an archive (7z): unpack it",
    b"Rar!\x1a": "an archive (RAR): unpack it",
    b"\x7fELF": "a program",
    b"SQLite format 3\0": "a database (SQLite)",
}
_HTML = re.compile(
    rb"(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html)\b", re.S | re.I
)
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def kind_by_name(name: str) -> str | None:
    """Return the kind that a file's name promises; None for those that are not looked at."""
    path = PurePosixPath(name.lower())
    return _BY_SUFFIX.get(path.suffix) or _BY_NAME.get(path.stem if path.suffix else path.name)


def kind_of(head: bytes, name: str) -> str:
    """Return the kind of a file, a key of FORMATS or `zip` for what only its parts can tell.

    Args:
        head: its first HEAD_BYTES.
        name: tells one kind of text from another.

    Raises:
        Unreadable: it is of another kind.
    """
    if b"%PDF-" in head[:1024]:
        return "pdf"
    if head.startswith(_ZIP):
        return "zip"
    for magic, what in _OTHERS.items():
        if head.startswith(magic):
            raise Unreadable(f"is {what}")
    if b"\0" in head and not head.startswith(_UTF16):
        raise Unreadable("is binary data, not text")
    if _HTML.match(head.removeprefix(b"\xef\xbb\xbf").lstrip()):
        return "html"
    kind = kind_by_name(name) or "text"
    return "text" if kind in ("pdf", "docx", "pptx", "xlsx") else kind
