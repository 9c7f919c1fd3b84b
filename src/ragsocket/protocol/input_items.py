"""What a client hands in as `input`: messages, and the items of answers handed back.

An item may come just as an answer carried it, so that a client which keeps the history itself can
append an answer's `output` to its next `input`. Members that are null count as absent.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, TypeAdapter, model_validator

from ragsocket.errors import RequestError
from ragsocket.protocol.errors import ErrorCode
from ragsocket.protocol.resources import (
    FileSearchCall,
    FunctionCall,
    ItemStatus,
    OutputText,
    Reasoning,
    Wire,
)

_IMAGE_URL = re.compile(r"https?://[^\s]+|data:image/[a-z0-9.+-]+;base64,[A-Za-z0-9+/=_-]+")


def _is_picture(value: str) -> str:
    if not _IMAGE_URL.fullmatch(value):
        raise ValueError("write it as https://… or data:image/png;base64,…")
    return value


ImageUrl = Annotated[str, AfterValidator(_is_picture)]
ImageDetail = Literal["auto", "low", "high", "original"]


class InputText(Wire):
    """A text part of an input message."""

    type: Literal["input_text"] = "input_text"
    text: str


class InputImage(Wire):
    """A picture, for models that take them: an address, or the picture itself as a data URL."""

    type: Literal["input_image"] = "input_image"
    image_url: ImageUrl
    detail: ImageDetail = "auto"


Part = Annotated[InputText | InputImage | OutputText, Field(discriminator="type")]


class InputMessage(Wire):
    """A message handed in; an answer's own item may be handed back as it came."""

    type: Literal["message"] = "message"
    id: str | None = None
    status: ItemStatus = "completed"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | tuple[Part, ...]

    @model_validator(mode="after")
    def _pictures_are_the_users(self) -> InputMessage:
        if self.role != "user" and self.images:
            raise ValueError("only messages of the user may hold input_image")
        return self

    def plain(self) -> str:
        """Return the text of all parts."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content if not isinstance(part, InputImage))

    @property
    def images(self) -> tuple[InputImage, ...]:
        """The pictures among its parts."""
        if isinstance(self.content, str):
            return ()
        return tuple(part for part in self.content if isinstance(part, InputImage))


class FunctionCallOutput(Wire):
    """What a function gave; `call_id` is that of the call."""

    type: Literal["function_call_output"] = "function_call_output"
    id: str | None = None
    call_id: Annotated[str, Field(min_length=1, max_length=128)]
    output: str | tuple[InputText, ...]
    status: ItemStatus = "completed"

    def plain(self) -> str:
        """Return the text of all parts."""
        if isinstance(self.output, str):
            return self.output
        return "".join(part.text for part in self.output)


def _kind(value: Any) -> Any:
    if isinstance(value, dict):
        return value.get("type", "message")
    return getattr(value, "type", None)


InputItem = Annotated[
    Annotated[InputMessage, Tag("message")]
    | Annotated[FunctionCall, Tag("function_call")]
    | Annotated[FunctionCallOutput, Tag("function_call_output")]
    | Annotated[Reasoning, Tag("reasoning")]
    | Annotated[FileSearchCall, Tag("file_search_call")],
    Discriminator(_kind),
]

INPUT: TypeAdapter[tuple[InputItem, ...]] = TypeAdapter(tuple[InputItem, ...])

ITEM_TYPES = ("message", "function_call", "function_call_output", "reasoning", "file_search_call")
PART_TYPES = ("input_text", "input_image", "output_text")
INPUT_TAGS = frozenset({*ITEM_TYPES, *PART_TYPES})
"""What pydantic writes into locations, between the index of an item or part and its field."""

_REFUSED = {
    "item_reference": "hand the item itself in, or go on by previous_response_id or conversation",
    "input_file": "upload it to a vector store, where it is searched, or hand in its text",
}


def tidy(items: Any, *, field: str = "input") -> Any:
    """Return input as it came but for what need not be kept; refuse what is not taken by name.

    Args:
        items: what came.
        field: where it came, for the words of a refusal.

    Raises:
        RequestError: an item or a part is of a type that this server does not take.
    """
    if not isinstance(items, list | tuple):
        return items
    return [_tidy_item(item, f"{field}[{index}]") for index, item in enumerate(items)]


def _tidy_item(item: Any, path: str) -> Any:
    if not isinstance(item, dict):
        return item
    item = {key: value for key, value in item.items() if value is not None}
    kind = item.get("type", "message" if "role" in item or "id" not in item else "item_reference")
    _known(kind, ITEM_TYPES, path)
    if kind == "reasoning":
        item.pop("encrypted_content", None)
    field = "output" if kind == "function_call_output" else "content"
    if isinstance(item.get(field), list) and kind != "reasoning":
        parts = [
            _tidy_part(part, f"{path}.{field}[{index}]") for index, part in enumerate(item[field])
        ]
        item[field] = parts
    return item


def _tidy_part(part: Any, path: str) -> Any:
    if not isinstance(part, dict):
        return part
    part = {key: value for key, value in part.items() if value is not None}
    if part.get("type") == "text":
        part["type"] = "input_text"
    _known(part.get("type"), PART_TYPES, path)
    if part.get("type") == "input_image" and "file_id" in part:
        raise RequestError(
            ErrorCode.UNSUPPORTED_PARAMETER,
            f"{path}.file_id is not supported; send the picture as image_url.",
            param=f"{path}.file_id",
        )
    part.pop("prompt_cache_breakpoint", None)
    if part.get("type") == "output_text":
        part.pop("logprobs", None)
        if isinstance(part.get("annotations"), list):
            part["annotations"] = [
                mark
                for mark in part["annotations"]
                if isinstance(mark, dict) and mark.get("type") == "file_citation"
            ]
    return part


def _known(kind: Any, known: tuple[str, ...], path: str) -> None:
    if not isinstance(kind, str) or kind in known:
        return
    instead = _REFUSED.get(kind, f"it may be {', '.join(known)}")
    raise RequestError(
        ErrorCode.UNSUPPORTED_PARAMETER,
        f"{path} of type {kind[:64]!r} is not supported; {instead}.",
        param=path,
    )
