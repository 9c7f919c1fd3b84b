"""Orders passages by a reranker: any server that speaks `POST {url}/rerank` as Jina's does.

llama.cpp's server, vLLM, Jina, Cohere and others do. Only the order is taken: their scores are
logits with some and shares with others, so a source keeps the score of the search.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

import aiohttp

from ragsocket.errors import ConfigError, EngineError
from ragsocket.settings import Settings


@dataclass(frozen=True, slots=True)
class RerankSettings:
    """How to reach a reranker.

    Attributes:
        url: base URL of the server, usually ending in `/v1`.
        model: name of its model; None for a server that has one alone.
        api_key: sent as bearer token, or None.
        top_n: how many passages it is shown.
        timeout_s: how long it may take, in seconds.
        connect_timeout_s: how long reaching it may take.
    """

    url: str
    model: str | None = None
    api_key: str | None = None
    top_n: int = 20
    timeout_s: float = 2.0
    connect_timeout_s: float = 10.0

    @classmethod
    def from_settings(cls, settings: Settings) -> RerankSettings | None:
        """Return what the operator chose; None for no reranker."""
        if settings.rerank_url is None:
            return None
        key = settings.rerank_api_key
        return cls(
            url=settings.rerank_url,
            model=settings.rerank_model,
            api_key=key.get_secret_value() if key else None,
            top_n=settings.rerank_top_n,
            timeout_s=settings.rerank_timeout_s,
            connect_timeout_s=settings.connect_timeout_s,
        )


class Reranker:
    """A client of a reranker, see `open_reranker`.

    Attributes:
        top_n: how many passages it is shown.
    """

    def __init__(self, settings: RerankSettings, session: aiohttp.ClientSession) -> None:
        self._settings = settings
        self._session = session
        self.top_n = settings.top_n

    async def order(self, query: str, texts: Sequence[str]) -> list[int]:
        """Return the places of texts, from 0, the most relevant first.

        Those that the server does not name come last, in the order given. A cancel closes the
        connection.

        Raises:
            EngineError: `rerank_unavailable`, no answer in time or one that cannot be used.
        """
        asked = self._settings
        body = {"query": query, "documents": list(texts), "top_n": len(texts)}
        if asked.model is not None:
            body["model"] = asked.model
        headers = {"Content-Type": "application/json"}
        if asked.api_key:
            headers["Authorization"] = f"Bearer {asked.api_key}"
        try:
            async with self._session.post(
                asked.url.rstrip("/") + "/rerank",
                data=json.dumps(body).encode(),
                headers=headers,
                # A redirect would carry the key to wherever it points.
                allow_redirects=False,
            ) as response:
                if response.status != HTTPStatus.OK:
                    raise ValueError(f"status {response.status}")
                return _order(await response.read(), len(texts))
        except (aiohttp.ClientError, OSError, ValueError, KeyError, TypeError) as error:
            raise EngineError(
                "rerank_unavailable", "The reranker could not be used.", retryable=True
            ) from error


@asynccontextmanager
async def open_reranker(settings: RerankSettings) -> AsyncIterator[Reranker]:
    """Give a reranker, ready for use on the running event loop in this block.

    Raises:
        ConfigError: the URL is not an http(s) URL.
    """
    parts = urlsplit(settings.url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"{settings.url!r} is not the address of a reranker; set RAGSOCKET_RERANK_URL to "
            "something like http://127.0.0.1:8081/v1."
        )
    timeout = aiohttp.ClientTimeout(
        total=settings.timeout_s, sock_connect=settings.connect_timeout_s
    )
    async with aiohttp.ClientSession(timeout=timeout) as session:
        yield Reranker(settings, session)


def _order(body: bytes, count: int) -> list[int]:
    scores: dict[int, float] = {}
    for result in json.loads(body)["results"]:
        place = result["index"]
        if not isinstance(place, int) or not 0 <= place < count:
            raise ValueError(f"{place!r} is the place of no passage")
        score = float(result["relevance_score"])
        if math.isnan(score):
            raise ValueError("a score is no number")
        scores.setdefault(place, score)
    if not scores:
        raise ValueError("no results")
    named = sorted(scores, key=lambda place: -scores[place])
    return [*named, *(place for place in range(count) if place not in scores)]
