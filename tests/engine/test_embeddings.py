"""The embeddings client against a real server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from material import EmbeddingsServer, embeddings_server

from ragsocket.engine.embeddings import EmbedSettings, EndpointEmbedding, open_embedding
from ragsocket.errors import ConfigError, EngineError
from ragsocket.settings import Settings
from words import word_vector


@pytest.fixture
def server() -> Iterator[EmbeddingsServer]:
    """A running embeddings server."""
    with embeddings_server() as running:
        yield running


async def test_texts_and_queries_are_embedded_in_order(server: EmbeddingsServer) -> None:
    """Both ways of asking give one vector per text, in the order of the texts."""
    texts = ["two dogs", "a tent", "forty beds"]
    expected = [word_vector(text) for text in texts]
    settings = EmbedSettings(server.url + "/", "m1", api_key="sesame")
    async with open_embedding(settings) as embedding:
        assert await embedding.aget_query_embedding(texts[0]) == expected[0]
        assert await embedding.aget_text_embedding_batch(texts) == expected
    synchronous = EndpointEmbedding(settings)
    assert await anyio.to_thread.run_sync(synchronous.get_text_embedding_batch, texts) == expected
    assert synchronous.model_name == "m1"
    assert set(server.keys) == {"Bearer sesame"}
    assert "sesame" not in repr(settings)


@pytest.mark.parametrize("fault", ["status", "redirect", "shape", "refused", "timeout"])
async def test_faults_are_engine_errors(server: EmbeddingsServer, fault: str) -> None:
    """An error status, a redirect, a strange answer, no server, silence: all worth a retry."""
    settings = EmbedSettings(server.url, "m1")
    if fault == "status":
        server.status = 500
    elif fault == "redirect":
        server.status = 302
    elif fault == "shape":
        settings = EmbedSettings(server.url + "/elsewhere", "m1")
    elif fault == "refused":
        settings = EmbedSettings("http://127.0.0.1:9/v1", "m1")
    else:
        server.gate.clear()
        settings = EmbedSettings(server.url, "m1", timeout_s=0.2)
    async with open_embedding(settings) as embedding:
        with pytest.raises(EngineError) as raised:
            await embedding.aget_query_embedding("x")
        assert (raised.value.code, raised.value.retryable) == ("embedding_unavailable", True)
        with pytest.raises(EngineError):
            await anyio.to_thread.run_sync(embedding.get_text_embedding, "x")


async def test_what_is_not_a_url_is_refused() -> None:
    """Only http and https URLs are asked."""
    with pytest.raises(ConfigError, match="RAGSOCKET_EMBED_URL"):
        EndpointEmbedding(EmbedSettings("file:///etc", "m1"))


def test_the_key_goes_to_the_server_it_is_for() -> None:
    """The model server's key is sent to the same host and port only."""
    common: dict[str, Any] = {
        "llm_url": "http://one:1/v1",
        "llm_model": "m",
        "llm_api_key": "k",
        "embed_model": "e",
    }
    same = EmbedSettings.from_settings(Settings(**common, embed_url="http://one:1/embed"))
    other = EmbedSettings.from_settings(Settings(**common, embed_url="http://one:2/v1"))
    assert same is not None
    assert other is not None
    assert (same.api_key, other.api_key) == ("k", None)
    assert EmbedSettings.from_settings(Settings()) is None
