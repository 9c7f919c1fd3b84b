"""A folder of documents for measuring: every kind, many sizes and depths, some broken.

The same numbers make the same folder, but for the instants in archives.
"""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

BROKEN = 0.05
MEDIAN_BYTES = 2500
LONGEST_BYTES = 200_000
DEPTH = 6

WORDS = (
    "hut warden spring autumn ridge path rope stove soup bread price euro night guest member rule "
    "dog cat key door snow storm bridge river lake stone wood water map sign bed blanket lamp "
    "course guide winter summer track fence cow sheep valley summit cairn rescue radio report "
    "minutes meeting chair vote budget cost repair roof window wall paint season open closed"
).split()


@dataclass(frozen=True)
class Made:
    """What was written.

    Attributes:
        files: how many files.
        broken: how many of them cannot be read.
        size: bytes of all files together.
    """

    files: int
    broken: int
    size: int


def make_folder(root: Path, count: int, seed: int = 7) -> Made:
    """Write so many files below a folder."""
    chance = random.Random(seed)
    broken = size = 0
    for number in range(count):
        suffix, write = chance.choices(KINDS, WEIGHTS)[0]
        length = min(LONGEST_BYTES, int(MEDIAN_BYTES * chance.lognormvariate(0, 1)))
        content = write(_paragraphs(chance, number, max(200, length)))
        if chance.random() < BROKEN:
            broken += 1
            suffix, content = _break(chance, suffix, content)
        folders = [
            f"{chance.choice(WORDS)}-{chance.randrange(8)}" for _ in range(chance.randrange(DEPTH))
        ]
        path = root.joinpath(*folders, f"{number:05}{suffix}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        size += len(content)
    return Made(count, broken, size)


def _paragraphs(chance: random.Random, number: int, length: int) -> list[str]:
    """Return paragraphs, the first of which has a word that no other file has."""
    found = [f"Document number {number} has the mark m{number}x."]
    while length > 0:
        words = chance.choices(WORDS, k=chance.randrange(40, 120))
        for at in range(9, len(words), 10):
            words[at] += "."
        found.append(" ".join(words).capitalize() + f" See {chance.randrange(10**6)}.")
        length -= len(found[-1])
    return found


def _break(chance: random.Random, suffix: str, content: bytes) -> tuple[str, bytes]:
    ways: list[tuple[str, bytes]] = [
        (suffix, b""),
        (".txt", b"\xff\xfe\xfa" + content),
        (".md", b"\x89PNG\r\n" + content),
        (".docx", content[: len(content) // 2]),
        (".pdf", b"%PDF-1.7\n" + content[:100]),
        (".ipynb", b'{"cells": ['),
    ]
    return chance.choice(ways)


def _markdown(paragraphs: list[str]) -> bytes:
    blocks = []
    for n, paragraph in enumerate(paragraphs):
        blocks += [f"{'##' if n else '#'} Section {n}", paragraph]
    return "\n\n".join(blocks).encode()


def _html(paragraphs: list[str]) -> bytes:
    inside = "".join(f"<h2>Section {n}</h2><p>{p}</p>" for n, p in enumerate(paragraphs))
    return f"<!doctype html><title>Page</title><body><nav>Menu</nav>{inside}</body>".encode()


def _csv(paragraphs: list[str]) -> bytes:
    rows = [f'{n},"{p[:80]}",{len(p)}' for n, p in enumerate(paragraphs)]
    return "\n".join(["number,text,cost", *rows]).encode()


def _code(paragraphs: list[str]) -> bytes:
    parts = [
        f'def section_{n}():\n    """{p[:70]}"""\n    return {n}\n'
        for n, p in enumerate(paragraphs)
    ]
    return "\n\n".join(parts).encode()


def _notebook(paragraphs: list[str]) -> bytes:
    cells = [{"cell_type": "markdown", "source": p, "metadata": {}} for p in paragraphs]
    return json.dumps({"cells": cells, "nbformat": 4}).encode()


def _zipped(parts: dict[str, str]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return out.getvalue()


def _word(paragraphs: list[str]) -> bytes:
    space = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    inside = "".join(f"<w:p><w:r><w:t>{p}</w:t></w:r></w:p>" for p in paragraphs)
    return _zipped(
        {
            "_rels/.rels": '<Relationships><Relationship Id="d" Target="word/document.xml"/>'
            "</Relationships>",
            "word/document.xml": f'<w:document xmlns:w="{space}"><w:body>{inside}</w:body>'
            "</w:document>",
        }
    )


def _pdf(paragraphs: list[str]) -> bytes:
    """Return a PDF with one paragraph a page, at most twenty."""
    pages = [" ".join(p.split()) for p in paragraphs[:20]]
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for n, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET"
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * n} 0 R"
            " /Resources << /Font << /F1 3 0 R >> >> >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    out, offsets = "%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n"
    xref = len(out)
    out += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n"
    out += "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    out += f"trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{xref}\n%%EOF\n"
    return out.encode("ascii")


KINDS: list[tuple[str, Callable[[list[str]], bytes]]] = [
    (".md", _markdown),
    (".txt", lambda paragraphs: "\n\n".join(paragraphs).encode()),
    (".html", _html),
    (".pdf", _pdf),
    (".docx", _word),
    (".csv", _csv),
    (".py", _code),
    (".ipynb", _notebook),
    (".json", lambda paragraphs: json.dumps(paragraphs, indent=1).encode()),
]
WEIGHTS = (30, 20, 12, 8, 10, 6, 8, 3, 3)
