"""Passages as a LlamaIndex vector store, and the retriever that fuses vectors and words.

They speak LlamaIndex's interfaces alone, so that another database's store can stand in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from anyio import to_thread
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.schema import BaseNode, NodeWithScore, QueryBundle, TextNode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)

from ragsocket.engine.base import Filter
from ragsocket.engine.doubles import without_doubles
from ragsocket.engine.embeddings import BuiltInEmbedding, EndpointEmbedding
from ragsocket.engine.ingestion.pipeline import LOCK_WAIT_S, only_ingestion, publish
from ragsocket.engine.ingestion.revision import Places, Revision, load
from ragsocket.engine.metadata_filters import from_metadata_filters
from ragsocket.engine.passages import File, Passage, Passages, make_passage_id, text_sha256
from ragsocket.engine.selection import Selection
from ragsocket.errors import EngineError

logger = logging.getLogger(__name__)

RANK_CONSTANT = 60
# Candidates per list: fusion and the removal of doubles need a reserve.
CANDIDATES = 3
FEWEST_CANDIDATES = 30

Choose: TypeAlias = "Callable[[Filter | None], Places | None]"


class PassageVectorStore(BasePydanticVectorStore):
    """One vector store of the SQLite file as a LlamaIndex vector store.

    Queries run on one revision: by vector (mode `default`) or by words (`sparse`,
    `text_search`), among the passages that `choose` allows. Metadata filters choose by the
    attributes of files, before anything is ranked. `add` and `delete` each publish a new
    revision, for stores that are not kept in line with a folder.
    """

    _passages: Passages = PrivateAttr()
    _owner: str = PrivateAttr()
    _vector_store_id: str = PrivateAttr()
    _revision: Revision | None = PrivateAttr()
    _embed_model: str = PrivateAttr()
    _choose: Choose = PrivateAttr()
    _chosen: tuple[MetadataFilters | None, Places | None] | None = PrivateAttr(default=None)

    def __init__(
        self,
        passages: Passages,
        owner: str,
        vector_store_id: str,
        revision: Revision | None = None,
        embed_model: str = "unknown",
        choose: Choose | None = None,
    ) -> None:
        """Name a store and the revision that is asked.

        Args:
            passages: the SQLite file.
            owner: whose store it is.
            vector_store_id: the store.
            revision: what queries run on; None for a store that is empty so far.
            embed_model: name of what makes the vectors of nodes that are added.
            choose: returns which passages pass a filter, None for all; None for a filter by the
                ids and names of files alone.
        """
        super().__init__(stores_text=True)
        self._passages = passages
        self._owner = owner
        self._vector_store_id = vector_store_id
        self._revision = revision
        self._embed_model = embed_model
        self._choose = choose or self._choose_by_name

    @property
    def client(self) -> Passages:
        """The connection underneath."""
        return self._passages

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Return up to `similarity_top_k` nodes with similarities between 0 and 1.

        Raises:
            NotImplementedError: the mode or a filter is not supported.
        """
        if query.node_ids or query.doc_ids:
            raise NotImplementedError("PassageVectorStore filters by metadata alone")
        found: list[tuple[int, float]] = []
        count, among = query.similarity_top_k, self._among(query.filters)
        if query.mode == VectorStoreQueryMode.DEFAULT:
            if self._revision and query.query_embedding:
                found = self._revision.search_vectors(query.query_embedding, count, among)
        elif query.mode in (VectorStoreQueryMode.SPARSE, VectorStoreQueryMode.TEXT_SEARCH):
            if self._revision and query.query_str:
                found = self._revision.search_words(query.query_str, count, among)
        else:
            raise NotImplementedError(f"PassageVectorStore cannot query by {query.mode}")
        scores = dict(found)
        passages = self._passages.find(self._owner, self._vector_store_id, list(scores))
        nodes = [
            TextNode(
                id_=passage.id,
                text=passage.text,
                metadata={
                    "file_id": passage.file_id,
                    "file_name": passage.path,
                    "place": passage.place,
                },
            )
            for passage in passages
        ]
        return VectorStoreQueryResult(
            nodes=nodes,
            similarities=[scores[passage.row] for passage in passages],
            ids=[passage.id for passage in passages],
        )

    def _among(self, filters: MetadataFilters | None) -> Places | None:
        # A search asks twice, by vector and by words, with the same filters.
        if self._chosen is None or self._chosen[0] is not filters:
            asked = from_metadata_filters(filters) if filters is not None else None
            self._chosen = filters, self._choose(asked)
        return self._chosen[1]

    def _choose_by_name(self, filters: Filter | None) -> Places | None:
        if filters is None or self._revision is None:
            return None
        return Selection(None).places(self._passages, self._revision, filters)

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Do the same as `query`, in a thread."""
        return await to_thread.run_sync(self.query, query)

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Add nodes, replacing the files (`ref_doc_id`) that they come from; blocks.

        Vectors are kept if every node has an embedding.
        """
        by_file: dict[str, list[BaseNode]] = {}
        for node in nodes:
            by_file.setdefault(node.ref_doc_id or node.node_id, []).append(node)
        files: list[File] = []
        passages: list[Passage] = []
        for file_id, members in by_file.items():
            path = str(members[0].metadata.get("file_name", file_id))
            files.append(File(file_id, path, "", 0))
            for ordinal, node in enumerate(members):
                text = node.get_content()
                place = node.metadata.get("place")
                passage_id = make_passage_id(file_id, text, ordinal)
                passages.append(Passage(passage_id, file_id, ordinal, text, place))
        vectors = [(node.get_content(), node.embedding) for node in nodes if node.embedding]
        self._publish(files, passages, vectors if len(vectors) == len(nodes) else [])
        return [passage.id for passage in passages]

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Do the same as `add`, in a thread."""
        return await to_thread.run_sync(self.add, nodes)

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Take out a file (`file_id`) with its passages; blocks."""
        known = self._passages.files(self._owner, self._vector_store_id)
        files = [
            File(file.id, file.path, file.sha256, file.size, "removed")
            for file in known
            if file.id == ref_doc_id
        ]
        if files:
            self._publish(files, [], [])

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Do the same as `delete`, in a thread."""
        await to_thread.run_sync(self.delete, ref_doc_id)

    def _publish(
        self,
        files: list[File],
        passages: list[Passage],
        vectors: list[tuple[str, list[float]]],
    ) -> None:
        db = self._passages
        with only_ingestion(db.path, self._vector_store_id, lambda _: None, LOCK_WAIT_S):
            if vectors:
                rows = [(text_sha256(t), np.asarray(v, dtype="<f4").tobytes()) for t, v in vectors]
                store = db.open_store(self._owner, self._vector_store_id)
                db.save_embeddings(store, self._embed_model, len(vectors[0][1]), rows)
            store = db.open_store(self._owner, self._vector_store_id)
            db.stage_anew(store, "")
            for file in files:
                db.stage(store, file, [one for one in passages if one.file_id == file.id])
            store = publish(db, store, store.embed_model is not None)
            self._revision = load(db.path, store.owner, store.id, store.revision)


class HybridRetriever(BaseRetriever):
    """Asks vector stores by vector and by words, and fuses the lists.

    If `all_embedded` says that each node could have both similarities, a node's score, 0 to 1, is
    their mean, and the order is by score: what only words or only vectors find is less likely to
    the point. Otherwise the score is the better one of the two, and the order is by reciprocal
    rank, so that nodes without a vector are not held back. Of passages that say the same the best
    one is returned.
    """

    def __init__(
        self,
        by_words: Sequence[BasePydanticVectorStore],
        by_vector: Sequence[BasePydanticVectorStore],
        embed_model: BaseEmbedding | None,
        top_k: int,
        *,
        vectors_required: bool = False,
        all_embedded: bool = False,
        filters: MetadataFilters | None = None,
    ) -> None:
        super().__init__()
        self._by_words = by_words
        self._by_vector = by_vector if embed_model else ()
        self._embed_model = embed_model
        self._top_k = top_k
        self._vectors_required = vectors_required
        self._all_embedded = all_embedded
        self._filters = filters

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        vector = query_bundle.embedding
        if self._by_vector and self._embed_model and vector is None:
            vector = self._embed_model.get_query_embedding(query_bundle.query_str)
        queries = self._queries(query_bundle.query_str, vector)
        return self._fuse([[store.query(query) for store in stores] for stores, query in queries])

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        vector = query_bundle.embedding or await self._embed(query_bundle.query_str)
        queries = self._queries(query_bundle.query_str, vector)
        # One after the other: words take a millisecond, and errors stay single ones.
        lists = [[await store.aquery(query) for store in stores] for stores, query in queries]
        # In a thread as well: passages are held against each other.
        return await to_thread.run_sync(self._fuse, lists)

    async def _embed(self, query: str) -> list[float] | None:
        if not self._by_vector or self._embed_model is None:
            return None
        try:
            if isinstance(self._embed_model, EndpointEmbedding | BuiltInEmbedding):
                return await self._embed_model.aget_query_embedding(query)
            # The asynchronous methods of many LlamaIndex embeddings compute on the event loop.
            return await to_thread.run_sync(self._embed_model.get_query_embedding, query)
        except Exception as error:
            if self._vectors_required:
                if isinstance(error, EngineError):
                    raise
                raise EngineError(
                    "embedding_unavailable", "The question could not be embedded.", retryable=True
                ) from error
            logger.warning("searching by words alone: embedding failed", exc_info=error)
            return None

    def _queries(
        self, text: str, vector: list[float] | None
    ) -> list[tuple[Sequence[BasePydanticVectorStore], VectorStoreQuery]]:
        count = max(self._top_k * CANDIDATES, FEWEST_CANDIDATES)
        queries = [
            (
                self._by_words,
                VectorStoreQuery(
                    query_str=text,
                    similarity_top_k=count,
                    mode=VectorStoreQueryMode.SPARSE,
                    filters=self._filters,
                ),
            )
        ]
        if vector is not None:
            by_vector = VectorStoreQuery(
                query_embedding=vector, similarity_top_k=count, filters=self._filters
            )
            queries.append((self._by_vector, by_vector))
        return queries

    def _fuse(self, lists: Sequence[Sequence[VectorStoreQueryResult]]) -> list[NodeWithScore]:
        ranks: dict[str, float] = {}
        nodes: dict[str, NodeWithScore] = {}
        # A list without stores was not asked for.
        means = self._all_embedded and all(lists) and len(lists) > 1
        for results in lists:
            hits = [
                (similarity, node)
                for result in results
                for similarity, node in zip(
                    result.similarities or (), result.nodes or (), strict=True
                )
            ]
            hits.sort(key=lambda hit: -hit[0])
            # A file may be in several of the stores; its passages count once.
            best_of: dict[str, tuple[float, BaseNode]] = {}
            for similarity, node in hits:
                best_of.setdefault(node.node_id, (similarity, node))
            for rank, (key, (similarity, node)) in enumerate(best_of.items(), 1):
                ranks[key] = ranks.get(key, 0.0) + 1 / (RANK_CONSTANT + rank)
                known = nodes.setdefault(key, NodeWithScore(node=node, score=0.0))
                score = known.score or 0.0
                known.score = score + similarity / 2 if means else max(score, similarity)
        order = {key: node.score or 0.0 for key, node in nodes.items()} if means else ranks
        best = [nodes[key] for key in sorted(nodes, key=lambda key: (-order[key], -ranks[key]))]
        texts = [hit.node.get_content() for hit in best]
        return [best[place] for place in without_doubles(texts, self._top_k)]
