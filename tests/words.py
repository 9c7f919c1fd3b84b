"""An embedding of words that runs in this process, for tests that want vectors."""

from __future__ import annotations

import hashlib
import re
import threading

from llama_index.core.base.embeddings.base import BaseEmbedding
from pydantic import PrivateAttr


def word_vector(text: str, dimensions: int = 64) -> list[float]:
    """Return a bag of words as a vector: texts that share words are close."""
    vector = [0.0] * dimensions
    for word in re.findall(r"\w+", text.lower()):
        vector[int(hashlib.sha256(word.encode()).hexdigest(), 16) % dimensions] += 1.0
    return vector if any(vector) else [1.0] * dimensions


class WordEmbedding(BaseEmbedding):
    """An embedding object of this process; `gate` can hold queries back."""

    _gate: threading.Event = PrivateAttr(default_factory=threading.Event)
    _asked: threading.Event = PrivateAttr(default_factory=threading.Event)

    def __init__(self, model_name: str = "words") -> None:
        super().__init__(model_name=model_name)
        self._gate.set()

    def _get_text_embedding(self, text: str) -> list[float]:
        return word_vector(text)

    def _get_query_embedding(self, query: str) -> list[float]:
        self._asked.set()
        assert self._gate.wait(30)
        return word_vector(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        raise AssertionError("would compute on the event loop")
