"""What a client is told, and what it tells."""

from __future__ import annotations

from typing import Literal

import msgspec


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked.

    Attributes:
        url: of the server's socket.
        protocol: `responses` is ours, `tokens` that of the two small servers.
        pids: processes whose CPU time is taken: the server's and the model's.
        at_once: how many ask at the same time.
        chats: how many chats each of them has, one after another.
        turns: how many questions a chat has.
        tokens: how long an answer is.
        rate: tokens per second, None for flat out.
        search: whether ours searches its documents first.
    """

    url: str
    protocol: Literal["responses", "tokens"]
    pids: dict[str, int]
    at_once: int
    chats: int = 1
    turns: int = 2
    tokens: int = 300
    rate: int | None = None
    search: bool = False


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. `cpu_s` is CPU time by process; `client` is this process."""

    answers: int
    tokens: int
    seconds: float
    cpu_s: dict[str, float]
    first_ms: list[float]
    forward_us: list[float]
