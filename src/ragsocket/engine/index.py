"""Searches the published revisions: exact vectors and BM25, fused by rank.

An `Index` holds immutable revisions and replaces them whole; a search runs on those it began with.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
from anyio import to_thread
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import NodeWithScore

from ragsocket.engine.base import Attributes, Filter, RetrievalMode, Source
from ragsocket.engine.catalog import Catalog
from ragsocket.engine.ingestion import Progress, Report, Upload, run_ingestion
from ragsocket.engine.ingestion.job import (
    DEFAULT_OWNER,
    DEFAULT_VECTOR_STORE,
    parts_of,
)
from ragsocket.engine.ingestion.pipeline import drop
from ragsocket.engine.ingestion.revision import Revision, load
from ragsocket.engine.ingestion.words import idf, terms
from ragsocket.engine.metadata_filters import to_metadata_filters
from ragsocket.engine.passages import File, Passages, Store
from ragsocket.engine.rerank import Reranker
from ragsocket.engine.selection import Selection
from ragsocket.engine.vector_store import HybridRetriever, PassageVectorStore
from ragsocket.errors import ConfigError, EngineError, RagsocketError, RequestError
from ragsocket.settings import Settings

logger = logging.getLogger("ragsocket.engine")

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
        sources: best first, no two that say the same.
        revision: the index revision searched; 0 for an empty index.
        snapshot: what was searched, for weighing words.
        reranked: whether a reranker ordered them; False if it failed, None if none was asked.
    """

    sources: list[Source]
    revision: int
    snapshot: Snapshot
    reranked: bool | None = None


class Index:
    """The published revisions of every store in one SQLite file, ready to be searched."""

    def __init__(
        self,
        path: Path,
        embed_model: BaseEmbedding | None = None,
        catalog: Catalog | None = None,
        reranker: Reranker | None = None,
    ) -> None:
        """Name the SQLite file, which need not exist yet, and what embeds questions.

        Args:
            path: the SQLite file.
            embed_model: must be the model that the passages were embedded with; vectors of
                another model are left out of the search. Any LlamaIndex embedding will do;
                ingestion with one that is not an embeddings server runs in a thread of this
                process (`run_ingestion(embed_model=)`).
            catalog: knows the vector stores and the uploads in them; without one, the stores are
                those that have a revision.
            reranker: orders what was found, unless a search says otherwise.
        """
        self._path = path
        self._embed_model = embed_model
        self._catalog = catalog
        self._passages: Passages | None = None
        self._revisions: Mapping[tuple[str, str], Revision] = {}
        self._selection = Selection(catalog)
        self._reranker = reranker
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
            loaded = await to_thread.run_sync(self._load)
            stale, self._revisions = [self._revisions], loaded
            # Giving back what a large revision held takes longer than the loop may stand still.
            await to_thread.run_sync(stale.clear)
        return self.revision

    async def take_in(
        self,
        settings: Settings,
        documents: Path | Sequence[Upload],
        *,
        vector_store_id: str = DEFAULT_VECTOR_STORE,
        owner: str = DEFAULT_OWNER,
        embed_model: BaseEmbedding | None = None,
        on_progress: Callable[[Progress], None] = lambda _: None,
        on_refreshed: Callable[[], Awaitable[None]],
    ) -> Report:
        """Run an ingestion, see `run_ingestion`, and search what it publishes as it comes.

        Args:
            settings: the operator's choices, of which the index is this one.
            documents: a folder, or all the uploaded files that the store shall hold.
            vector_store_id: store to bring in line with them.
            owner: whose store it is.
            embed_model: embeds the passages in place of what the settings name.
            on_progress: called on the event loop.
            on_refreshed: awaited whenever a newly published revision can be searched; before
                there are vectors, it is by words.

        Raises:
            ConfigError: the documents or the index cannot be used.
            EngineError: the ingestion broke; what was published by then stays.
        """
        report: Report | None = None
        failure: RagsocketError | None = None

        async def follow() -> None:
            try:
                await self.refresh()
            except RagsocketError as error:
                # The refresh at the end raises it, if it is still so.
                logger.warning("a new revision cannot be searched: %s", error)
            else:
                await on_refreshed()

        def notice(progress: Progress) -> None:
            if progress.revision:
                refreshes.start_soon(follow)
            on_progress(progress)

        async with anyio.create_task_group() as refreshes:
            try:
                report = await run_ingestion(
                    settings,
                    documents,
                    on_progress=notice,
                    vector_store_id=vector_store_id,
                    owner=owner,
                    embed_model=embed_model,
                )
            except RagsocketError as error:
                # Raised outside, since a task group would wrap it.
                failure = error
        if failure is not None:
            raise failure
        assert report is not None
        await self.refresh()
        return report

    async def drop(self, owner: str, part: str) -> None:
        """Delete a part of a store, in a thread; searches that run go on with what they began with.

        Raises:
            ConfigError: the index is damaged, or the part is being ingested.
        """
        if self._passages is not None:
            await to_thread.run_sync(drop, self._path, owner, part)
            await self.refresh()

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
        named = dict.fromkeys(vector_store_ids or (DEFAULT_VECTOR_STORE,))
        wanted = [(owner, part) for id_ in named if self._has(owner, id_) for part in parts_of(id_)]
        return Snapshot(tuple(revisions[key] for key in wanted if key in revisions))

    def unknown(self, owner: str, vector_store_ids: Sequence[str]) -> list[str]:
        """Return those of the stores named that this owner does not have; the default one is."""
        return [id_ for id_ in vector_store_ids if not self._has(owner, id_)]

    def _has(self, owner: str, vector_store_id: str) -> bool:
        if self._catalog is not None:
            return self._catalog.has_store(owner, vector_store_id)
        return (
            vector_store_id == DEFAULT_VECTOR_STORE or (owner, vector_store_id) in self._revisions
        )

    def revision_of(self, owner: str, part: str) -> int:
        """Return the revision of a part of a store (`parts_of`) that is loaded; 0 if none is."""
        revision = self._revisions.get((owner, part))
        return revision.number if revision is not None else 0

    def files(self, owner: str, part: str) -> list[File]:
        """Return the files of a part of a store, failed ones too; blocks."""
        return self._passages.files(owner, part) if self._passages else []

    def texts(self, owner: str, part: str, file_id: str) -> list[str]:
        """Return the passages of a file of a part of a store, in order; blocks."""
        return self._passages.texts(owner, part, file_id) if self._passages else []

    def file(self, owner: str, part: str, file_id: str) -> File | None:
        """Return one file of a part of a store; blocks."""
        return self._passages.file(owner, part, file_id) if self._passages else None

    async def search(
        self,
        query: str,
        *,
        owner: str,
        vector_store_ids: Sequence[str] = (),
        top_k: int,
        mode: RetrievalMode = "hybrid",
        filters: Filter | None = None,
        rerank: bool | None = None,
    ) -> SearchResult:
        """Find the passages that fit a query best.

        In hybrid mode, words alone decide where there are no vectors or where embedding the
        query fails; and the order is the search's own where the reranker fails.

        Args:
            query: free text.
            owner: whose stores are searched.
            vector_store_ids: the stores; empty for the default one. Unknown ones have nothing.
            top_k: how many passages at most, from 1.
            mode: `none` finds nothing.
            filters: which files may be found; None for all.
            rerank: whether the reranker orders what was found; None if there is one.

        Raises:
            RequestError: `dense` is asked for and there are no vectors, or `rerank` and there is
                no reranker.
            EngineError: `dense` is asked for and the query cannot be embedded.
        """
        if rerank and self._reranker is None:
            raise RequestError(
                "unsupported_parameter",
                "There is no reranker here: set RAGSOCKET_RERANK_URL, or leave rerank out.",
                param="retrieval.rerank",
            )
        reranker = self._reranker if rerank is not False else None
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
            top_k=max(top_k, reranker.top_n) if reranker is not None else top_k,
            vectors_required=mode == "dense",
            all_embedded=all(
                part in with_vectors and part.embedded == len(part.rows) for part in snapshot.parts
            ),
            filters=to_metadata_filters(filters) if filters is not None else None,
        )
        found = await retriever.aretrieve(query)
        reranked = None
        if reranker is not None and found:
            found, reranked = await _reranked(reranker, query, found)
        attributes: Mapping[str, Attributes] = {}
        if self._selection.has_attributes:
            attributes = await to_thread.run_sync(self._selection.attributes, snapshot.parts)
        sources = [_source(hit, attributes) for hit in found[:top_k]]
        return SearchResult(sources, snapshot.revision, snapshot, reranked)

    def _has_usable_vectors(self, part: Revision) -> bool:
        return (
            self._embed_model is not None
            and part.vectors is not None
            and part.embed_model == self._embed_model.model_name
        )

    def _store(self, part: Revision) -> PassageVectorStore:
        assert self._passages is not None
        return PassageVectorStore(
            self._passages,
            part.owner,
            part.vector_store_id,
            part,
            choose=partial(self._selection.places, self._passages, part),
        )

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


async def _reranked(
    reranker: Reranker, query: str, found: list[NodeWithScore]
) -> tuple[list[NodeWithScore], bool]:
    """Return the best of what was found in the reranker's order, and whether that is its order."""
    shown = found[: reranker.top_n]
    try:
        order = await reranker.order(query, [hit.node.get_content() for hit in shown])
    except EngineError as error:
        logger.warning("the search's own order stands: the reranker failed", exc_info=error)
        return found, False
    return [*(shown[place] for place in order), *found[len(shown) :]], True


def _source(hit: NodeWithScore, attributes: Mapping[str, Attributes]) -> Source:
    metadata = hit.node.metadata
    return Source(
        passage_id=hit.node.node_id,
        file_id=metadata["file_id"],
        file_name=metadata["file_name"],
        text=hit.node.get_content(),
        score=hit.score or 0.0,
        place=metadata["place"],
        attributes=attributes.get(metadata["file_id"], {}),
    )
