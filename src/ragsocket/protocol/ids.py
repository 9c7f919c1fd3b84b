"""Identifiers: a prefix that says what is named, and 128 random bits that cannot be guessed."""

from __future__ import annotations

import secrets


def _new(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(16)}"


def new_response_id() -> str:
    """Return a fresh `resp_…`."""
    return _new("resp")


def new_conversation_id() -> str:
    """Return a fresh `conv_…`."""
    return _new("conv")


def new_message_id() -> str:
    """Return a fresh `msg_…`."""
    return _new("msg")


def new_search_id() -> str:
    """Return a fresh `fs_…`."""
    return _new("fs")


def new_function_call_id() -> str:
    """Return a fresh `fc_…`, the id of the item."""
    return _new("fc")


def new_function_output_id() -> str:
    """Return a fresh `fco_…`."""
    return _new("fco")


def new_reasoning_id() -> str:
    """Return a fresh `rs_…`."""
    return _new("rs")


def new_steer_id() -> str:
    """Return a fresh `steer_…`."""
    return _new("steer")


def item_id(prefix: str, response_id: str, index: int) -> str:
    """Return the id of an answer's item: named after its response, since deltas name it alone.

    So whoever follows several responses on one connection knows what each event belongs to.
    """
    return f"{prefix}_{response_id.partition('_')[2]}_{index}"


def new_reference_id() -> str:
    """Return a fresh `err_…`, which joins what a client is told with what the log knows."""
    return f"err_{secrets.token_hex(6)}"
