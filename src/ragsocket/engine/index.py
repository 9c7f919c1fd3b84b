"""Searches the published revisions: exact vectors and BM25, fused by rank.

An `Index` holds immutable revisions and replaces them whole; a search runs on those it began with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio
from anyio import to_thread
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import NodeWithScore

from ragsocket.engine.base import RetrievalMode, Source
from ragsocket.engine.ingestion.job import DEFAULT_VECTOR_STORE
from ragsocket.engine.ingestion.revision import Revision, idf, load, terms
from ragsocket.engine.passages import Passages, Store
from ragsocket.engine.vector_store import HybridRetriever, PassageVectorStore
from ragsocket.errors import ConfigError, RequestError

_LOAD_ATTEMPTS = 5


@dataclass(frozen=True)
class Snapshot:
    """The revisions that one search runs on; immutable.

    Attributes:
        parts: one revision per vector store searched.
    """

    parts: tuple[Revision, ...] = ()

    @property
    def revision(self) -> int:
        """The newest index revision among the parts; 0 if there is none."""
        return max((part.number for part in self.parts), default=0)

    @property
    def passages(self) -> int:
        """How many passages can be found."""
        return sum(len(part.rows) for part in self.parts)

    def terms(self, text: str) -> list[str]:
        """Return the stemmed content words of a text in order, repeats included."""
        return terms(text)

    def term_weights(self, text: str) -> dict[str, float]:
        """Return each stemmed content word of a text with its idf; the rarer the heavier.

        A word that no passage holds weighs as much as one that a single passage holds.
        """
        count = max(self.passages, 1)
        return {
            term: idf(max(1, sum(part.passages_with(term) for part in self.parts)), count)
            for term in terms(text)
        }


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search found.

    Attributes:
        sources: best first, no two with the same text.
        revision: the index revision searched; 0 for an empty index.
        snapshot: what was searched, for weighing words.
    """

    sources: list[Source]
    revision: int
    snapshot: Snapshot


class Index:
    """The published revisions of every store in one SQLite file, ready to be searched."""

    def __init__(self, path: Path, embed_model: BaseEmbedding | None = None) -> None:
        """Name the SQLite file, which need not exist yet, and what embeds questions.

        Args:
            path: the SQLite file.
            embed_model: must be the model that the passages were embedded with; vectors of
                another model are left out of the search. Any LlamaIndex embedding will do;
                ingestion with one that is not an embeddings server runs in a thread of this
                process (`run_ingestion(embed_model=)`).
        """
        self._path = path
        self._embed_model = embed_model
        self._passages: Passages | None = None
        self._revisions: Mapping[tuple[str, str], Revision] = {}
        self._refreshing = anyio.Lock()

    async def open(self) -> None:
        """Load what is published, in a thread; the same as `refresh`."""
        await self.refresh()

    async def refresh(self) -> int:
        """Load what was published since, in a thread, swap it in at once, and return `revision`.

        Searches that run go on with what they began with.

        Raises:
            ConfigError: the index is damaged; what was loaded before stays.
        """
        async with self._refreshing:
            self._revisions = await to_thread.run_sync(self._load)
        return self.revision

    def close(self) -> None:
        """Close the SQLite file; no search may follow."""
        if self._passages is not None:
            self._passages.close()

    @property
    def revision(self) -> int:
        """The newest revision loaded; 0 if there is none."""
        return max((r.number for r in self._revisions.values()), default=0)

    def snapshot(self, owner: str, vector_store_ids: Sequence[str] = ()) -> Snapshot:
        """Return what a search of these stores would run on; without ids, the default store."""
        revisions = self._revisions
        wanted = dict.fromkeys(vector_store_ids or (DEFAULT_VECTOR_STORE,))
        return Snapshot(tuple(revisions[owner, id_] for id_ in wanted if (owner, id_) in revisions))

    def unknown(self, owner: str, vector_store_ids: Sequence[str]) -> list[str]:
        """Return those of the stores named that this owner does not have; the default one is."""
        return [
            id_
            for id_ in vector_store_ids
            if id_ != DEFAULT_VECTOR_STORE and (owner, id_) not in self._revisions
        ]

    async def search(
        self,
        query: str,
        *,
        owner: str,
        vector_store_ids: Sequence[str] = (),
        top_k: int,
        mode: RetrievalMode = "hybrid",
    ) -> SearchResult:
        """Find the passages that fit a query best.

        In hybrid mode, words alone decide where there are no vectors or where embedding the
        query fails.

        Args:
            query: free text.
            owner: whose stores are searched.
            vector_store_ids: the stores; empty for the default one. Unknown ones have nothing.
            top_k: how many passages at most, from 1.
            mode: `none` finds nothing.

        Raises:
            RequestError: `dense` is asked for and there are no vectors.
            EngineError: `dense` is asked for and the query cannot be embedded.
        """
        snapshot = self.snapshot(owner, vector_store_ids)
        with_vectors = [part for part in snapshot.parts if self._has_usable_vectors(part)]
        if mode == "dense" and snapshot.passages and not with_vectors:
            raise RequestError(
                "unsupported_parameter",
                "There are no vectors to search (yet): install ragsocket[local] or set "
                "RAGSOCKET_EMBED_URL and RAGSOCKET_EMBED_MODEL and ingest again, or use the mode "
                "hybrid or sparse.",
                param="retrieval.mode",
            )
        if mode == "none" or not snapshot.passages or not query.strip():
            return SearchResult([], snapshot.revision, snapshot)
        stores = {part: self._store(part) for part in snapshot.parts}
        retriever = HybridRetriever(
            by_words=() if mode == "dense" else list(stores.values()),
            by_vector=() if mode == "sparse" else [stores[part] for part in with_vectors],
            embed_model=self._embed_model,
            top_k=top_k,
            vectors_required=mode == "dense",
            all_embedded=all(
                part in with_vectors and part.embedded == len(part.rows) for part in snapshot.parts
            ),
        )
        found = await retriever.aretrieve(query)
        return SearchResult([_source(hit) for hit in found], snapshot.revision, snapshot)

    def _has_usable_vectors(self, part: Revision) -> bool:
        return (
            self._embed_model is not None
            and part.vectors is not None
            and part.embed_model == self._embed_model.model_name
        )

    def _store(self, part: Revision) -> PassageVectorStore:
        assert self._passages is not None
        return PassageVectorStore(self._passages, part.owner, part.vector_store_id, part)

    def _load(self) -> dict[tuple[str, str], Revision]:
        if self._passages is None:
            if not self._path.exists():
                return {}
            self._passages = Passages(self._path)
        for _ in range(_LOAD_ATTEMPTS):
            try:
                return {
                    (store.owner, store.id): self._load_store(store)
                    for store in self._passages.stores()
                    if store.revision
                }
            except FileNotFoundError:
                continue  # two ingestions went by since the store was read
        raise ConfigError(
            f"files of the index {self._path} are missing beside it: ingest the documents again."
        )

    def _load_store(self, store: Store) -> Revision:
        loaded = self._revisions.get((store.owner, store.id))
        if loaded is not None and loaded.number == store.revision:
            return loaded
        return load(self._path, store.owner, store.id, store.revision)


def _source(hit: NodeWithScore) -> Source:
    metadata = hit.node.metadata
    return Source(
        passage_id=hit.node.node_id,
        file_id=metadata["file_id"],
        file_name=metadata["file_name"],
        text=hit.node.get_content(),
        score=hit.score or 0.0,
        place=metadata["place"],
    )
