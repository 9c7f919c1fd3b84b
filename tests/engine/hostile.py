"""A folder of files that were made to hang, flood or fool whoever reads them.

`make_hostile` writes it anew each time, so that nothing of the kind lies in the repository.
"""

from __future__ import annotations

import io
import json
import os
import socket
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from material import make_pdf, write_files
from pypdf import PdfReader, PdfWriter

from ragsocket.engine.reading.document import Limits

MIB = 1024 * 1024
WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
SHEET = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
SLIDE = "http://schemas.openxmlformats.org/presentationml/2006/main"
REFERENCES = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
SECRET = "zebra"
DEEP_PAGE = "<div>" * 300_000

MAGIC = {
    "png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "jpeg": b"\xff\xd8\xff\xe0\0\x10JFIF",
    "gif": b"GIF89a\1\0\1\0",
    "gzip": b"\x1f\x8b\x08\0\0\0\0\0",
    "bzip2": b"BZh91AY&SY",
    "xz": b"\xfd7zXZ\0\0\4",
    "zstd": b"\x28\xb5\x2f\xfd\0\0",
    "7z": b"7z\xbc\xaf\x27\x1c\0\4",
    "rar": b"Rar!\x1a\x07\1\0",
    "elf": b"\x7fELF\2\1\1\0",
    "sqlite": b"SQLite format 3\0\x10\0",
    "ole": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504),
    "rtf": b"{\\rtf1\\ansi words}",
}


@dataclass(frozen=True)
class Hostile:
    """What a folder holds, by name relative to it.

    Attributes:
        root: the folder; beside it lies `outside`, with a secret.
        refused: names that must be refused.
        harmless: names that look dangerous and must go in.
    """

    root: Path
    refused: frozenset[str]
    harmless: frozenset[str]


def make_hostile(where: Path, limits: Limits, *, slow: bool = False) -> Hostile:
    """Write the folder.

    Args:
        where: below this.
        limits: floods are a little larger than these allow.
        slow: with files that take as long as they may.
    """
    root = where / "hostile"
    refused: dict[str, str | bytes] = {}
    for made in (_texts, _mislabelled, _pdfs, _archives, _office, _structured):
        refused.update(made(limits))
    harmless = dict(_harmless())
    if slow:
        refused.update(_slow())
    write_files(root, refused)
    write_files(root, harmless)
    odd = _odd_files(where, root)
    return Hostile(root, frozenset(refused) | frozenset(odd), frozenset(harmless))


def _texts(limits: Limits) -> Iterator[tuple[str, str | bytes]]:
    yield "text/zero.txt", b""
    yield "text/zero.pdf", b""
    yield "text/zero.docx", b""
    yield "text/blank.md", b" \n\t\n" * 1000
    yield "text/nul.txt", b"words\0words"
    yield "text/nul-late.txt", b"words " * 2000 + b"\0"
    yield "text/latin-1.txt", "Gr\u00fc\u00dfe".encode("latin-1")
    yield "text/utf-16-unsaid.txt", "words".encode("utf-16-le")
    yield "text/utf-16-cut.txt", "words".encode("utf-16")[:-1]
    yield "text/utf-32.txt", "words".encode("utf-32")
    yield "text/surrogate.txt", b"\xed\xa0\x80 alone"
    yield "text/overlong.txt", b"\xc0\xaf\xc0\xaf"
    yield "text/half-a-sign.txt", "words \u2615".encode()[:-1]
    yield "text/noise.md", bytes(range(256)) * 64
    yield "text/controls.txt", b"\x01\x02\x03\x04" * 100
    yield "text/flood.txt", b"x" * (limits.text_bytes + MIB)


def _mislabelled(limits: Limits) -> Iterator[tuple[str, str | bytes]]:
    for kind, magic in MAGIC.items():
        for suffix in ("txt", "pdf", "docx", "csv"):
            yield f"mislabelled/{kind}.{suffix}", magic


def pdf_of(*objects: str | bytes) -> bytes:
    """Return a PDF of numbered objects, the first of which is its root."""
    out, offsets = bytearray(b"%PDF-1.7\n"), []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        content = body.encode() if isinstance(body, str) else body
        out += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    xref = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (
        len(objects) + 1,
        xref,
    )
    return bytes(out)


def pdf_with(content: bytes, filters: str = "", resources: str = "") -> bytes:
    """Return a PDF of one page with this content stream."""
    filtered = f"/Filter {filters} " if filters else ""
    stream = f"<< /Length {len(content)} {filtered}>>\nstream\n".encode() + content + b"\nendstream"
    return pdf_of(
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] /Contents 4 0 R"
        f" /Resources << {resources} >> >>",
        stream,
    )


def _pdfs(limits: Limits) -> Iterator[tuple[str, str | bytes]]:
    catalog = "<< /Type /Catalog /Pages 2 0 R >>"
    good = make_pdf(["Some words."])
    yield "pdf/head-alone.pdf", b"%PDF-1.7\n"
    yield "pdf/nothing.pdf", b"%PDF-1.7\nnothing of the kind"
    yield "pdf/cut.pdf", good[:120]
    yield "pdf/no-pages.pdf", pdf_of("<< /Type /Catalog >>")
    yield "pdf/empty-tree.pdf", pdf_of(catalog, "<< /Type /Pages /Kids [] /Count 0 >>")
    yield "pdf/tree-of-itself.pdf", pdf_of(catalog, "<< /Type /Pages /Kids [2 0 R] /Count 1 >>")
    yield (
        "pdf/tree-in-a-ring.pdf",
        pdf_of(
            catalog,
            "<< /Type /Pages /Kids [3 0 R] /Count 9 >>",
            "<< /Type /Pages /Parent 2 0 R /Kids [2 0 R 3 0 R] /Count 9 >>",
        ),
    )
    deep = [f"<< /Type /Pages /Kids [{n + 3} 0 R] /Count 1 >>" for n in range(3000)]
    yield "pdf/deep-tree.pdf", pdf_of(catalog, *deep, "<< /Type /Page >>")
    yield "pdf/pages.pdf", make_pdf(["x"] * (limits.units + 1))
    yield "pdf/no-text.pdf", make_pdf([""])
    yield (
        "pdf/prev-of-itself.pdf",
        good.replace(b"/Root 1 0 R", b"/Root 1 0 R /Prev 9 /XRefStm 9")[:-40],
    )
    yield "pdf/flate-bomb.pdf", pdf_with(zlib.compress(bytes(20 * MIB), 9), "/FlateDecode")
    twice = zlib.compress(zlib.compress(bytes(20 * MIB), 9), 9)
    yield "pdf/flate-twice.pdf", pdf_with(twice, "[/FlateDecode /FlateDecode]")
    yield "pdf/flate-garbage.pdf", pdf_with(b"x\x9c" + bytes(range(256)), "/FlateDecode")
    yield "pdf/unknown-filter.pdf", pdf_with(b"words", "/Unheard")
    yield "pdf/run-length-bomb.pdf", pdf_with(b"\x81x" * 4 * MIB, "/RunLengthDecode")
    yield "pdf/operators.pdf", pdf_with(zlib.compress(b"q Q BT ET " * MIB, 9), "/FlateDecode")
    yield "pdf/nested-arrays.pdf", pdf_with(b"[" * 200_000)
    yield "pdf/nested-dictionaries.pdf", pdf_of(b"<< /A " * 100_000)
    for algorithm in ("RC4-40", "RC4-128"):
        writer = PdfWriter(clone_from=PdfReader(io.BytesIO(good)))
        writer.encrypt("secret", algorithm=algorithm)
        locked = io.BytesIO()
        writer.write(locked)
        yield f"pdf/locked-{algorithm}.pdf", locked.getvalue()


def zip_of(files: dict[str, str | bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return an archive."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def references(**targets: str) -> str:
    """Return a part that refers to others, by key."""
    entries = "".join(f'<Relationship Id="{k}" Target="{t}"/>' for k, t in targets.items())
    return f"<Relationships>{entries}</Relationships>"


def word(body: str | bytes, **more: str | bytes) -> bytes:
    """Return a Word file whose document is this XML; `more` are parts by name."""
    return zip_of(
        {"_rels/.rels": references(d="word/document.xml"), "word/document.xml": body, **more}
    )


def word_body(inside: str) -> str:
    """Return the document of a Word file."""
    return f'<w:document xmlns:w="{WORD}"><w:body>{inside}</w:body></w:document>'


def paragraph(text: str) -> str:
    """Return a paragraph of a Word file."""
    return f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>"


def excel(sheet: str | bytes, shared: str = "") -> bytes:
    """Return an Excel file of one sheet."""
    book = (
        f'<workbook xmlns="{SHEET}" xmlns:r="{REFERENCES}"><sheets>'
        '<sheet name="Costs" r:id="a"/></sheets></workbook>'
    )
    return zip_of(
        {
            "_rels/.rels": references(d="xl/workbook.xml"),
            "xl/workbook.xml": book,
            "xl/_rels/workbook.xml.rels": references(a="worksheets/1.xml", s="sharedStrings.xml"),
            "xl/worksheets/1.xml": sheet,
            "xl/sharedStrings.xml": shared or "<sst/>",
        }
    )


def slides(names: list[str], **more: str) -> bytes:
    """Return a PowerPoint file that shows these parts, by key."""
    shown = "".join(f'<p:sldId id="{n}" r:id="{key}"/>' for n, key in enumerate(names))
    deck = (
        f'<p:presentation xmlns:p="{SLIDE}" xmlns:r="{REFERENCES}"><p:sldIdLst>{shown}'
        "</p:sldIdLst></p:presentation>"
    )
    return zip_of(
        {
            "_rels/.rels": references(d="ppt/presentation.xml"),
            "ppt/presentation.xml": deck,
            "ppt/_rels/presentation.xml.rels": references(a="slides/1.xml"),
            **more,
        }
    )


def _archives(limits: Limits) -> Iterator[tuple[str, str | bytes]]:
    good = word(word_body(paragraph("Some words.")))
    yield "zip/empty.docx", zip_of({})
    yield "zip/other.docx", zip_of({"a.txt": "words"})
    yield "zip/climbing.docx", zip_of({"../../../tmp/climbed.txt": "words", "/etc/x": "words"})
    yield "zip/in-itself.docx", zip_of({"a.zip": zip_of({"b.zip": zip_of({"c.txt": "words"})})})
    yield "zip/cut.docx", good[: len(good) // 2]
    yield "zip/head-alone.docx", good[:40]
    yield "zip/tail-alone.docx", b"PK\x05\x06" + bytes(18)
    yield (
        "zip/wrong-sum.docx",
        good.replace(
            struct.pack("<L", zlib.crc32(word_body(paragraph("Some words.")).encode())), b"\1\2\3\4"
        ),
    )
    encrypted = bytearray(good)
    for at in _all(good, b"PK\x01\x02"):
        encrypted[at + 8] |= 1
    yield "zip/encrypted.docx", bytes(encrypted)
    strange = bytearray(good)
    for at in _all(good, b"PK\x01\x02"):
        strange[at + 10 : at + 12] = b"\x63\x00"
    yield "zip/strange-method.docx", bytes(strange)
    vast = bytearray(good)
    for at in _all(good, b"PK\x01\x02"):
        vast[at + 24 : at + 28] = b"\xff\xff\xff\x7f"
    yield "zip/says-it-is-vast.docx", bytes(vast)
    over = bytearray(good)
    # Every entry at the place of the first one.
    for at in _all(good, b"PK\x01\x02"):
        over[at + 42 : at + 46] = bytes(4)
    yield "zip/overlapping.docx", bytes(over)
    yield "zip/many.docx", zip_of({f"{n}": "" for n in range(10_001)}, zipfile.ZIP_STORED)
    yield "zip/bomb.docx", word(bytes(16 * MIB))
    yield "zip/bomb-of-spaces.docx", word(b"<a>" + b" " * (16 * MIB))
    yield "zip/no-document.docx", zip_of({"_rels/.rels": references(d="word/document.xml")})
    yield "zip/refers-out.docx", zip_of({"_rels/.rels": references(d="../../../../etc/passwd")})
    yield "zip/refers-to-a-file.docx", zip_of({"_rels/.rels": references(d="file:///etc/passwd")})
    yield "zip/broken-references.docx", zip_of({"_rels/.rels": "<Relationships"})


def _all(content: bytes, mark: bytes) -> list[int]:
    found, at = [], content.find(mark)
    while at >= 0:
        found.append(at)
        at = content.find(mark, at + 1)
    return found


def _office(limits: Limits) -> Iterator[tuple[str, str | bytes]]:
    laughs = "".join(f'<!ENTITY l{n + 1} "{f"&l{n};" * 10}">' for n in range(9))
    yield "office/laughs.docx", word(f'<!DOCTYPE a [<!ENTITY l0 "ha">{laughs}]><a>&l9;</a>')
    yield (
        "office/entity.docx",
        word('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>'),
    )
    yield "office/dtd.docx", word('<!DOCTYPE a SYSTEM "http://127.0.0.1:9/a.dtd"><a/>')
    yield "office/deep.docx", word(word_body("<w:tbl><w:tr><w:tc>" * 100_000))
    yield "office/unknown-entity.docx", word("<a>&unheard;</a>")
    yield "office/not-xml.docx", word("words")
    yield "office/unclosed.docx", word(f'<w:document xmlns:w="{WORD}"><w:body>')
    yield "office/no-text.docx", word(word_body(""))
    yield "office/strange-encoding.docx", word(b'<?xml version="1.0" encoding="unheard"?><a/>')
    yield "office/flood.docx", word(word_body(paragraph(_noise(limits.text_bytes + MIB))))
    yield "office/attributes.docx", word("<a " + " ".join(f'a{n}=""' for n in range(300_000)) + ">")
    cell = '<c r="{}" t="s"><v>0</v></c>'
    long = f'<sst xmlns="{SHEET}"><si><t>{_noise(MIB // 4)}</t></si></sst>'
    rows = "".join(f'<row r="{n}">{cell.format(f"A{n}")}</row>' for n in range(1, 100))
    yield (
        "office/one-string-often.xlsx",
        excel(f'<worksheet xmlns="{SHEET}">{rows}</worksheet>', long),
    )
    yield "office/no-cells.xlsx", excel(f'<worksheet xmlns="{SHEET}"/>')
    yield (
        "office/no-such-string.xlsx",
        excel(f'<worksheet><row r="1">{cell.format("A1")}</row></worksheet>'),
    )
    yield "office/cells.xlsx", excel("<worksheet><row>" + "<c/>" * 500_000 + "</row></worksheet>")
    yield "office/slides.pptx", slides(["a"] * (limits.units + 1))
    yield "office/no-slides.pptx", slides([])
    yield "office/slides-that-are-not-there.pptx", slides(["a", "b"])


def _noise(size: int) -> str:
    """Return text that packs badly, so that its ratio raises no suspicion."""
    return os.urandom(size // 2).hex()


def _structured(limits: Limits) -> Iterator[tuple[str, str | bytes]]:
    yield "other/deep.json", "[" * 500_000
    yield "other/deep-objects.json", '{"a":' * 200_000
    yield "other/deep.ipynb", '{"cells":' + "[" * 500_000
    yield "other/broken.ipynb", '{"cells": [}'
    yield "other/no-cells.ipynb", '{"nbformat": 4}'
    yield "other/cells-of-numbers.ipynb", '{"cells": [1, 2]}'
    yield "other/a-number.ipynb", "9" * 100_000
    yield "other/empty-cells.ipynb", json.dumps({"cells": []})
    yield "other/empty.csv", ",,,\n,,\n"
    yield "other/no-text.html", "<!doctype html><title></title><script>words()</script>"
    yield "other/hungry.json", "[" + "[]," * (limits.memory_bytes // 60) + "[]]"


def _slow() -> Iterator[tuple[str, str | bytes]]:
    yield "slow/deep.html", DEEP_PAGE
    yield "slow/inline.html", "<html>" + "<b><i>" * 150_000 + "words"
    yield "slow/one-line.txt", b"x" * (200 * MIB)
    yield "slow/tags.html", "<p><b>x</b>" * 2_000_000
    yield "slow/names.html", "<html><p " + " ".join(f"a{n}=1" for n in range(2_000_000)) + ">"


def _harmless() -> Iterator[tuple[str, str | bytes]]:
    pdf, html = make_pdf(["A PDF about wombats."]), "<!doctype html><p>A page about wombats.</p>"
    yield "harmless/pdf.txt", pdf
    yield "harmless/pdf-late.pdf", b"words before\n" + pdf
    yield "harmless/page.txt", html
    yield "harmless/page.pdf", html
    yield "harmless/text.pdf", "A text about wombats."
    yield "harmless/text.docx", "A text about wombats."
    yield "harmless/word.txt", word(word_body(paragraph("A Word file about wombats.")))
    yield "harmless/utf-16.txt", "A text about wombats.".encode("utf-16")
    yield "harmless/line\nend.txt", "A name of two lines."
    yield "harmless/\x1b[31mred.txt", "A name that paints the terminal."
    yield "harmless/\u202egnp.txt", "A name that runs backwards."
    yield "harmless/-rf.txt", "A name like an option."
    yield f"harmless/{'n' * 240}.txt", "A name that is long."
    yield "harmless/" + "d/" * 100 + "deep.txt", "A file far down."
    yield "harmless/quote.csv", '"a cell that never ends\n' * 100
    yield (
        "harmless/row.xlsx",
        excel('<worksheet><row r="999999999"><c r="ZZZZ1"><v>7</v></c></row></worksheet>'),
    )
    yield "harmless/one-line.txt", "word " * 200_000


def _odd_files(where: Path, root: Path) -> list[str]:
    outside = write_files(where / "outside", {"secret.md": f"The secret word is {SECRET}."})
    odd = root / "odd"
    odd.mkdir()
    links = {
        "out.md": outside / "secret.md",
        "out-folder": outside,
        "dots.md": Path("../../outside/secret.md"),
        "itself.md": Path("itself.md"),
        "ring-a.md": Path("ring-b.md"),
        "ring-b.md": Path("ring-a.md"),
        "nowhere.md": Path("nothing-here.md"),
        "zero.txt": Path("/dev/zero"),
        "memory.txt": Path("/proc/self/mem"),
        "home.txt": Path("/etc/passwd"),
        "chain.md": Path("out.md"),
        "pipe-link.txt": Path("pipe.txt"),
    }
    for name, target in links.items():
        (odd / name).symlink_to(target)
    (odd / "up").symlink_to(Path(".."))  # a cycle of folders, passed over
    os.mkfifo(odd / "pipe.txt")
    with socket.socket(socket.AF_UNIX) as one:
        # A path of its own: the length of a socket's is limited.
        here = os.open(odd, os.O_RDONLY)
        try:
            one.bind(f"/proc/self/fd/{here}/socket.md")
        finally:
            os.close(here)
    with (odd / "vast.txt").open("wb") as vast:
        vast.truncate(200 * MIB)
    with (odd / "endless.pdf").open("wb") as endless:
        endless.truncate(1 << 40)
    (odd / "folder.pdf").mkdir()
    with open(os.path.join(os.fsencode(odd), b"\xff\xfe.txt"), "wb") as unnamed:
        unnamed.write(b"A name that is no text.")
    names = [*links, "pipe.txt", "socket.md", "vast.txt", "endless.pdf", "\ufffd\ufffd.txt"]
    return [f"odd/{name}" for name in names]
