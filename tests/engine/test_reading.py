"""Every kind of file, read by a real reading process: the text, and where each passage stands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile import SHEET, SLIDE, WORD, excel, paragraph, references, slides, word, word_body
from material import make_pdf, write_files

from ragsocket.engine.reading.document import Limits, Piece, Request, Task, Unreadable
from ragsocket.engine.reading.kinds import FORMATS, kind_by_name
from ragsocket.engine.reading.process import Readers
from ragsocket.engine.reading.web import web_page


@pytest.fixture(scope="module")
def readers() -> Iterator[Readers]:
    """One reading process for all tests here."""
    with Readers(Task(Limits(), 64, 8), 1) as running:
        yield running


def read(readers: Readers, folder: Path, name: str, content: str | bytes) -> list[tuple[str, str]]:
    """Read a file; return place and text of its passages."""
    write_files(folder, {name: content})
    ((_, found),) = readers.read_all([(None, Request(str(folder / name), name))])
    if isinstance(found, Unreadable):
        raise found
    assert all(isinstance(piece, Piece) for piece in found)
    return [(piece.place or "", piece.text) for piece in found]


def test_html_keeps_what_people_read() -> None:
    """Scripts, styles, navigation and page furniture are dropped; title and text stay."""
    page = b"""<!doctype html><html><head><title>Hut
      rules</title><style>p {color: red}</style></head><body>
      <header>Home | Contact</header><nav><a>Menu</a></nav>
      <main><header><h1>Dogs</h1></header><p>Two <b>dogs</b> may
      stay.<p>At <i>Mirefoot</i><br>only.<table><tr><td>Dog<td>7 euros</table>
      <script>track()</script><aside>Advert</aside><!-- hidden --><pre>a
  b</pre></main><footer>Imprint</footer></body></html>"""
    text = web_page(page).text
    for junk in ("color", "Home", "Menu", "track", "Advert", "hidden", "Imprint", "<", "html"):
        assert junk not in text
    assert text.startswith("Hut rules\n\nDogs\n\nTwo dogs may stay.\n\nAt Mirefoot\nonly.")
    assert "Dog 7 euros" in text
    assert "a\nb" in text


def test_a_page_names_headings_and_keeps_the_columns_of_a_table() -> None:
    """A table that names its columns is barred, and its first row is known."""
    part = web_page(
        b"<h1>Huts</h1><h2>Prices</h2><table><tr><th>What<th>Price<tr><td>Tent<td>16</table>"
        b"<h2>Dogs</h2><p>Two."
    )
    assert part.text == "Huts\n\nPrices\n\nWhat | Price\nTent | 16\n\nDogs\n\nTwo."
    assert [path for _, path in part.marks] == [("Huts",), ("Huts", "Prices"), ("Huts", "Dogs")]
    ((begin, end, head),) = part.tables
    assert (head, part.text[begin:end].strip()) == ("What | Price", "What | Price\nTent | 16")


def test_pages_of_a_pdf(readers: Readers, tmp_path: Path) -> None:
    """Each passage names its page; pages without text count."""
    pdf = make_pdf(["Wombats dig.", "", "Otters swim."])
    assert read(readers, tmp_path, "a.pdf", pdf) == [
        ("page 1", "Wombats dig."),
        ("page 3", "Otters swim."),
    ]


def test_a_word_file(readers: Readers, tmp_path: Path) -> None:
    """Headings by their styles, lists, tables row by row; deleted text and fallbacks are not."""
    styles = (
        f'<w:styles xmlns:w="{WORD}"><w:style w:styleId="berschrift1"><w:name w:val="heading 1"/>'
        '</w:style><w:style w:styleId="T2"><w:name w:val="Heading 2"/></w:style></w:styles>'
    )

    def styled(style: str, text: str) -> str:
        return f'<w:p><w:pPr><w:pStyle w:val="{style}"/></w:pPr><w:r><w:t>{text}</w:t></w:r></w:p>'

    def row(*cells: str) -> str:
        return "".join(["<w:tr>", *(f"<w:tc>{paragraph(c)}</w:tc>" for c in cells), "</w:tr>"])

    body = word_body(
        styled("berschrift1", "Huts")
        + paragraph("There are two.")
        + styled("berschrift1", "Rules")
        + styled("T2", "Dogs")
        + "<w:p><w:pPr><w:numPr/></w:pPr><w:r><w:t>Two </w:t></w:r>"
        + "<w:r><w:t>dogs.</w:t></w:r></w:p>"
        + "<w:p><w:del><w:r><w:delText>Ten dogs.</w:delText></w:r></w:del></w:p>"
        + "<w:p><w:r><w:t>In</w:t><w:tab/><w:t>spring</w:t><w:br/><w:t>too.</w:t></w:r></w:p>"
        + f"<w:tbl>{row('Animal', 'Price')}{row('Dog', '7')}{row('', '')}</w:tbl>"
        + "<w:p><w:r><AlternateContent><Choice><w:t>once</w:t></Choice>"
        + "<Fallback><w:t>twice</w:t></Fallback></AlternateContent></w:r></w:p>"
    )
    related = references(s="styles.xml", f="footnotes.xml")
    notes = f'<w:footnotes xmlns:w="{WORD}">{paragraph("A footnote.")}</w:footnotes>'
    content = word(
        body,
        **{
            "word/_rels/document.xml.rels": related,
            "word/styles.xml": styles,
            "word/footnotes.xml": notes,
        },
    )
    ((place, text),) = read(readers, tmp_path, "a.docx", content)
    assert place == ""
    assert text == (
        "Huts\n\nThere are two.\n\nRules\n\nDogs\n- Two dogs.\n\nIn\tspring\ntoo.\n\n"
        "Animal | Price\nDog | 7\n\nonce\n\nA footnote."
    )
    long = word(
        word_body(
            styled("berschrift1", "Huts")
            + styled("berschrift1", "Rules")
            + "".join(paragraph(f"Rule {n} is about dogs.") for n in range(40))
        ),
        **{"word/_rels/document.xml.rels": related, "word/styles.xml": styles},
    )
    assert {place for place, _ in read(readers, tmp_path, "b.docx", long)[1:]} == {"Rules"}


def test_slides(readers: Readers, tmp_path: Path) -> None:
    """Slides in the order in which they are shown, with title, table and notes."""
    drawing = "http://schemas.openxmlformats.org/drawingml/2006/main"

    def shape(kind: str, *texts: str) -> str:
        lines = "".join(f"<a:p><a:r><a:t>{text}</a:t></a:r></a:p>" for text in texts)
        return f'<p:sp><p:nvPr><p:ph type="{kind}"/></p:nvPr><p:txBody>{lines}</p:txBody></p:sp>'

    def slide(inside: str) -> str:
        return f'<p:sld xmlns:p="{SLIDE}" xmlns:a="{drawing}">{inside}</p:sld>'

    cells = "".join(
        f"<a:tr><a:tc><a:p><a:r><a:t>{a}</a:t></a:r></a:p></a:tc>"
        f"<a:tc><a:p><a:r><a:t>{b}</a:t></a:r></a:p></a:tc></a:tr>"
        for a, b in (("What", "Euros"), ("Tent", "16"))
    )
    content = slides(
        ["b", "a"],
        **{
            "ppt/_rels/presentation.xml.rels": references(a="slides/1.xml", b="slides/2.xml"),
            "ppt/slides/1.xml": slide(
                shape("title", "Prices") + f"<a:tbl>{cells}</a:tbl>" + shape("sldNum", "17")
            ),
            "ppt/slides/2.xml": slide(shape("ctrTitle", "Welcome") + shape("body", "One", "Two")),
            "ppt/slides/_rels/1.xml.rels": references(n="../notesSlides/notesSlide1.xml"),
            "ppt/notesSlides/notesSlide1.xml": slide(shape("body", "Say hello.")),
        },
    )
    assert read(readers, tmp_path, "a.pptx", content) == [
        ("Welcome, slide 1", "Welcome\n\nOne\n\nTwo"),
        ("Prices, slide 2", "Prices\n\nWhat | Euros\nTent | 16\n\nSay hello."),
    ]


def test_sheets(readers: Readers, tmp_path: Path) -> None:
    """Rows by their numbers, values as people see them, the first row above every passage."""
    shared = (
        f'<sst xmlns="{SHEET}"><si><t>Item</t></si><si><r><t>Eu</t></r><r><t>ros</t></r></si></sst>'
    )
    rows = "".join(
        f'<row r="{n}"><c r="A{n}" t="inlineStr"><is><t>Item {n}</t></is></c>'
        f'<c r="C{n}"><f>1+1</f><v>{n}.50</v></c></row>'
        for n in range(5, 45)
    )
    sheet = (
        f'<worksheet xmlns="{SHEET}"><sheetData><row r="3"><c r="A3" t="s"><v>0</v></c>'
        '<c r="B3" t="b"><v>1</v></c><c r="C3" t="s"><v>1</v></c></row>'
        f"{rows}</sheetData></worksheet>"
    )
    found = read(readers, tmp_path, "a.xlsx", excel(sheet, shared))
    assert len(found) > 3
    for place, text in found:
        assert text.splitlines()[0] == "Item | true | Euros"
        first, last = text.splitlines()[1], text.splitlines()[-1]
        begin = 3 if place == found[0][0] else int(first.split()[1])
        assert place == f"sheet Costs, rows {begin}-{int(last.split()[1])}"
    assert "Item 5 |  | 5.5\n" in found[0][1]


def test_dates_in_sheets(readers: Readers, tmp_path: Path) -> None:
    """A number is a date where its style says so."""
    from hostile import REFERENCES, zip_of

    book = (
        f'<workbook xmlns="{SHEET}" xmlns:r="{REFERENCES}"><sheets>'
        '<sheet name="A" r:id="a"/></sheets></workbook>'
    )
    styles = (
        '<styleSheet><numFmts><numFmt numFmtId="164" formatCode="yyyy\\-mm\\-dd"/>'
        '<numFmt numFmtId="165" formatCode="0.00 &quot;days&quot;"/></numFmts>'
        '<cellXfs><xf numFmtId="0"/><xf numFmtId="14"/><xf numFmtId="164"/><xf numFmtId="165"/>'
        "</cellXfs></styleSheet>"
    )
    values = ("46000", "46000", "46000.5", "46000")
    cells = "".join(f'<c s="{style}"><v>{value}</v></c>' for style, value in enumerate(values))
    content = zip_of(
        {
            "_rels/.rels": references(d="xl/workbook.xml"),
            "xl/workbook.xml": book,
            "xl/_rels/workbook.xml.rels": references(a="worksheets/1.xml", s="styles.xml"),
            "xl/worksheets/1.xml": f"<worksheet><row>{cells}</row></worksheet>",
            "xl/styles.xml": styles,
        }
    )
    ((place, text),) = read(readers, tmp_path, "a.xlsx", content)
    assert (place, text) == (
        "sheet A, rows 1-1",
        "46000 | 2025-12-09 | 2025-12-09 12:00 | 46000",
    )


def test_tables_as_text(readers: Readers, tmp_path: Path) -> None:
    """Whatever parts the cells; a cell of several lines is one line."""
    for name, content in {
        "a.csv": 'What,Price\n"Tent, small",16\n\nHut,"30\nor 40"\n',
        "b.csv": 'What;Price\nTent, small;16\n\nHut;"30\nor 40"\n',
        "c.tsv": 'What\tPrice\nTent, small\t16\n\nHut\t"30\nor 40"\n',
    }.items():
        assert read(readers, tmp_path, name, content) == [
            ("rows 1-4", "What | Price\nTent, small | 16\nHut | 30 or 40")
        ]


def test_a_notebook(readers: Readers, tmp_path: Path) -> None:
    """What people wrote and what it printed, by cell."""
    cells = [
        {"cell_type": "markdown", "source": ["# Huts\n", "Two of them."]},
        {
            "cell_type": "code",
            "source": "count()",
            "outputs": [
                {"output_type": "stream", "text": ["12\n"]},
                {"output_type": "execute_result", "data": {"text/plain": "None"}},
                {"output_type": "display_data", "data": {"image/png": "iVBOR"}},
            ],
        },
    ]
    assert read(readers, tmp_path, "a.ipynb", json.dumps({"cells": cells, "nbformat": 4})) == [
        ("Huts, cell 1", "# Huts\nTwo of them."),
        ("cell 2", "count()\n\n12\n\nNone"),
    ]


def test_json_is_read_as_written_or_indented(readers: Readers, tmp_path: Path) -> None:
    """What a program wrote on one line gets lines."""
    assert read(readers, tmp_path, "a.json", '{\n "hut": "Mirefoot"\n}') == [
        ("lines 1-3", '{\n "hut": "Mirefoot"\n}')
    ]
    found = read(readers, tmp_path, "b.json", json.dumps([{"hut": f"Hut {n}"} for n in range(90)]))
    assert len(found) > 3
    assert '  "hut": "Hut 7"\n' in found[0][1]


def test_text_in_other_clothes(readers: Readers, tmp_path: Path) -> None:
    """Marks of byte order, line ends of other systems, and signs that show nothing."""
    for content in (
        "One.\nTwo.".encode("utf-8-sig"),
        "One.\nTwo.".encode("utf-16"),
        b"One.\r\nTwo.",
        b"One.\rTwo.",
        b"One.\x1b\x08\nTwo.",
    ):
        assert read(readers, tmp_path, "a.txt", content) == [("lines 1-2", "One.\nTwo.")]


def test_names_promise_a_kind() -> None:
    """Suffixes in any case, and files known by their whole name."""
    assert [
        kind_by_name(name) for name in ("A.MD", "b/c.Py", "Makefile", "README", "LICENSE.txt")
    ] == [
        "markdown",
        "code",
        "code",
        "text",
        "text",
    ]
    assert [kind_by_name(name) for name in ("a.png", "a", "a.jsonl", ".md")] == [None] * 4
    suffixes = [suffix for format in FORMATS.values() for suffix in format.suffixes]
    assert len(suffixes) == len(set(suffixes))
