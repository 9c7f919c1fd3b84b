"""Reads XML as a stream of events, under limits, and without a document type.

A document type is what entity bombs and references to other files are made of; no Office file has
one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from xml.parsers import expat

from ragsocket.engine.reading.document import Unreadable


@dataclass(frozen=True, slots=True)
class Event:
    """The begin or the end of an element, or text in it.

    Attributes:
        name: of the element, without its namespace.
        space: its namespace, or empty.
        is_begin: True for the begin.
        text: a stretch of the element's own text; None for begin and end.
        attributes: by name without namespace; references to other parts begin with `r:`.
    """

    name: str
    space: str = ""
    is_begin: bool = False
    text: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_end(self) -> bool:
        """True for the end of an element."""
        return not self.is_begin and self.text is None

    def begins(self, name: str) -> bool:
        """Return whether an element of that name begins here."""
        return self.is_begin and self.name == name


def events(chunks: Iterable[bytes], depth: int) -> Iterator[Event]:
    """Yield what stands in an XML document.

    Args:
        chunks: its bytes.
        depth: how many elements may stand in each other.

    Raises:
        Unreadable: it is broken, has a document type, or is deeper.
    """
    found: list[Event] = []
    within: list[tuple[str, str]] = []

    def begin(tag: str, attributes: dict[str, str]) -> None:
        if len(within) >= depth:
            raise Unreadable(f"has more than {depth} elements within each other")
        space, _, name = tag.rpartition(" ")
        within.append((space, name))
        plain = {}
        for key, value in attributes.items():
            of, _, local = key.rpartition(" ")
            plain[f"r:{local}" if of.endswith("/relationships") else local] = value
        found.append(Event(name, space, is_begin=True, attributes=plain))

    def end(tag: str) -> None:
        space, name = within.pop()
        found.append(Event(name, space))

    def text(words: str) -> None:
        if within:
            space, name = within[-1]
            found.append(Event(name, space, text=words))

    def refuse(*_: object) -> None:
        raise Unreadable("has a document type (DTD), which is not read")

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartElementHandler = begin
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    parser.StartDoctypeDeclHandler = refuse
    try:
        for chunk in chunks:
            parser.Parse(chunk, False)
            yield from found
            found.clear()
        parser.Parse(b"", True)
        yield from found
    except expat.ExpatError as error:
        raise Unreadable(f"broken XML ({expat.ErrorString(error.code)})") from None
