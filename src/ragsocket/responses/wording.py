"""What was said, as plain text: for titles, and for finding it again. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ragsocket.protocol.input_items import InputItem
from ragsocket.protocol.resources import OutputItem
from ragsocket.responses.asking import turns_of

OPENING = 60
"""Characters of a first question that make a title."""


def opening(items: Iterable[InputItem | OutputItem]) -> str | None:
    """Return the first words of the first question; None if there is none."""
    for turn in turns_of(items):
        # A title needs no more of a question that is a whole page.
        words = " ".join(turn.text[: OPENING * 10].split())
        if turn.role != "user" or not words:
            continue
        if len(words) <= OPENING:
            return words
        whole, _, _ = words[:OPENING].rpartition(" ")
        return (whole or words[: OPENING - 1]) + "…"
    return None


def searchable(items: Iterable[InputItem | OutputItem]) -> str:
    """Return what user and assistant said, in the one case that searches compare."""
    turns = (turn for turn in turns_of(items) if turn.role in ("user", "assistant"))
    return "\n".join(turn.text for turn in turns if turn.text).casefold()


def title_of(metadata: Mapping[str, str], words: str | None) -> str | None:
    """Return what a conversation is called: the title that was set, or else its first words."""
    return metadata.get("title", "").strip() or words
