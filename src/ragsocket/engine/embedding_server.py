"""An OpenAI-compatible embeddings server, asked by a thread; what is asked and answered, for all.

Imports nothing heavy: an ingestion that embeds a passage or two must not wait for more.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from ragsocket.engine.ingestion.job import EmbedSettings
from ragsocket.errors import ConfigError, EngineError


class EmbeddingServer:
    """A server, and how it is asked.

    Attributes:
        model_name: the model to ask for.
        embed_batch_size: texts per request.

    Raises:
        ConfigError: the URL is not an http(s) URL.
    """

    def __init__(self, settings: EmbedSettings) -> None:
        if urlsplit(settings.url).scheme not in ("http", "https"):
            raise ConfigError(
                f"{settings.url!r} is not a URL of an embeddings server; set RAGSOCKET_EMBED_URL "
                "to something like http://127.0.0.1:11434/v1."
            )
        self._settings = settings
        self.model_name = settings.model
        self.embed_batch_size = settings.batch

    def request(self, texts: list[str]) -> tuple[str, bytes, dict[str, str]]:
        """Return URL, body and headers that ask for vectors."""
        body = {"model": self._settings.model, "input": texts, "encoding_format": "float"}
        headers = {"Content-Type": "application/json"}
        if self._settings.api_key:
            headers["Authorization"] = f"Bearer {self._settings.api_key}"
        return self._settings.url.rstrip("/") + "/embeddings", json.dumps(body).encode(), headers

    def get_text_embedding_batch(self, texts: list[str]) -> list[list[float]]:
        """Return a vector for each text; blocks, and opens a connection for it.

        Raises:
            EngineError: `embedding_unavailable`, worth a retry.
        """
        url, body, headers = self.request(texts)
        # No proxies, as with the asynchronous client.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects)
        request = urllib.request.Request(url, body, headers)
        try:
            with opener.open(request, timeout=self._settings.timeout_s) as response:
                return vectors(response.read(), len(texts))
        except urllib.error.HTTPError as error:
            error.close()
            raise unavailable() from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise unavailable() from error


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    # A redirect would carry the key to wherever it points.
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def vectors(body: bytes, count: int) -> list[list[float]]:
    """Return the vectors of an answer, in the order of the texts.

    Raises:
        ValueError, KeyError, TypeError: it is no such answer.
    """
    data: list[dict[str, Any]] = sorted(json.loads(body)["data"], key=lambda item: item["index"])
    found = [[float(x) for x in item["embedding"]] for item in data]
    if len(found) != count or not all(found) or len({len(v) for v in found}) != 1:
        raise ValueError(f"{len(found)} usable vectors for {count} texts")
    return found


def unavailable() -> EngineError:
    """Return the error of a server that does not answer, or not as it should."""
    return EngineError(
        "embedding_unavailable", "The embeddings server could not be used.", retryable=True
    )
