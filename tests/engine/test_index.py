"""Searching real indexes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryMode
from material import CHUNKS, write_files

from ragsocket.engine.base import Combination, Comparison, RetrievalMode
from ragsocket.engine.embeddings import EmbedSettings, open_embedding
from ragsocket.engine.index import Index
from ragsocket.engine.ingestion import Report, Upload
from ragsocket.engine.ingestion.pipeline import ingest
from ragsocket.engine.passages import Passages
from ragsocket.engine.vector_store import HybridRetriever, PassageVectorStore
from ragsocket.errors import ConfigError, EngineError, RequestError
from words import WordEmbedding, word_vector

FILES: dict[str, str | bytes] = {
    "huts.md": "Mirefoot has forty beds. Highspur has twelve beds.",
    "dogs.md": "Two dogs may stay at Mirefoot. No dogs may stay at Highspur.",
    "prices.md": "A tent costs sixteen euros a day.",
    "copy.md": "A tent  costs sixteen\neuros a day.",
    "soup.md": "The soup at Twelve Pines is made of lentils and carrots.",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of documents, two of them with the same words."""
    return write_files(tmp_path / "documents", FILES)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the index is to be."""
    return tmp_path / "index" / "passages.sqlite3"


def run(root: Path, path: Path, *, vectors: bool = True, **kwargs: Any) -> Report:
    """Ingest, with or without vectors."""
    return ingest(root, path, embed=WordEmbedding() if vectors else None, **CHUNKS, **kwargs)


@pytest.fixture
async def index(root: Path, path: Path) -> AsyncIterator[Index]:
    """An open index of the folder, with vectors."""
    run(root, path)
    index = Index(path, WordEmbedding())
    await index.open()
    yield index
    index.close()


@pytest.mark.parametrize("mode", ["hybrid", "dense", "sparse"])
async def test_the_best_passage_comes_first(index: Index, mode: RetrievalMode) -> None:
    """Each mode finds the passage meant, scores lie between 0 and 1, and no text comes twice."""
    found = await index.search("How many dogs may stay?", owner="local", top_k=3, mode=mode)
    # The texts were the first revision, their vectors the second.
    assert found.revision == index.revision == 2
    first = found.sources[0]
    assert (first.file_name, first.place) == ("dogs.md", "lines 1-1")
    assert first.file_id.startswith("file_")
    assert 0.3 < first.score <= 1
    tents = await index.search("tent euros", owner="local", top_k=5, mode=mode)
    assert [s.file_name for s in tents.sources if "tent" in s.text] in (["copy.md"], ["prices.md"])
    assert all(0 <= source.score <= 1 for source in found.sources + tents.sources)


async def test_words_the_documents_do_not_know_lower_the_score(index: Index) -> None:
    """A question about something else scores lower for words, and knows which words are rare."""
    good, poor = [
        (await index.search(query, owner="local", top_k=1, mode="sparse"))
        for query in ("tent euros day", "tent zeppelin quasar")
    ]
    assert poor.sources[0].score < good.sources[0].score
    weights = poor.snapshot.term_weights("How many Dogs stay with the zeppelins at Mirefoot?")
    assert set(weights) == {"dog", "stay", "zeppelin", "mirefoot"}
    assert weights["zeppelin"] == weights["dog"] == max(weights.values())
    assert weights["mirefoot"] < weights["dog"]
    assert poor.snapshot.terms("Dogs and dogs, the 2 dogs") == ["dog", "dog", "2", "dog"]


async def test_nothing_to_search_finds_nothing(path: Path, tmp_path: Path) -> None:
    """No file, an empty folder, an unknown store, blank text, stopwords, mode none: no sources."""
    index = Index(path)
    await index.open()
    for mode in ("hybrid", "dense", "sparse"):
        found = await index.search("dogs", owner="local", top_k=3, mode=mode)
        assert (found.sources, found.revision) == ([], 0)
    assert found.snapshot.term_weights("dogs")["dog"] > 0
    empty = tmp_path / "documents"
    empty.mkdir()
    run(empty, path)
    assert await index.refresh() == 0
    run(write_files(empty, FILES), path)
    assert await index.refresh() == 2
    nothing: list[tuple[str, str, RetrievalMode]] = [
        ("dogs", "vs_other", "hybrid"),
        (" ", "vs_default", "hybrid"),
        ("the of and", "vs_default", "sparse"),
        ("dogs", "vs_default", "none"),
    ]
    for query, store, mode in nothing:
        found = await index.search(
            query, owner="local", vector_store_ids=[store], top_k=3, mode=mode
        )
        assert found.sources == []
    for name in FILES:
        (empty / name).unlink()
    run(empty, path)
    await index.refresh()
    found = await index.search("dogs", owner="local", top_k=3)
    assert (found.sources, found.revision) == ([], 3)
    index.close()


@pytest.mark.parametrize("mode", ["hybrid", "dense", "sparse"])
async def test_a_filter_chooses_files_before_they_are_ranked(
    index: Index, mode: RetrievalMode
) -> None:
    """The one place that is wanted goes to the best of the files that pass, whatever they rank."""

    async def first(*filters: Comparison) -> list[str]:
        found = await index.search(
            "How many dogs may stay?",
            owner="local",
            top_k=1,
            mode=mode,
            filters=Combination("and", filters),
        )
        assert all(0 <= source.score <= 1 for source in found.sources)
        return [source.file_name for source in found.sources]

    assert await first() == ["dogs.md"]
    assert await first(Comparison("file_name", "ne", "soup.md")) == ["dogs.md"]
    other = await index.search(
        "soup lentils", owner="local", top_k=1, mode=mode, filters=Combination("or", [])
    )
    assert other.sources == []
    soup = Comparison("file_name", "eq", "soup.md")
    found = await index.search("soup or dogs", owner="local", top_k=1, mode=mode, filters=soup)
    assert [source.file_name for source in found.sources] == ["soup.md"]
    by_id = Comparison("file_id", "in", [found.sources[0].file_id])
    again = await index.search("soup or dogs", owner="local", top_k=5, mode=mode, filters=by_id)
    assert again.sources == found.sources


async def test_a_passage_in_two_stores_counts_once(root: Path, path: Path) -> None:
    """It comes no further up, and its score stays what it is in one of them."""
    upload = [Upload("file_x", "dogs.md", str(root / "dogs.md"))]
    for store in ("vs_one", "vs_two"):
        ingest(upload, path, vector_store_id=store, embed=WordEmbedding(), **CHUNKS)
    index = Index(path, WordEmbedding())
    await index.open()
    one, both = [
        await index.search("two dogs may stay", owner="local", vector_store_ids=ids, top_k=3)
        for ids in (["vs_one"], ["vs_one", "vs_two"])
    ]
    assert both.sources == one.sources
    assert len(both.sources) == 1
    index.close()


async def test_owners_and_stores_never_see_each_other(path: Path, tmp_path: Path) -> None:
    """Two owners and two stores with the same words each find their own passages alone."""
    keys = [("ann", "vs_default"), ("bob", "vs_default"), ("ann", "vs_two")]
    for number, (owner, store) in enumerate(keys):
        text = f"Dogs of {owner} in {store}."
        root = write_files(tmp_path / str(number), {"a.md": text})
        run(root, path, owner=owner, vector_store_id=store)
    index = Index(path, WordEmbedding())
    await index.open()

    async def texts(owner: str, *stores: str, mode: RetrievalMode) -> list[str]:
        found = await index.search("dogs", owner=owner, vector_store_ids=stores, top_k=9, mode=mode)
        return sorted(source.text for source in found.sources)

    for mode in ("hybrid", "dense", "sparse"):
        assert await texts("ann", mode=mode) == ["Dogs of ann in vs_default."]
        assert await texts("bob", "vs_default", "vs_two", mode=mode) == [
            "Dogs of bob in vs_default."
        ]
        assert len(await texts("ann", "vs_default", "vs_two", "vs_two", mode=mode)) == 2
        assert await texts("eve", "vs_default", mode=mode) == []
    # A later ingestion of one leaves the files of the others alone.
    run(write_files(tmp_path / "1", {"a.md": "Cats."}), path, owner="bob")
    await index.refresh()
    again = Index(path, WordEmbedding())
    await again.open()
    assert len(again.snapshot("ann").parts) == len(again.snapshot("ann", ["vs_two"]).parts) == 1
    index.close()
    again.close()


async def test_a_search_runs_on_the_revision_it_began_with(root: Path, path: Path) -> None:
    """A new revision is swapped in while a search is held up; it still reads the old one."""
    run(root, path)
    embedding = WordEmbedding()
    index = Index(path, embedding)
    await index.open()
    embedding._gate.clear()
    results = []

    async def search() -> None:
        results.append(await index.search("tent euros", owner="local", top_k=1))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(search)
        await anyio.to_thread.run_sync(embedding._asked.wait, 30)
        write_files(root, {"prices.md": "A tent costs twenty euros.", "copy.md": "Gone."})
        assert (await anyio.to_thread.run_sync(run, root, path)).revision == 4
        assert await index.refresh() == 4
        embedding._gate.set()
    assert results[0].revision == 2
    assert "sixteen" in results[0].sources[0].text
    newer = await index.search("tent euros", owner="local", top_k=1)
    assert (newer.revision, newer.sources[0].text) == (4, "A tent costs twenty euros.")
    index.close()


async def test_without_vectors_dense_names_the_fix(root: Path, path: Path) -> None:
    """Without vectors, or with those of another model, dense is refused and hybrid uses words."""
    for embedding, vectors in (
        (None, False),
        (WordEmbedding(), False),
        (None, True),
        (WordEmbedding("another"), True),
    ):
        run(root, path, vectors=vectors)
        index = Index(path, embedding)
        await index.open()
        with pytest.raises(RequestError, match="RAGSOCKET_EMBED_URL"):
            await index.search("dogs", owner="local", top_k=1, mode="dense")
        found = await index.search("dogs", owner="local", top_k=1)
        assert found.sources[0].file_name == "dogs.md"
        index.close()


async def test_hybrid_does_without_an_unreachable_embeddings_server(root: Path, path: Path) -> None:
    """When the question cannot be embedded, words answer, and dense says that it failed."""
    run(root, path)
    async with open_embedding(EmbedSettings("http://127.0.0.1:9/v1", "words")) as embedding:
        index = Index(path, embedding)
        await index.open()
        found = await index.search("dogs", owner="local", top_k=1)
        assert found.sources[0].file_name == "dogs.md"
        with pytest.raises(EngineError) as raised:
            await index.search("dogs", owner="local", top_k=1, mode="dense")
        assert raised.value.code == "embedding_unavailable"
        index.close()


@pytest.mark.parametrize("damage", ["cut", "lost"])
async def test_damaged_index_files_are_named(root: Path, path: Path, damage: str) -> None:
    """A cut-off or lost file of the published revision is a ConfigError that names the fix."""
    run(root, path)
    vectors = path.parent / "bm25-vs_default-2" / "vectors.npy"
    vectors.unlink() if damage == "lost" else vectors.write_bytes(vectors.read_bytes()[:200])
    index = Index(path)
    with pytest.raises(ConfigError, match="ingest"):
        await index.open()
    index.close()


async def test_the_llama_index_store_adds_queries_and_deletes(path: Path) -> None:
    """Nodes added by LlamaIndex's interface are found by it, sync and async, until deleted."""
    db = Passages(path, create=True)
    store = PassageVectorStore(db, "local", "vs_notes", embed_model="words")
    nodes = [
        TextNode(
            text=text,
            embedding=word_vector(text),
            metadata={"file_name": f"{file_id}.md"},
            relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=file_id)},
        )
        for text, file_id in (("Dogs bark.", "file_a"), ("Cats purr.", "file_b"))
    ]
    assert len(await store.async_add(nodes)) == 2
    by_vector = await store.aquery(
        VectorStoreQuery(query_embedding=word_vector("cats purr"), similarity_top_k=1)
    )
    assert by_vector.nodes is not None
    assert by_vector.nodes[0].metadata["file_name"] == "file_b.md"
    by_words = VectorStoreQuery(
        query_str="dog", similarity_top_k=5, mode=VectorStoreQueryMode.SPARSE
    )
    assert [node.get_content() for node in store.query(by_words).nodes or ()] == ["Dogs bark."]
    retriever = HybridRetriever([store], [store], WordEmbedding(), top_k=2)
    assert retriever.retrieve("dogs bark")[0].node.get_content() == "Dogs bark."
    with pytest.raises(NotImplementedError):
        store.query(VectorStoreQuery(mode=VectorStoreQueryMode.MMR))
    await store.adelete("file_a")
    assert (await store.aquery(by_words)).nodes == []
    db.close()


def test_importing_the_engine_is_cheap() -> None:
    """Engine package, its protocol and the door to ingestion load no heavy library."""
    code = (
        "import sys, ragsocket.engine, ragsocket.engine.base, ragsocket.engine.ingestion\n"
        "print(sorted({'llama_index', 'bm25s', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
