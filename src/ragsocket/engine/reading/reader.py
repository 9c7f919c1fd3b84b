"""Reads one file of whatever kind: opened, told by its content, read, cut into passages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import BinaryIO

from ragsocket.engine.reading.document import MIB, Limits, Part, Piece, Request, Unreadable
from ragsocket.engine.reading.folder import open_inside
from ragsocket.engine.reading.kinds import HEAD_BYTES, kind_of
from ragsocket.engine.reading.splitting import Splitter

MAX_REASON = 200


def read(
    request: Request, limits: Limits, splitter: Splitter, unit_done: Callable[[], None]
) -> list[Piece]:
    """Return the passages of a file.

    Args:
        request: the file.
        limits: what it may cost; time and memory are held elsewhere.
        splitter: cuts it.
        unit_done: called for each page, slide, cell, or thousand rows.

    Raises:
        Unreadable: it is broken, encrypted, too large, of another kind, or has no text.
        MemoryError: it needs more than there is.
    """
    pieces: list[Piece] = []
    left = limits.text_bytes
    try:
        with open_inside(request.path, request.root) as stream:
            for part in _parts(stream, request.name, limits, unit_done):
                left -= len(part.text.encode())
                if left < 0:
                    raise Unreadable(f"has more than {limits.text_bytes // MIB} MiB of text")
                pieces += splitter.split(part)
    except (Unreadable, MemoryError):
        raise
    except OSError as error:
        raise Unreadable(error.strerror or "cannot be read") from error
    except RecursionError as error:
        raise Unreadable("nested too deeply") from error
    except Exception as error:
        # Parsers fail in their own ways; each is the file's fault.
        raise Unreadable(f"broken file ({type(error).__name__})") from error
    if not pieces:
        raise Unreadable("has no text")
    return pieces


def _parts(
    stream: BinaryIO, name: str, limits: Limits, unit_done: Callable[[], None]
) -> Iterator[Part]:
    """Yield the parts of a file. What reads its kind is imported only now: most are never asked."""
    kind = kind_of(stream.read(HEAD_BYTES), name)
    stream.seek(0)
    if kind == "pdf":
        from ragsocket.engine.reading.pdf import pages

        yield from pages(stream, limits, unit_done)
        return
    if kind == "zip":
        from ragsocket.engine.reading.office import office

        yield from office(stream, limits, unit_done)
        return
    content = stream.read(limits.file_bytes + 1)
    if kind == "html":
        from ragsocket.engine.reading.web import web_page

        yield web_page(content)
        return
    from ragsocket.engine.reading import text

    words = text.decoded(content)
    del content
    match kind:
        case "markdown":
            yield from text.markdown(words)
        case "csv":
            yield from text.table(words, limits)
        case "json":
            yield from text.json_text(words)
        case "notebook":
            yield from text.notebook(words, unit_done)
        case "code":
            yield from text.code(words)
        case _:
            yield from text.prose(words)
