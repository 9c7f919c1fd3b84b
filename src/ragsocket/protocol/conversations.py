"""Conversations as resources, and what clients say about them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ragsocket.protocol.input_items import InputItem, tidy
from ragsocket.protocol.listing import Page
from ragsocket.protocol.resources import Metadata, Wire

MOST_ITEMS = 20
"""Items that can be handed in at a time; the standard's number."""

Items = Annotated[tuple[InputItem, ...], Field(max_length=MOST_ITEMS)]


class ConversationFacts(Wire):
    """What this server adds to a Conversation.

    Attributes:
        title: `metadata.title`, or else the first words of the first question.
        updated_at: seconds since 1970 of the last question or answer.
        head: id of the newest response, which the next one goes on from.
        active_response_ids: responses that are not finished, in their order.
    """

    title: str | None
    updated_at: int
    head: str | None
    active_response_ids: tuple[str, ...] = ()


class Conversation(Wire):
    """A name for the newest response of a chain."""

    id: str
    object: Literal["conversation"] = "conversation"
    created_at: int
    metadata: Metadata
    ragsocket: ConversationFacts


class ConversationList(Page[Conversation]):
    """Conversations, those with the last question or answer first unless asked otherwise."""


class ConversationDeleted(Wire):
    """A conversation was deleted."""

    id: str
    object: Literal["conversation.deleted"] = "conversation.deleted"
    deleted: Literal[True] = True


class _WithItems(Wire):
    @model_validator(mode="before")
    @classmethod
    def _tidied(cls, data: Any) -> Any:
        if isinstance(data, dict) and "items" in data:
            return data | {"items": tidy(data["items"], field="items")}
        return data


class ConversationCreate(_WithItems):
    """Begin a conversation."""

    metadata: Metadata | None = Field(
        None, description="Up to 16 pairs, kept with the conversation; `title` is its title."
    )
    items: Items | None = Field(
        None, description=f"What was said before, oldest first; at most {MOST_ITEMS} items."
    )


class ConversationUpdate(Wire):
    """Change what is kept with a conversation."""

    metadata: Metadata | None = Field(
        description="Takes the place of all pairs that were kept; `title` is the title."
    )


class ItemsCreate(_WithItems):
    """Add to a conversation."""

    items: Annotated[Items, Field(min_length=1)] = Field(
        description=f"What was said, oldest first; at most {MOST_ITEMS} items."
    )
