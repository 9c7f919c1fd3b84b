"""The items of one answer while they grow: searches, reasoning, messages, function calls. Pure.

Items come one after the other; beginning one closes the one before. Every item knows the number
of each event that made it, so it can be had as it stood at any cut. What began after the cut is
not part of the answer, and what was closed after it is said once more, shorter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Protocol

from ragsocket.engine import base as engine
from ragsocket.protocol import server_events as ev
from ragsocket.protocol.ids import item_id
from ragsocket.protocol.resources import (
    CitationFacts,
    FileCitation,
    FileSearchCall,
    FunctionCall,
    OutputItem,
    OutputMessage,
    OutputText,
    Reasoning,
    ReasoningText,
    SearchResult,
)

Status = Literal["in_progress", "completed", "incomplete"]


_ALL = 2**62
"""A cut after everything."""


class Emit(Protocol):
    """Makes an event, and returns the number that it got."""

    def __call__(self, cls: type[ev.ServerEvent], **fields: Any) -> int:
        """Make an event of that class."""


class Item(ABC):
    """One output item.

    Attributes:
        id: the item's id.
        index: its `output_index`, which is its place in the answer's output.
        began: number of the event that added it.
        closed: number of the event that made it final, None before.
    """

    def __init__(self, id: str, index: int) -> None:
        self.id = id
        self.index = index
        self.began = -1
        self.closed: int | None = None

    @property
    def place(self) -> dict[str, Any]:
        """The fields by which an event names the item."""
        return {"item_id": self.id, "output_index": self.index}

    @abstractmethod
    def at(self, cut: int, status: Status) -> OutputItem:
        """Return the item as it stood at number `cut`."""

    def open(self, emit: Emit) -> None:
        """Say that it begins."""
        blank = self.at(-1, "in_progress")
        self.began = emit(ev.OutputItemAdded, output_index=self.index, item=blank)

    def close(self, emit: Emit, item: OutputItem) -> int:
        """Say that it is final, and return the number of that."""
        return emit(ev.OutputItemDone, output_index=self.index, item=item)


class Written(Item):
    """An item that is written piece by piece.

    Attributes:
        delta_type: the type of its deltas.
        is_text: whether they are text of the answer.
    """

    is_text: ClassVar[bool] = False

    def __init__(self, id: str, index: int, delta: ev.Delta) -> None:
        super().__init__(id, index)
        self.delta_type: str = delta.type
        self._encode = ev.DeltaWriter(delta).write
        self._texts: list[str] = []
        self._numbers: list[int] = []

    def add(self, number: int, text: str) -> bytes:
        """Take more text, which event `number` carries, and return that event encoded."""
        self._texts.append(text)
        self._numbers.append(number)
        return self._encode(number, text)

    def text(self, cut: int) -> str:
        """Return the text up to number `cut`."""
        return "".join(self._texts[: bisect_right(self._numbers, cut)])


class Telling(Written):
    """An item that holds its text as one content part."""

    done: ClassVar[type[ev.ServerEvent]]

    @abstractmethod
    def part(self, cut: int) -> OutputText | ReasoningText:
        """Return the part as it stood at number `cut`."""

    def open(self, emit: Emit) -> None:
        """See `Item.open`."""
        super().open(emit)
        emit(ev.ContentPartAdded, **self.place, content_index=0, part=self.part(-1))

    def close(self, emit: Emit, item: OutputItem) -> int:
        """See `Item.close`."""
        assert isinstance(item, OutputMessage | Reasoning)
        (part,) = item.content
        emit(self.done, **self.place, content_index=0, text=part.text)
        emit(ev.ContentPartDone, **self.place, content_index=0, part=part)
        return super().close(emit, item)


class Message(Telling):
    """A text of the answer, with its citations."""

    done = ev.OutputTextDone
    is_text = True

    def __init__(
        self, response_id: str, index: int, stream_id: str | None, *, offset: int = 0
    ) -> None:
        """Begin a message.

        Args:
            response_id: the response that it belongs to.
            index: its place.
            stream_id: the lane.
            offset: code points of the answer's texts before this one.
        """
        id = item_id("msg", response_id, index)
        super().__init__(
            id, index, ev.OutputTextDelta(item_id=id, output_index=index, stream_id=stream_id)
        )
        self._offset = offset
        self._marks: list[FileCitation] = []

    def cite(self, emit: Emit, citation: engine.Citation) -> None:
        """Take a citation that ends in this text."""
        source = citation.source
        mark = FileCitation(
            file_id=source.file_id,
            filename=source.file_name,
            index=citation.index - self._offset,
            ragsocket=CitationFacts(passage=citation.number, matched=citation.matched),
        )
        self._marks.append(mark)
        emit(
            ev.AnnotationAdded,
            **self.place,
            content_index=0,
            annotation_index=len(self._marks) - 1,
            annotation=mark,
        )

    def part(self, cut: int) -> OutputText:
        """See `Telling.part`."""
        text = self.text(cut)
        marks = tuple(mark for mark in self._marks if mark.index <= len(text))
        return OutputText(text=text, annotations=marks)

    def at(self, cut: int, status: Status) -> OutputMessage:
        """See `Item.at`."""
        content = () if self.began < 0 else (self.part(cut),)
        return OutputMessage(id=self.id, status=status, content=content)


class Thought(Telling):
    """What the model thinks before it answers."""

    done = ev.ReasoningTextDone

    def __init__(self, response_id: str, index: int, stream_id: str | None) -> None:
        id = item_id("rs", response_id, index)
        super().__init__(
            id, index, ev.ReasoningTextDelta(item_id=id, output_index=index, stream_id=stream_id)
        )

    def part(self, cut: int) -> ReasoningText:
        """See `Telling.part`."""
        return ReasoningText(text=self.text(cut))

    def at(self, cut: int, status: Status) -> Reasoning:
        """See `Item.at`."""
        content = () if self.began < 0 else (self.part(cut),)
        return Reasoning(id=self.id, status=status, content=content)


class Calling(Written):
    """A call of a function."""

    def __init__(
        self, response_id: str, index: int, stream_id: str | None, call: engine.CallBegun
    ) -> None:
        id = item_id("fc", response_id, index)
        super().__init__(
            id, index, ev.CallArgumentsDelta(item_id=id, output_index=index, stream_id=stream_id)
        )
        self._call = call

    def at(self, cut: int, status: Status) -> FunctionCall:
        """See `Item.at`."""
        return FunctionCall(
            id=self.id,
            call_id=self._call.call_id,
            name=self._call.name,
            arguments=self.text(cut),
            status=status,
        )

    def close(self, emit: Emit, item: OutputItem) -> int:
        """See `Item.close`. Half arguments are not called done: somebody might use them."""
        assert isinstance(item, FunctionCall)
        if item.status == "completed":
            emit(ev.CallArgumentsDone, **self.place, arguments=item.arguments)
        return super().close(emit, item)


class Search(Item):
    """A search of the documents; it is whole once it has its sources."""

    def __init__(
        self, response_id: str, index: int, queries: Sequence[str], *, with_results: bool
    ) -> None:
        super().__init__(item_id("fs", response_id, index), index)
        self._queries = tuple(queries)
        self._with_results = with_results
        self._results: tuple[SearchResult, ...] | None = None

    def at(self, cut: int, status: Status) -> FileSearchCall:
        """See `Item.at`."""
        found = self.closed is not None and self.closed <= cut
        return FileSearchCall(
            id=self.id,
            # Only the sources complete a search, however the answer ends.
            status="incomplete" if status == "completed" and not found else status,
            queries=self._queries,
            results=self._results if found else None,
        )

    def open(self, emit: Emit) -> None:
        """See `Item.open`."""
        super().open(emit)
        emit(ev.FileSearchInProgress, **self.place)
        emit(ev.FileSearchSearching, **self.place)

    def find(self, emit: Emit, sources: Sequence[engine.Source]) -> None:
        """Take what was found, and close."""
        if self._with_results:
            self._results = tuple(_result(source) for source in sources)
        done = emit(ev.FileSearchCompleted, **self.place) + 1
        self.closed = done
        self.close(emit, self.at(done, "completed"))


class Output:
    """All items of one answer, in order.

    Attributes:
        open: the item that grows, or None.
    """

    def __init__(self, response_id: str) -> None:
        self.open: Item | None = None
        self._response_id = response_id
        self._items: list[Item] = []

    @property
    def next_index(self) -> int:
        """The `output_index` of the item that comes next."""
        return len(self._items)

    @property
    def text_length(self) -> int:
        """Code points of all texts of the answer so far."""
        return sum(len(one.text(_ALL)) for one in self._items if isinstance(one, Message))

    def begin(self, emit: Emit, item: Item) -> None:
        """Close the item that is open, and open another one."""
        self.close_open(emit)
        item.open(emit)
        self._items.append(item)
        self.open = item

    def now(self) -> tuple[OutputItem, ...]:
        """Return the items as they stand."""
        return tuple(
            item.at(_ALL, "in_progress" if item.closed is None else "completed")
            for item in self._items
        )

    def close_open(self, emit: Emit) -> None:
        """Close the item that is open, as whole."""
        if self.open is not None and self.open.closed is None:
            self.open.closed = self.open.close(emit, self.open.at(_ALL, "completed"))
        self.open = None

    def end(
        self, emit: Emit, cut: int, *, whole: bool, speaks: bool = True
    ) -> tuple[OutputItem, ...]:
        """Close what is not final at the cut, and return the items as they stood there.

        An answer that says nothing gets a message without text.

        Args:
            emit: makes the closing events; the answer itself does not change.
            cut: the last number that counts.
            whole: whether what is open came to its own end.
            speaks: whether it was to say anything.
        """
        output: list[OutputItem] = []
        dropped: Item | None = None
        for item in self._items:
            if item.began > cut:
                dropped = dropped or item
            elif item.closed is not None and item.closed <= cut:
                output.append(item.at(cut, "completed"))
            else:
                ends: Status = "completed" if whole and item.closed is None else "incomplete"
                output.append(item.at(cut, ends))
                item.close(emit, output[-1])
        if speaks and not any(isinstance(item, OutputMessage | FunctionCall) for item in output):
            if isinstance(dropped, Message):
                message = dropped
            else:
                message = Message(self._response_id, len(output), None)
                message.open(emit)
            output.append(message.at(message.began, "completed" if whole else "incomplete"))
            message.close(emit, output[-1])
        return tuple(output)


def _result(source: engine.Source) -> SearchResult:
    attributes = {**source.attributes, "passage_id": source.passage_id}
    if source.place is not None:
        attributes["place"] = source.place
    return SearchResult(
        file_id=source.file_id,
        filename=source.file_name,
        score=source.score,
        text=source.text,
        attributes=attributes,
    )
