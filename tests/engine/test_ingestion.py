"""Ingestion on real folders, in real child processes."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from anyio import from_thread, to_thread
from material import (
    CHUNKS,
    EmbeddingsServer,
    embeddings_server,
    make_pdf,
    write_files,
)
from pypdf import PdfReader, PdfWriter

from ragsocket.engine.index import Index
from ragsocket.engine.ingestion import EmbedSettings, Progress, Report, run_ingestion, staging
from ragsocket.engine.ingestion.pipeline import ingest, only_ingestion
from ragsocket.engine.passages import Passages
from ragsocket.engine.reading.folder import list_folder
from ragsocket.errors import ConfigError, EngineError
from ragsocket.settings import Settings
from words import WordEmbedding

FILES: dict[str, str | bytes] = {
    "huts.md": "# Huts\n\nMirefoot has forty beds. Highspur has twelve beds.\n",
    "rules/dogs.txt": "Two dogs may stay at Mirefoot. No dogs may stay at Highspur.\n",
    "prices.md": "A tent costs sixteen euros a day.\n",
}


@pytest.fixture
def server() -> Iterator[EmbeddingsServer]:
    """A running embeddings server."""
    with embeddings_server() as running:
        yield running


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of three documents of one passage each."""
    return write_files(tmp_path / "documents", FILES)


@pytest.fixture
def index_path(tmp_path: Path) -> Path:
    """Where the index is to be."""
    return tmp_path / "state" / "index" / "passages.sqlite3"


def run(root: Path, index_path: Path, embed: EmbedSettings | None = None, **kwargs: Any) -> Report:
    """Ingest in this process."""
    return ingest(root, index_path, embed=embed, **CHUNKS, **kwargs)


def counts(report: Report) -> tuple[int, int, int, int, int]:
    """Return what a report counts: added, changed, unchanged, removed, and the revision."""
    return (report.added, report.changed, report.unchanged, report.removed, report.revision)


def stored(index_path: Path) -> dict[str, tuple[str, str | None]]:
    """Return text and place of every passage by id."""
    with closing(Passages(index_path)) as db:
        store = db.open_store("local", "vs_default")
        rows = [row for row, _ in db.living(store)]
        return {p.id: (p.text, p.place) for p in db.find("local", "vs_default", rows)}


def embed(server: EmbeddingsServer, model: str = "m1") -> EmbedSettings:
    """Return settings for a server."""
    return EmbedSettings(server.url, model, batch=2)


def test_each_kind_of_change_costs_exactly_itself(
    root: Path, index_path: Path, server: EmbeddingsServer
) -> None:
    """Adding, changing, deleting, moving and touching files embeds the new texts and no others.

    New texts make one revision for words and another with their vectors.
    """
    assert counts(run(root, index_path, embed(server))) == (3, 0, 0, 0, 2)
    assert len(server.texts) == 3

    server.texts.clear()
    assert counts(run(root, index_path, embed(server))) == (0, 0, 3, 0, 2)
    for path in root.rglob("*.md"):
        os.utime(path, (1, 1))
    assert counts(run(root, index_path, embed(server))) == (0, 0, 3, 0, 2)
    moved = root.rename(root.with_name("moved"))
    before = stored(index_path)
    assert counts(run(moved, index_path, embed(server))) == (0, 0, 3, 0, 2)
    assert server.texts == []
    assert stored(index_path) == before

    write_files(moved, {"prices.md": "A tent costs twenty euros a day.\n", "new.md": "New here.\n"})
    (moved / "huts.md").unlink()
    report = run(moved, index_path, embed(server))
    assert counts(report) == (1, 1, 1, 1, 4)
    assert report.passages == 3
    assert sorted(server.texts) == ["A tent costs twenty euros a day.", "New here."]
    assert {text for text, _ in stored(index_path).values()} == {
        "A tent costs twenty euros a day.",
        "New here.",
        "Two dogs may stay at Mirefoot. No dogs may stay at Highspur.",
    }

    server.texts.clear()
    (moved / "new.md").rename(moved / "newer.md")
    assert counts(run(moved, index_path, embed(server))) == (1, 0, 2, 1, 5)
    assert server.texts == []


def test_broken_files_are_named_and_the_rest_goes_in(root: Path, index_path: Path) -> None:
    """A file that cannot be read is reported with a reason in every run, and costs nobody else."""
    writer = PdfWriter(
        clone_from=PdfReader(write_files(root, {"p.pdf": make_pdf(["x"])}) / "p.pdf")
    )
    writer.encrypt("secret", algorithm="RC4-128")
    writer.write(root / "locked.pdf")
    (root / "p.pdf").unlink()
    write_files(
        root,
        {
            "broken.pdf": b"%PDF-1.4\nnothing of the kind",
            "latin.txt": "Gr\u00fc\u00dfe".encode("latin-1"),
            "empty.md": " \n\n",
            "picture.png": b"\x89PNG",
            ".hidden.md": "not for reading",
            ".git/notes.md": "not for reading",
        },
    )
    for revision in (1, 1):
        report = run(root, index_path)
        reasons = dict(report.failed)
        assert set(reasons) == {"broken.pdf", "locked.pdf", "latin.txt", "empty.md"}
        assert reasons["locked.pdf"] == "encrypted PDF"
        assert reasons["latin.txt"] == "not UTF-8 text (byte 2)"
        assert reasons["empty.md"] == "has no text"
        assert (report.revision, report.passages) == (revision, 3)
        assert any(".png" in note for note in report.notes)

    write_files(root, {"huts.md": b"\xff\xfe\xff", "latin.txt": "Repaired."})
    report = run(root, index_path)
    assert counts(report) == (1, 0, 2, 0, 2)
    assert "huts.md" in dict(report.failed)
    assert report.passages == 3


def test_links_that_leave_the_folder_are_refused(
    root: Path, index_path: Path, tmp_path: Path
) -> None:
    """Neither a linked file nor a linked folder outside is read; a link inside is."""
    outside = write_files(tmp_path / "outside", {"secret.md": "The secret word is zebra."})
    (root / "link.md").symlink_to(outside / "secret.md")
    (root / "folder").symlink_to(outside)
    (root / "again.md").symlink_to(root / "huts.md")
    (root / "loop").symlink_to(root)
    report = run(root, index_path)
    assert [name for name, _ in report.failed] == ["folder", "link.md"]
    assert report.added == 4
    assert not any("zebra" in text for text, _ in stored(index_path).values())
    assert [name for name, _ in list_folder(root).files] == [
        "again.md",
        "huts.md",
        "prices.md",
        "rules/dogs.txt",
    ]


def test_places_are_pages_and_lines(root: Path, index_path: Path) -> None:
    """A passage of a PDF names its page, one of a text its lines."""
    lines = [f"Line {i} tells about subject number {i} in a few plain words." for i in range(1, 41)]
    write_files(
        root,
        {"a.pdf": make_pdf(["Wombats dig.", "", "Otters swim."]), "long.txt": "\n\n".join(lines)},
    )
    run(root, index_path)
    places = dict(stored(index_path).values())
    assert places["Wombats dig."] == "page 1"
    assert places["Otters swim."] == "page 3"
    for text, place in places.items():
        if text.startswith("Line"):
            numbers = [int(line.split()[1]) for line in text.split("\n\n")]
            assert place == f"lines {2 * numbers[0] - 1}-{2 * numbers[-1] - 1}"


def test_a_second_run_reads_nothing(
    root: Path, index_path: Path, server: EmbeddingsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken files among them; one that was touched is looked at, and a broken one tried again."""
    # As if all had been written long ago.
    monkeypatch.setattr(staging, "SETTLED_NS", -(10**18))
    write_files(root, {"broken.pdf": b"%PDF-1.4\nnothing of the kind"})
    assert run(root, index_path, embed(server)).read == 4
    server.texts.clear()
    for moved in (False, True):
        folder = root.rename(root.with_name("moved")) if moved else root
        report = run(folder, index_path, embed(server))
        assert (report.read, report.failed[0][0], report.revision) == (0, "broken.pdf", 2)
    os.utime(folder / "huts.md", (1, 1))
    assert run(folder, index_path, embed(server)).read == 0
    os.utime(folder / "broken.pdf", (1, 1))
    report = run(folder, index_path, embed(server))
    assert (report.read, report.unchanged, report.revision) == (1, 3, 2)
    assert server.texts == []


def test_what_was_read_before_a_death_is_not_read_again(root: Path, index_path: Path) -> None:
    """Killed in the middle of a folder: nothing is published, and the next run goes on there."""
    write_files(root, {f"many/{i:02}.md": f"Hut number {i} has a stove." for i in range(30)})
    run_to_death(root, index_path, "progress.file == 'many/25.md'")
    with closing(Passages(index_path)) as db:
        store = db.open_store("local", "vs_default")
        assert store.revision == 0
        assert db.files("local", "vs_default") == []
        staged = db.staged(store)
    assert 20 <= len(staged) < 30
    # What changes or goes meanwhile is not taken from what was read.
    write_files(root, {"many/00.md": "Hut number 0 has two stoves."})
    (root / "many/01.md").unlink()
    report = run(root, index_path)
    assert counts(report) == (32, 0, 0, 0, 1)
    assert report.read == 32 - (len(staged) - 2)
    texts = {text for text, _ in stored(index_path).values()}
    assert {"Hut number 0 has two stoves.", "Hut number 29 has a stove."} <= texts
    assert not texts & {"Hut number 0 has a stove.", "Hut number 1 has a stove."}


def run_to_death(root: Path, index_path: Path, when: str) -> None:
    """Ingest in another process that kills itself as soon as `progress` is so."""
    code = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from ragsocket.engine.ingestion.pipeline import ingest\n"
        "def die(progress):\n"
        f"    if {when}:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "ingest(Path(sys.argv[1]), Path(sys.argv[2]), embed=None, chunk_tokens=64,\n"
        "    chunk_overlap_tokens=8, progress=die)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, root, index_path], check=False)
    assert done.returncode == -signal.SIGKILL


def test_others_write_while_a_revision_is_made(root: Path, index_path: Path) -> None:
    """Words are indexed before the transaction that publishes, so that uploads need not wait."""
    written = []

    def write(progress: Progress) -> None:
        if progress.stage == "indexing" and not progress.revision:
            with closing(sqlite3.connect(index_path, timeout=0)) as other:
                other.execute("UPDATE vector_stores SET name = 'written meanwhile'")
                other.commit()
                written.append(True)

    assert run(root, index_path, progress=write).revision == 1
    assert written == [True]


def test_another_embedding_model_embeds_all_again(
    root: Path, index_path: Path, server: EmbeddingsServer
) -> None:
    """A change of model or of dimensions is noticed, named, and makes a new revision."""
    assert run(root, index_path, embed(server)).notes == ()
    server.texts.clear()
    report = run(root, index_path, embed(server, "m2"))
    assert (len(server.texts), report.revision, report.unchanged) == (3, 3, 3)
    assert "m2" in report.notes[0]

    server.texts.clear()
    server.dimensions = 32
    write_files(root, {"new.md": "New here."})
    report = run(root, index_path, embed(server, "m2"))
    assert "32" in report.notes[0]
    assert sorted(set(server.texts)) == sorted(text for text, _ in stored(index_path).values())


def test_other_passage_sizes_split_all_again(root: Path, index_path: Path) -> None:
    """Changing the size of passages splits unchanged files anew."""
    run(root, index_path)
    report = ingest(root, index_path, embed=None, chunk_tokens=32, chunk_overlap_tokens=0)
    assert counts(report) == (0, 3, 0, 0, 2)


def test_a_failing_embeddings_server_delays_vectors_alone(
    root: Path, index_path: Path, server: EmbeddingsServer
) -> None:
    """Texts are published without vectors, and the next ingestion makes up for them."""
    server.status = 500
    report = run(root, index_path, embed(server))
    assert (report.revision, report.passages) == (1, 3)
    assert "3 passages have no vector" in report.notes[0]
    server.status = 200
    report = run(root, index_path, embed(server))
    assert (report.revision, report.notes, len(server.texts)) == (2, (), 3)


def test_lost_index_files_are_made_again(root: Path, index_path: Path) -> None:
    """If the directory of the published revision is gone, the next ingestion publishes another."""
    run(root, index_path)
    (index_path.parent / "bm25-vs_default-1").rename(index_path.parent / "gone")
    assert counts(run(root, index_path)) == (0, 0, 3, 0, 2)


def test_a_missing_folder_and_a_bad_store_id_are_refused(root: Path, index_path: Path) -> None:
    """What cannot be ingested is refused by name before anything is written."""
    with pytest.raises(ConfigError, match="nowhere"):
        run(root / "nowhere", index_path)
    with pytest.raises(ConfigError, match="\\.\\./vs"):
        run(root, index_path, vector_store_id="../vs")
    assert not index_path.exists()


def test_a_second_ingestion_waits_for_the_first(root: Path, index_path: Path) -> None:
    """However long that takes, and nobody's patience ends."""
    told: list[Progress] = []
    waiting = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        with only_ingestion(index_path, "vs_default", told.append, 0):
            second = pool.submit(run, root, index_path, progress=lambda _: waiting.set())
            assert waiting.wait(60)
            assert not second.done()
        assert second.result().added == 3


def test_a_second_ingestion_is_refused_by_name(root: Path, index_path: Path) -> None:
    """While one ingestion holds the index, another gives up after its wait."""
    told: list[Progress] = []
    with (
        only_ingestion(index_path, "vs_default", told.append, 0),
        pytest.raises(ConfigError, match="another"),
    ):
        ingest(root, index_path, embed=None, **CHUNKS, progress=told.append, lock_wait_s=1)
    assert [progress.stage for progress in told] == ["waiting"]
    assert run(root, index_path).added == 3


def make_settings(index_path: Path, server: EmbeddingsServer | None = None) -> Settings:
    """Return an operator's settings."""
    return Settings(
        state_dir=index_path.parent.parent,
        embed_url=server.url if server else None,
        embed_model="m1" if server else "none",
        llm_url=server.url if server else None,
        llm_model="any" if server else None,
        llm_api_key="sesame" if server else None,
        chunk_tokens=64,
        chunk_overlap_tokens=8,
    )


def ingestion_children(pid: int | None = None) -> list[psutil.Process]:
    """Return the ingestion processes below this one, or below another."""
    return [
        child
        for child in psutil.Process(pid).children(recursive=True)
        if "ragsocket.engine.ingestion" in child.cmdline()
    ]


async def test_the_child_process_does_the_work(
    root: Path, index_path: Path, server: EmbeddingsServer
) -> None:
    """A child ingests, tells its progress and reports; the key is not on its command line."""
    told: list[Progress] = []
    arguments: list[str] = []

    def note(progress: Progress) -> None:
        told.append(progress)
        arguments.extend(word for child in ingestion_children() for word in child.cmdline())

    report = await run_ingestion(make_settings(index_path, server), root, on_progress=note)
    assert counts(report) == (3, 0, 0, 0, 2)
    assert [progress.revision for progress in told if progress.revision] == [1, 2]
    assert {progress.stage for progress in told} == {"reading", "embedding", "indexing"}
    assert set(server.keys) == {"Bearer sesame"}
    assert arguments
    assert not any("sesame" in word for word in arguments)
    assert ingestion_children() == []


async def test_refusals_of_the_child_arrive_as_such(index_path: Path, tmp_path: Path) -> None:
    """A ConfigError in the child is a ConfigError here, with its text."""
    with pytest.raises(ConfigError, match="nowhere"):
        await run_ingestion(make_settings(index_path), tmp_path / "nowhere")


async def test_a_crash_of_the_child_is_an_engine_error_and_logged(
    root: Path, index_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What the child said on its way down stands in the log, not in the message."""
    index_path.parent.mkdir(parents=True)
    index_path.with_name("vs_default.lock").write_bytes(
        b"not a database, so the lock cannot be taken"
    )
    with pytest.raises(EngineError) as raised:
        await run_ingestion(make_settings(index_path), root)
    assert (raised.value.code, raised.value.retryable) == ("ingestion_failed", True)
    assert "DatabaseError" in caplog.text
    assert "DatabaseError" not in raised.value.message


def test_kill_9_while_publishing_leaves_the_old_revision(root: Path, index_path: Path) -> None:
    """A death in the middle of publishing leaves what was there, and a new run works."""
    run(root, index_path)
    write_files(root, {"prices.md": "A tent costs twenty euros a day.\n"})
    run_to_death(root, index_path, "progress.stage == 'indexing'")
    assert "A tent costs sixteen euros a day." in dict(stored(index_path).values())
    assert counts(run(root, index_path)) == (0, 1, 2, 0, 2)
    assert "A tent costs twenty euros a day." in dict(stored(index_path).values())


async def test_kill_9_while_embedding_leaves_the_words_and_goes_on_there(
    root: Path, index_path: Path, server: EmbeddingsServer
) -> None:
    """A child killed between two batches is an EngineError; only what is missing is embedded."""
    settings = make_settings(index_path, server)
    await run_ingestion(settings, root)
    write_files(root, {f"{i}.md": f"Hut number {i} has a stove.\n" for i in range(100)})
    server.texts.clear()

    def kill(progress: Progress) -> None:
        if progress.stage == "embedding":
            for child in ingestion_children():
                child.kill()

    # Held back until the child is gone, so that it dies in its first batch.
    server.gate.clear()
    with pytest.raises(EngineError) as raised:
        await run_ingestion(settings, root, on_progress=kill)
    assert raised.value.code == "ingestion_failed"
    server.gate.set()

    index = Index(index_path)
    await index.open()
    found = await index.search("stove hut 99", owner="local", top_k=1)
    assert (found.revision, found.sources[0].text) == (3, "Hut number 99 has a stove.")
    assert counts(await run_ingestion(settings, root)) == (0, 0, 103, 0, 4)
    assert await index.refresh() == 4
    index.close()


def test_what_was_embedded_before_a_death_is_not_embedded_again(
    root: Path, index_path: Path, server: EmbeddingsServer
) -> None:
    """Each batch is kept; the next run embeds the rest, and publishes what nobody published."""

    def die(when: Callable[[Progress], bool]) -> Callable[[Progress], None]:
        def tell(progress: Progress) -> None:
            if when(progress):
                raise KeyboardInterrupt

        return tell

    texts = {f"{i}.md": f"Hut number {i} has a stove." for i in range(6)}
    write_files(root, dict(texts))
    second_batch = die(lambda p: p.stage == "embedding" and p.done == 2)
    with pytest.raises(KeyboardInterrupt):
        ingest(root, index_path, embed=embed(server), **CHUNKS, progress=second_batch)
    assert len(server.texts) == 2
    # Dies when all is embedded and before it is published.
    publishing = die(lambda p: p.stage == "indexing")
    with pytest.raises(KeyboardInterrupt):
        ingest(root, index_path, embed=embed(server), **CHUNKS, progress=publishing)
    assert sorted(server.texts) == sorted(text for text, _ in stored(index_path).values())
    server.texts.clear()
    assert counts(run(root, index_path, embed(server))) == (0, 0, 9, 0, 2)
    assert counts(run(root, index_path, embed(server))) == (0, 0, 9, 0, 2)
    assert server.texts == []


async def test_words_answer_while_vectors_fill_in(
    root: Path, index_path: Path, server: EmbeddingsServer
) -> None:
    """Texts are published before the first vector, more vectors after every batch if wanted."""
    index = Index(index_path, WordEmbedding("m1"))
    seen: list[tuple[int, int, set[str]]] = []

    async def look() -> None:
        await index.refresh()
        found = await index.search("dogs may stay", owner="local", top_k=3)
        assert found.sources[0].file_name == "rules/dogs.txt"
        (part,) = found.snapshot.parts
        vectors = 0 if part.vectors is None else int(part.vectors.any(axis=1).sum())
        everything = await index.search("euros beds dogs", owner="local", top_k=9)
        seen.append((found.revision, vectors, {s.file_name for s in everything.sources}))

    def tell(progress: Progress) -> None:
        if progress.revision:
            from_thread.run(look)

    work = partial(
        ingest, root, index_path, embed=embed(server), **CHUNKS, progress=tell, publish_every_s=0
    )
    await to_thread.run_sync(work)
    # Passages without a vector are found like the others.
    assert seen == [(1, 0, set(FILES)), (2, 2, set(FILES)), (3, 3, set(FILES))]
    index.close()


async def test_cancelling_ends_the_child(
    root: Path, index_path: Path, server: EmbeddingsServer
) -> None:
    """When the awaiting scope is cancelled the child is gone, and the index is free again."""
    server.gate.clear()
    with anyio.CancelScope() as scope:
        await run_ingestion(
            make_settings(index_path, server),
            root,
            on_progress=lambda p: scope.cancel() if p.stage == "embedding" else None,
        )
    assert scope.cancelled_caught
    assert ingestion_children() == []
    server.gate.set()
    assert run(root, index_path).revision == 1


async def test_the_child_ends_with_its_parent(
    root: Path, index_path: Path, server: EmbeddingsServer, tmp_path: Path
) -> None:
    """Killing the parent with -9 in the middle of an ingestion ends the child as well."""
    script = tmp_path / "parent.py"
    script.write_text(
        "import sys, anyio\nfrom pathlib import Path\n"
        "from ragsocket.engine.ingestion import run_ingestion\n"
        "from ragsocket.settings import Settings\n"
        "state, url, root = sys.argv[1:]\n"
        "settings = Settings(state_dir=state, embed_url=url, embed_model='m1')\n"
        "anyio.run(run_ingestion, settings, Path(root))\n"
    )
    server.gate.clear()
    command = [sys.executable, str(script), str(tmp_path / "state"), server.url, str(root)]
    async with await anyio.open_process(command) as parent:
        assert await anyio.to_thread.run_sync(server.asked.wait, 60)
        (child,) = ingestion_children(parent.pid)
        parent.kill()
        await anyio.to_thread.run_sync(child.wait, 20)
    assert not child.is_running()


async def test_an_embedding_object_works_in_this_process(root: Path, index_path: Path) -> None:
    """With an embedding object the ingestion runs in a thread here, and can be cancelled."""
    settings = make_settings(index_path)
    with anyio.CancelScope() as scope:
        await run_ingestion(
            settings, root, embed_model=WordEmbedding(), on_progress=lambda _: scope.cancel()
        )
    assert scope.cancelled_caught
    report = await run_ingestion(settings, root, embed_model=WordEmbedding())
    assert counts(report) == (3, 0, 0, 0, 2)
    assert ingestion_children() == []
