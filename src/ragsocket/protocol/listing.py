"""Lists: which part of one is asked for, how it is answered, and items as lists show them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, Self, TypeVar, cast

from ragsocket.errors import RequestError
from ragsocket.protocol.errors import ErrorCode
from ragsocket.protocol.input_items import (
    FunctionCallOutput,
    InputImage,
    InputItem,
    InputMessage,
    InputText,
)
from ragsocket.protocol.resources import (
    FileSearchCall,
    FunctionCall,
    ItemStatus,
    OutputItem,
    OutputMessage,
    OutputText,
    Reasoning,
    Wire,
)

RESULTS = "file_search_call.results"


class Named(Protocol):
    """What can stand in a list."""

    @property
    def id(self) -> str | None:
        """Its name, which a cursor can be."""


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Part:
    """Which part of a list is asked for.

    Attributes:
        after: id of the last one that was seen; None begins at the start.
        limit: how many at most.
        descending: newest first.
    """

    after: str | None = None
    limit: int = 20
    descending: bool = True


class Page(Wire, Generic[T]):
    """Part of a list; `last_id` is the cursor for the next."""

    object: Literal["list"] = "list"
    data: tuple[T, ...]
    first_id: str | None
    last_id: str | None
    has_more: bool

    @classmethod
    def of(cls, data: Sequence[T], *, has_more: bool) -> Self:
        """Return a part with its cursors."""
        ids = [one.id for one in cast(Sequence[Named], data)]
        first, last = (ids[0], ids[-1]) if ids else (None, None)
        return cls(data=tuple(data), first_id=first, last_id=last, has_more=has_more)


def not_listed(param: str, id: str | None) -> RequestError:
    """Return the error of a cursor that is not in its list."""
    return RequestError(
        ErrorCode.INVALID_EVENT,
        f"{param}: there is no {str(id)[:64]!r} in this list; name an id of an earlier page.",
        param=param,
    )


class Message(Wire):
    """A message as lists show it: whoever wrote it, its content is a list of parts."""

    type: Literal["message"] = "message"
    id: str | None
    status: ItemStatus
    role: Literal["user", "assistant", "system", "developer"]
    content: tuple[InputText | InputImage | OutputText, ...]


Item = Message | FunctionCall | FunctionCallOutput | Reasoning | FileSearchCall


class ItemList(Page[Item]):
    """Items, of a response's input or of a conversation."""


def as_listed(items: Iterable[InputItem | OutputItem], *, with_results: bool = False) -> list[Item]:
    """Return items as lists show them.

    Args:
        items: as they were handed in or made.
        with_results: whether searches carry their passages, where they were kept.
    """
    listed: list[Item] = []
    for item in items:
        if isinstance(item, InputMessage | OutputMessage):
            listed.append(_message(item))
        elif isinstance(item, FileSearchCall) and not with_results:
            listed.append(item.model_copy(update={"results": None}))
        else:
            listed.append(item)
    return listed


def _message(item: InputMessage | OutputMessage) -> Message:
    content = item.content
    parts = (InputText(text=content),) if isinstance(content, str) else content
    ours = item.role == "assistant"
    return Message(
        id=item.id,
        status=item.status,
        role=item.role,
        # The standard knows the parts of an answer and those of a question.
        content=tuple(
            OutputText(text=part.text)
            if ours and isinstance(part, InputText)
            else InputText(text=part.text)
            if not ours and isinstance(part, OutputText)
            else part
            for part in parts
        ),
    )
