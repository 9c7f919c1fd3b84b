"""`ragsocket ingest`: what it reports, and what an interrupt leaves behind."""

from __future__ import annotations

import re
from pathlib import Path

import anyio
from anyio.abc import SocketStream
from commands import run, terminal

from harness import PATIENCE_S


def test_the_report_says_what_changed_and_what_failed(cwd: Path) -> None:
    """Added, changed, unchanged, removed and failed files are counted; a failed one costs a 1."""
    documents = cwd / "documents"
    same = run("ingest", "documents", cwd=cwd)
    assert same.returncode == 0
    assert "0 added, 0 changed, 1 unchanged, 0 removed, 0 failed" in same.stdout
    assert "revision 1, 1 passages" in same.stdout
    (documents / "ferry.md").write_text("The ferry leaves at 8:15 now.\n")
    (documents / "broken.pdf").write_bytes(b"%PDF-1.4 and no more")
    (documents / "evil\x1b[2J.txt").write_bytes(b"\xfa\xfe")
    (documents / "shed.txt").write_text("Lost luggage is kept in shed 4.\n")
    (documents / "notes.xyz").write_text("of another kind")
    more = run("ingest", "documents", cwd=cwd)
    assert more.returncode == 1
    assert "1 added, 1 changed, 0 unchanged, 0 removed, 2 failed" in more.stdout
    assert re.search(r"revision 2, 2 passages, \d+\.\d s", more.stdout)
    assert "failed     broken.pdf: broken file" in more.stdout
    assert "failed     evil[2J.txt: not UTF-8 text" in more.stdout
    assert "1 .xyz" in more.stdout
    for name in ("ferry.md", "broken.pdf", "evil\x1b[2J.txt"):
        (documents / name).unlink()
    last = run("ingest", "documents", cwd=cwd)
    assert last.returncode == 0
    assert "0 added, 0 changed, 1 unchanged, 1 removed, 0 failed" in last.stdout


def test_a_directory_of_its_own(cwd: Path) -> None:
    """`--state-dir` is made for its owner alone, and holds the index."""
    done = run("ingest", "documents", "--state-dir", "deep/state", cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert (cwd / "deep" / "state").stat().st_mode & 0o777 == 0o700
    assert (cwd / "deep" / "state" / "index" / "passages.sqlite3").is_file()


async def test_an_interrupt_ends_every_process(cwd: Path) -> None:
    """Ctrl-C ends the process that embeds too, and the next ingestion does what is left."""
    (cwd / "documents" / "shed.txt").write_text("Lost luggage is kept in shed 4.\n")
    gone = anyio.Event()

    async def never_answer(stream: SocketStream) -> None:
        async with stream:
            try:
                while await stream.receive():
                    pass
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                gone.set()

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, never_answer)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        flags = ("--embed-url", f"http://127.0.0.1:{port}/v1", "--embed-model", "silent")
        with terminal(cwd, "ingest", "documents", *flags) as ingest:
            await ingest.shows("passages embedded")
            ingest.type("\x03")
            await ingest.shows("stopped; what was published by then stays")
            assert await ingest.status() == 130
        with anyio.fail_after(PATIENCE_S):
            await gone.wait()
        tasks.cancel_scope.cancel()
    assert "Traceback" not in ingest.screen
    done = run("ingest", "documents", cwd=cwd)
    assert done.returncode == 0
    assert ", 2 passages" in done.stdout
