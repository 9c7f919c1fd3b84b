"""`ragsocket doctor`: every seeded fault is found, and its line names the fix."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import anyio
import anyio.to_thread
import pytest
from anyio.abc import SocketStream
from commands import run, run_async, serving

from postgres import Postgres
from ragsocket.cli import checks
from ragsocket.cli.doctor import examine
from upstream import Upstream

Lines = dict[str, str]


def lines_of(stdout: str) -> Lines:
    """The findings by name, each with its mark."""
    found = {}
    for line in stdout.splitlines():
        name, _, text = line[2:].partition(": ")
        found[name] = f"{line[0]} {text}"
    return found


def everything(folder: Path) -> dict[Path, int]:
    """Every file below a folder, with the time of its last change."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def assert_wrong(lines: Lines, name: str, *words: str) -> None:
    """Assert that a finding is bad and says these words."""
    assert lines[name].startswith("✗"), lines[name]
    assert not [word for word in words if word not in lines[name]], lines[name]


async def test_all_is_well(cwd: Path, upstream: Upstream) -> None:
    """With everything in place each line is good, the status 0, and nothing was changed."""
    before = everything(cwd)
    env = {
        "RAGSOCKET_LLM_URL": upstream.url, "RAGSOCKET_LLM_MODEL": "scripted",
        "RAGSOCKET_EMBED_URL": upstream.url, "RAGSOCKET_EMBED_MODEL": "scripted",
        "RAGSOCKET_DATA": "documents", "RAGSOCKET_PORT": "0",
    }  # fmt: skip
    done = await run_async("doctor", "--json", cwd=cwd, **env)
    assert done.returncode == 0, done.stdout
    findings = {finding["name"]: finding for finding in json.loads(done.stdout)}
    assert all(finding["ok"] and finding["fix"] is None for finding in findings.values())
    assert list(findings) == ["python", "packages", "settings", "state directory", "disk", "engine",
                              "documents", "index", "history", "model", "embeddings",
                              "port"]  # fmt: skip
    assert findings["documents"]["text"] == "1 in documents"
    assert findings["index"]["text"] == "revision 1, 1 passages"
    assert "64 dimensions" in findings["embeddings"]["text"]
    assert everything(cwd) == before
    assert upstream.requests == []


async def test_faults_of_servers_folders_and_names(tmp_path: Path, upstream: Upstream) -> None:
    """A folder, a state directory, a model, a database, a variable and a port that are wrong."""
    (tmp_path / "a-file").write_text("neither folder nor database\n" * 100)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = await run_async(
            "doctor", "--data", "missing", "--state-dir", "a-file", "--port", str(port),
            "--llm-url", upstream.url, "--llm-model", "unheard-of",
            "--embed-url", "http://127.0.0.1:9/v1", "--embed-model", "any",
            cwd=tmp_path, RAGSOCKET_PROT="1", RAGSOCKET_DATABASE_URL="sqlite+aiosqlite:///a-file",
        )  # fmt: skip
    assert done.returncode == 1
    lines = lines_of(done.stdout)
    assert_wrong(lines, "settings", "RAGSOCKET_PROT", "did you mean RAGSOCKET_PORT?")
    assert_wrong(lines, "state directory", "a-file", "--state-dir")
    assert_wrong(lines, "documents", "missing is not a folder", "--data")
    assert_wrong(lines, "history", "not a database", "RAGSOCKET_DATABASE_URL")
    assert_wrong(lines, "model", "no model 'unheard-of'", "scripted", "--llm-model")
    assert_wrong(lines, "embeddings", "Connection refused", "RAGSOCKET_EMBED_URL")
    assert_wrong(lines, "port", f"port {port} on 127.0.0.1 is in use", "--port")
    assert lines["python"].startswith("✓")


async def test_faults_of_keys_documents_and_the_index(cwd: Path) -> None:
    """A refused key, a folder of nothing to read, a damaged index, a model without a name."""
    (cwd / "nothing").mkdir()
    (cwd / "nothing" / "picture.png").write_bytes(b"")
    index = cwd / ".ragsocket" / "index" / "passages.sqlite3"
    for name in ("", "-wal", "-shm"):
        index.with_name(index.name + name).unlink(missing_ok=True)
    index.write_text("not a database\n" * 1000)

    async def refuse(stream: SocketStream) -> None:
        async with stream:
            asked = await stream.receive()
            assert b"Bearer wrong" in asked
            await stream.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, refuse)
        url = f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}/v1"
        done = await run_async(
            "doctor", "--data", "nothing", "--port", "0", "--llm-url", url, "--llm-model", "any",
            "--embed-url", url, cwd=cwd, RAGSOCKET_LLM_API_KEY="wrong", RAGSOCKET_EMBED_MODEL="",
        )  # fmt: skip
        tasks.cancel_scope.cancel()
    assert done.returncode == 1
    lines = lines_of(done.stdout)
    assert_wrong(lines, "settings", "RAGSOCKET_EMBED_MODEL")
    assert_wrong(lines, "documents", "holds no documents", ".md")
    assert_wrong(lines, "index", "damaged", "ingest again")
    assert_wrong(lines, "model", "refuses the key", "RAGSOCKET_LLM_API_KEY")
    assert "wrong" not in done.stdout


def test_without_documents_and_index_there_is_nothing_to_answer_from(tmp_path: Path) -> None:
    """Neither a folder nor an index is a fault; a folder alone is none."""
    lines = lines_of(run("doctor", "--port", "0", cwd=tmp_path).stdout)
    assert_wrong(lines, "index", "--data", "ragsocket ingest DIR")
    assert not (tmp_path / ".ragsocket").exists()


@pytest.mark.parametrize(
    ("flags", "env", "words"),
    [
        ([], {"RAGSOCKET_PORT": "abc"}, ["RAGSOCKET_PORT is 'abc'"]),
        (["--llm-url", "http://127.0.0.1:1/v1", "--port", "70000"], {}, ["--port is '70000'"]),
    ],
)
def test_settings_that_cannot_be_read(
    tmp_path: Path, flags: list[str], env: dict[str, str], words: list[str]
) -> None:
    """The setting is named, and nothing is looked at that depends on it."""
    done = run("doctor", *flags, cwd=tmp_path, **env)
    assert done.returncode == 1
    lines = lines_of(done.stdout)
    assert_wrong(lines, "settings", *words)
    assert list(lines) == ["python", "packages", "settings"]


async def test_a_server_that_runs_is_no_fault(cwd: Path) -> None:
    """The port may be taken by a ragsocket, whose history is left alone."""
    async with serving(cwd) as server:
        port = server.address.rpartition(":")[2]
        done = await run_async("doctor", "--port", port, cwd=cwd)
        lines = lines_of(done.stdout)
        assert done.returncode == 0, done.stdout
        assert "already listens" in lines["port"]
        assert "0 answers" in lines["history"]


def test_faults_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A full disk, an old Python and an old uvicorn are found."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1024))
    monkeypatch.setattr(checks, "OLDEST_PYTHON", (4, 0))
    monkeypatch.setattr(checks, "version", lambda _: "0.52.0")
    assert not examine({"port": 0}, as_json=False)
    lines = lines_of(capsys.readouterr().out)
    assert_wrong(lines, "disk", "0.0 GiB free", "Make room")
    assert_wrong(lines, "python", "Install Python 3.11")
    assert_wrong(lines, "packages", "uvicorn 0.52.1 or newer")


def test_the_oldest_versions_are_those_of_the_package() -> None:
    """The doctor asks for what the package's own requirements ask for."""
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    for name, oldest in checks.OLDEST_PACKAGES.items():
        assert f'"{name}>={oldest}"' in project


async def test_the_history_on_postgres(cwd: Path, postgres: Postgres) -> None:
    """Its tables' revision is told, with what the next start does, and nothing is done."""
    url = postgres.fresh()
    secret = url.replace("postgres@", "postgres:secret@")

    async def history() -> str:
        done = await run_async("doctor", "--port", "0", cwd=cwd, RAGSOCKET_DATABASE_URL=secret)
        assert "secret" not in done.stdout
        return lines_of(done.stdout)["history"]

    assert "is empty" in await history()
    first = Path(__file__).parents[1] / "data" / "history" / "first-release.postgres.sql"
    await anyio.to_thread.run_sync(postgres.sql, first.read_text(), url)
    before = await history()
    assert before.startswith("✓ 4 answers in postgresql")
    assert "revision 0001; the next start brings them to 0002" in before
    assert await history() == before
    mark = "CREATE TABLE alembic_version (version_num TEXT); INSERT INTO alembic_version VALUES "
    await anyio.to_thread.run_sync(postgres.sql, f"{mark} ('0815')", url)
    assert_wrong({"history": await history()}, "history", "0815", "newer", "backup")
    await anyio.to_thread.run_sync(postgres.stop)
    try:
        assert_wrong({"history": await history()}, "history", "Start that Postgres")
    finally:
        await anyio.to_thread.run_sync(postgres.start)
