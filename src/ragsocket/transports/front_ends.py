"""Requests that chat front ends make for themselves: titles, tags, follow-up questions.

Nobody asked them of the documents, so they are answered from the conversation that they hold.
They are known by their wording, which each front end keeps from version to version; a wording
that is not known here is searched for, as any question.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_WORDINGS = (
    # Open WebUI: titles, tags, follow-ups, search queries, completions, all of one make.
    r"### Task:\s.*<chat_history>",
    r"your task is to reflect the speaker's likely facial expression through a fitting emoji",
    # LibreChat.
    r"(provide|generate|write) (me )?a concise,? (title|5-word-or-less title)",
    r"analyze this conversation and provide:.*concise title in the detected language",
    # NextChat and its many children.
    r"generate a four to five word title summari[sz]ing our conversation",
    r"^summari[sz]e (the|our) (discussion|conversation) (briefly|in detail)"
    r".* as a (context )?prompt for (the )?future",
    # Chatbox.
    r"based on the chat history, give this conversation a name",
    # LobeChat, Cherry Studio.
    r"summari[sz]e the (user's )?conversation into a title",
    r"(professional|good|skilled).{0,40}conversation.{0,200}\btitle\b",
    # HuggingChat, big-AGI, Jan.
    r"you are a chat thread titling assistant",
    r"you are an ai conversation titles assistant",
    r"summari[sz]e in an? (5|five|10|ten)-word title",
)
_HOUSEKEEPING = re.compile("|".join(f"(?:{one})" for one in _WORDINGS), re.IGNORECASE | re.DOTALL)
_LOOKED_AT = 20_000


def is_housekeeping(instructions: Sequence[str], last: str) -> bool:
    """True if a request is a front end's own and not a question of its user.

    Args:
        instructions: the system and developer messages.
        last: the last message of the user.
    """
    # A system message of a user's own making may speak of titles, too; it says so first.
    told = [text[:300] for text in instructions if text.lstrip().lower().startswith("you are")]
    return any(_HOUSEKEEPING.search(text) for text in (last[:_LOOKED_AT], *told))
