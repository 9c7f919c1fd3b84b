"""Files that were made to hang, flood or fool their reader: each is refused by name, alone."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from hostile import DEEP_PAGE, MIB, SECRET, Hostile, make_hostile
from material import CHUNKS, write_files

from ragsocket.engine.ingestion.pipeline import ingest
from ragsocket.engine.passages import Passages
from ragsocket.engine.reading.document import Limits, Piece, Request, Task, Unreadable
from ragsocket.engine.reading.process import Readers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and names are Linux's")

GOOD = {f"good/{n}.md": f"Wombat number {n} digs a burrow.\n" for n in range(20)}
USUAL = Task(Limits(), **CHUNKS)


def texts(outcome: Sequence[Piece] | Unreadable) -> list[str]:
    """Return the passages of a file, which must have been read."""
    assert not isinstance(outcome, Unreadable)
    return [piece.text for piece in outcome]


def check(hostile: Hostile, index_path: Path) -> None:
    """See that all that should is in the index, and nothing from outside the folder."""
    with closing(Passages(index_path)) as db:
        files = {file.path: file for file in db.files("local", "vs_default")}
        store = db.open_store("local", "vs_default")
        passages = db.texts_of([row for row, _ in db.living(store)])
    taken_in = {name for name, file in files.items() if file.error is None}
    assert taken_in == {*hostile.harmless, *GOOD}
    assert not any(SECRET in text or "root:" in text for text in passages)
    assert sorted(path.name for path in hostile.root.parent.iterdir()) == ["hostile", "outside"]


def test_a_hostile_folder_harms_nothing_and_hides_nothing(tmp_path: Path) -> None:
    """Every bad file is refused by name with a reason, every other one goes in, in one run."""
    limits = Limits(
        memory_bytes=192 * MIB, text_bytes=2 * MIB, units=500, first_s=30, file_bytes=10 * MIB
    )
    hostile = make_hostile(tmp_path / "files", limits)
    assert len(hostile.refused) >= 120
    write_files(hostile.root, dict(GOOD))
    index_path = tmp_path / "index" / "passages.sqlite3"
    report = ingest(hostile.root, index_path, embed=None, limits=limits, **CHUNKS)
    reasons = dict(report.failed)
    assert set(reasons) == hostile.refused
    assert all(reasons.values())
    assert report.added == len(hostile.harmless) + len(GOOD)
    check(hostile, index_path)
    for name, reason in {
        "odd/vast.txt": "is larger than 10 MiB",
        "odd/out.md": "symbolic link that leaves the folder",
        "odd/itself.md": "symbolic link to nothing",
        "odd/pipe.txt": "not a file (a pipe, a socket or a device)",
        "pdf/locked-RC4-128.pdf": "encrypted PDF",
        "office/laughs.docx": "has a document type (DTD), which is not read",
        "zip/bomb.docx": "unpacks to more than 200 times its size (word/document.xml)",
        "other/hungry.json": "needs more than 192 MiB of memory to be read",
        "other/deep.json": "nested too deeply",
        "mislabelled/png.txt": "is a picture (PNG)",
    }.items():
        assert reasons[name] == reason


def test_a_file_that_takes_too_long_is_refused_and_the_next_is_read(tmp_path: Path) -> None:
    """The process that hangs is ended, and another takes its place."""
    write_files(tmp_path, {"deep.html": DEEP_PAGE, "good.md": "Wombats dig."})
    requests = [(name, Request(str(tmp_path / name), name)) for name in ("deep.html", "good.md")]
    with Readers(Task(Limits(first_s=1.5), **CHUNKS), 1) as readers:
        found = dict(readers.read_all(requests))
    assert str(found["deep.html"]) == "takes longer than 1.5 s to read"
    assert texts(found["good.md"]) == ["Wombats dig."]


def children() -> Iterator[psutil.Process]:
    """Yield the reading processes below this one."""
    for child in psutil.Process().children(recursive=True):
        if "ragsocket.engine.reading" in child.cmdline():
            yield child


def test_a_reader_that_is_killed_costs_the_file_it_read_alone(tmp_path: Path) -> None:
    """Whatever ends it: the file is named with the signal, and the next one is read."""
    write_files(tmp_path, {"deep.html": DEEP_PAGE, "good.md": "Wombats dig."})
    requests = ((name, Request(str(tmp_path / name), name)) for name in ("deep.html", "good.md"))
    with Readers(USUAL, 1) as readers:

        def and_kill() -> Iterator[tuple[str, Request]]:
            yield next(requests)
            while not (busy := [c for c in children() if c.cpu_times().user > 0.2]):
                time.sleep(0.01)
            busy[0].send_signal(signal.SIGSEGV)
            yield next(requests)

        found = dict(readers.read_all(and_kill()))
        assert str(found["deep.html"]) == "ended the process that read it (signal 11)"
        assert texts(found["good.md"]) == ["Wombats dig."]
    assert list(children()) == []


def test_a_reader_can_learn_and_change_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has none of the operator's environment, writes no file, and its limits are hard."""
    monkeypatch.setenv("RAGSOCKET_LLM_API_KEY", "sesame")
    write_files(tmp_path, {"good.md": "Wombats dig."})
    with Readers(USUAL, 1) as readers:
        list(readers.read_all([(None, Request(str(tmp_path / "good.md"), "good.md"))]))
        (child,) = children()
        assert "sesame" not in " ".join([*child.environ().values(), *child.cmdline()])
        assert child.rlimit(psutil.RLIMIT_FSIZE) == (0, 0)
        assert child.rlimit(psutil.RLIMIT_CORE) == (0, 0)
        assert child.rlimit(psutil.RLIMIT_AS) == (512 * MIB, 512 * MIB)
        soft, _ = child.rlimit(psutil.RLIMIT_CPU)
        assert 0 < soft < 60


def test_a_reader_ends_with_its_parent(tmp_path: Path) -> None:
    """A killed parent leaves nobody behind."""
    code = (
        "import os, sys\nfrom ragsocket.engine.reading.document import *\n"
        "from ragsocket.engine.reading.process import Readers\n"
        "with Readers(Task(Limits(), 64, 8), 1) as readers:\n"
        "    list(readers.read_all([(None, Request(sys.argv[1], 'good.md'))]))\n"
        "    (reader,) = readers._readers\n"
        "    print(reader._process.pid, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    write_files(tmp_path, {"good.md": "Wombats dig."})
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "good.md"], capture_output=True, check=False
    )
    pid = int(done.stdout)
    try:
        psutil.Process(pid).wait(20)
    except psutil.NoSuchProcess:
        pass
    assert not psutil.pid_exists(pid)


def test_a_file_that_leaves_the_folder_after_it_was_listed_is_not_read(tmp_path: Path) -> None:
    """The folder is checked again when the file is open."""
    outside = write_files(tmp_path / "outside", {"secret.md": SECRET})
    root = write_files(tmp_path / "root", {"a.md": "Wombats dig."})
    (root / "a.md").unlink()
    (root / "a.md").symlink_to(outside / "secret.md")
    request = Request(str(root / "a.md"), "a.md", str(root))
    with Readers(USUAL, 1) as readers:
        ((_, result),) = readers.read_all([(None, request)])
    assert str(result) == "symbolic link that leaves the folder"


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_the_whole_torture_set_within_ten_seconds_and_512_mib_each(tmp_path: Path) -> None:
    """With the usual limits; then through the command line: exit status, report, memory."""
    hostile = make_hostile(tmp_path / "files", USUAL.limits, slow=True)
    write_files(hostile.root, dict(GOOD))
    took: dict[str, float] = {}
    with Readers(USUAL, 1) as readers:
        for name in sorted(hostile.refused):
            path = hostile.root / name
            if path.is_file() and not path.is_symlink():
                began = time.monotonic()
                list(readers.read_all([(None, Request(str(path), name))]))
                took[name] = time.monotonic() - began
    print(json.dumps(dict(sorted(took.items(), key=lambda one: -one[1])[:5]), indent=1))
    assert max(took.values()) < 10

    # In a process of its own: what this one needed to make the files is not to be counted.
    code = (
        "import resource, subprocess, sys\n"
        "done = subprocess.run([sys.executable, '-m', 'ragsocket', *sys.argv[1:]],"
        " capture_output=True)\n"
        "print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
        "sys.stdout.flush()\nsys.stdout.buffer.write(done.stdout)\n"
    )
    state = tmp_path / "state"
    command = [sys.executable, "-c", code, "ingest", str(hostile.root), "--state-dir", str(state)]
    done = subprocess.run(
        [*command, "--embed-model", "none"], capture_output=True, text=True, check=True
    )
    first, *lines = done.stdout.splitlines()
    status, peak_kib = map(int, first.split())
    assert status == 1
    print(f"peak of any process: {peak_kib / 1024:.0f} MiB")
    assert peak_kib < 512 * 1024
    failed = [line for line in lines if line.startswith("failed")]
    assert len(failed) == len(hostile.refused)
    check(hostile, state / "index" / "passages.sqlite3")
