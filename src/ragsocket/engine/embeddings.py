"""LlamaIndex embeddings: a client of an OpenAI-compatible server, and the built-in model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus

import aiohttp
import anyio
from anyio import to_thread
from llama_index.core.base.embeddings.base import BaseEmbedding, Embedding
from llama_index.core.bridge.pydantic import PrivateAttr

from ragsocket.engine import minilm
from ragsocket.engine.embedding_server import EmbeddingServer, unavailable, vectors
from ragsocket.engine.ingestion.job import BuiltInEmbed, EmbedSettings

__all__ = ["BuiltInEmbedding", "EmbedSettings", "EndpointEmbedding", "open_embedding"]


class EndpointEmbedding(BaseEmbedding):
    """Embeds through an OpenAI-compatible server.

    The asynchronous methods need a session, see `open_embedding`; the synchronous ones open a
    connection per request and are for the ingestion process.

    Raises:
        ConfigError: the URL is not an http(s) URL.
        EngineError: from every embedding method: `embedding_unavailable`, worth a retry.
    """

    _server: EmbeddingServer = PrivateAttr()
    _session: aiohttp.ClientSession | None = PrivateAttr(default=None)

    def __init__(
        self, settings: EmbedSettings, session: aiohttp.ClientSession | None = None
    ) -> None:
        super().__init__(model_name=settings.model, embed_batch_size=settings.batch)
        self._server = EmbeddingServer(settings)
        self._session = session

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex shows."""
        return "EndpointEmbedding"

    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return self._server.get_text_embedding_batch(texts)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        if self._session is None:
            raise RuntimeError("asynchronous embedding needs the session of open_embedding()")
        url, body, headers = self._server.request(texts)
        try:
            async with self._session.post(
                url, data=body, headers=headers, allow_redirects=False
            ) as response:
                if response.status != HTTPStatus.OK:
                    raise ValueError(f"status {response.status}")
                return vectors(await response.read(), len(texts))
        except (aiohttp.ClientError, OSError, ValueError, KeyError, TypeError) as error:
            raise unavailable() from error

    def _get_text_embedding(self, text: str) -> Embedding:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> Embedding:
        return self._get_text_embeddings([query])[0]

    async def _aget_text_embedding(self, text: str) -> Embedding:
        return (await self._aget_text_embeddings([text]))[0]

    async def _aget_query_embedding(self, query: str) -> Embedding:
        return (await self._aget_text_embeddings([query]))[0]


class BuiltInEmbedding(BaseEmbedding):
    """Embeds with the model that comes with the extra `local`, see `ragsocket.engine.minilm`.

    The model is loaded at the first use and shared by all objects of the process. Questions are
    embedded one at a time in a thread, passages in up to four threads. Texts in other languages
    than English get vectors of little use.

    Raises:
        ConfigError: from every method: a package is missing, or its file is not the right one.
    """

    _one_question: anyio.CapacityLimiter = PrivateAttr()

    def __init__(self) -> None:
        super().__init__(model_name=minilm.MODEL_NAME, embed_batch_size=minilm.BATCH)
        self._one_question = anyio.CapacityLimiter(1)

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex shows."""
        return "BuiltInEmbedding"

    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return minilm.embed_all(texts)

    def _get_text_embedding(self, text: str) -> Embedding:
        vector: Embedding = minilm.load().embed(text).tolist()
        return vector

    def _get_query_embedding(self, query: str) -> Embedding:
        return self._get_text_embedding(query)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return await to_thread.run_sync(self._get_text_embeddings, texts)

    async def _aget_text_embedding(self, text: str) -> Embedding:
        return await to_thread.run_sync(self._get_text_embedding, text, limiter=self._one_question)

    async def _aget_query_embedding(self, query: str) -> Embedding:
        return await self._aget_text_embedding(query)


@asynccontextmanager
async def open_embedding(
    settings: EmbedSettings | BuiltInEmbed,
) -> AsyncIterator[EndpointEmbedding | BuiltInEmbedding]:
    """Give an embedding for questions, ready for use on the running event loop in this block.

    Raises:
        ConfigError: the URL is not an http(s) URL, or the built-in model cannot be used.
    """
    if isinstance(settings, BuiltInEmbed):
        await to_thread.run_sync(minilm.load)
        yield BuiltInEmbedding()
        return
    timeout = aiohttp.ClientTimeout(
        total=settings.timeout_s, sock_connect=settings.connect_timeout_s
    )
    async with aiohttp.ClientSession(timeout=timeout) as session:
        yield EndpointEmbedding(settings, session)
