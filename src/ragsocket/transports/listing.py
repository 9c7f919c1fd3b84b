"""How every list of resources is asked for, and one page of a list that is in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, TypeVar

from fastapi import Depends, Query

from ragsocket.protocol.client_events import INCLUDED, known_include
from ragsocket.protocol.listing import Named, Page, Part, not_listed

T = TypeVar("T", bound=Named)

Order = Annotated[
    Literal["asc", "desc"], Query(description="`asc`: oldest first; `desc`: newest first.")
]
Cursor = Annotated[str | None, Query(description="An id: the page is what lies on that side.")]
Limit = Annotated[int, Query(ge=1, le=100, description="How many at most.")]

_INCLUDE = "; ".join(f"`{value}` {does}" for value, does in INCLUDED.items()) + "."


def _part(after: Cursor = None, limit: Limit = 20, order: Order = "desc") -> Part:
    return Part(after=after, limit=limit, descending=order == "desc")


def _included(
    include: Annotated[list[str], Query(description=_INCLUDE)] = [],  # noqa: B006
    include_too: Annotated[
        list[str],
        Query(alias="include[]", description="The same, as the official clients write it."),
    ] = [],  # noqa: B006
) -> frozenset[str]:
    values = [*include, *include_too]
    for value in values:
        known_include(value)
    return frozenset(values)


Paging = Annotated[Part, Depends(_part)]
Included = Annotated[frozenset[str], Depends(_included)]


def page(items: Sequence[T], part: Part, *, before: str | None = None) -> Page[T]:
    """Return a page of a list that is in order of coming, oldest first.

    Args:
        items: the whole list.
        part: which page; if only `before` says where it lies, it ends there.
        before: id of the first one that was seen.

    Raises:
        RequestError: `after` or `before` is not in the list.
    """
    listed = list(reversed(items)) if part.descending else list(items)
    if part.after is not None:
        listed = listed[_place(listed, part.after, "after") + 1 :]
    if before is not None:
        listed = listed[: _place(listed, before, "before")]
    backwards = before is not None and part.after is None
    data = listed[-part.limit :] if backwards else listed[: part.limit]
    return Page.of(data, has_more=len(data) < len(listed))


def _place(items: Sequence[T], id: str, param: str) -> int:
    for place, item in enumerate(items):
        if item.id == id:
            return place
    raise not_listed(param, id)
