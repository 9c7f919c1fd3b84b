"""Help, version and refusals: at once, in one line, and without a traceback."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from commands import environment, run

HEAVY = ("llama_index", "numpy", "fastapi", "uvicorn", "sqlalchemy")
LOADED = """
import sys
from ragsocket.cli import main
try:
    main()
finally:
    print(*sys.modules, file=open("modules", "w"))
"""


@pytest.mark.parametrize(
    "arguments",
    ["--help", "--version", "serve --help", "ingest --help", "chat --help", "doctor --help",
     "serve --data missing", "serve --workers 2", "serve --host 0.0.0.0",
     "serve --llm-url http://127.0.0.1:1/v1", "serve --port 70000", "ingest missing"],
)  # fmt: skip
def test_help_and_refusals_load_nothing_heavy(tmp_path: Path, arguments: str) -> None:
    """What needs no engine and no web framework does not load them."""
    command = [sys.executable, "-c", LOADED, *arguments.split()]
    subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, timeout=60)
    loaded = (tmp_path / "modules").read_text().split()
    assert "ragsocket.cli" in loaded
    assert not set(HEAVY) & {name.partition(".")[0] for name in loaded}


@pytest.mark.parametrize(
    ("arguments", "env", "words"),
    [
        ("serve --data missing", {}, ["missing does not exist", "--data"]),
        ("serve", {"RAGSOCKET_DATA": "a-file"}, ["a-file is not a folder", "RAGSOCKET_DATA"]),
        ("serve --workers 2", {}, ["--workers is 2", "use 1"]),
        ("serve", {"RAGSOCKET_WORKERS": "4"}, ["RAGSOCKET_WORKERS is 4", "use 1"]),
        ("serve", {"RAGSOCKET_PORT": "abc"}, ["RAGSOCKET_PORT is 'abc'", "integer"]),
        ("serve --port 70000", {"RAGSOCKET_PORT": "1"}, ["--port is '70000'", "65535"]),
        ("serve", {"RAGSOCKET_DRAIN_S": "-1"}, ["RAGSOCKET_DRAIN_S is '-1'", "SIGTERM"]),
        ("serve", {"RAGSOCKET_SEARCH": "perhaps"}, ["RAGSOCKET_SEARCH", "'auto' or 'never'"]),
        ("serve", {"RAGSOCKET_ALLOWED_ORIGINS": "here"}, ["RAGSOCKET_ALLOWED_ORIGINS", "https://"]),
        ("serve --host 0.0.0.0", {}, ["0.0.0.0", "RAGSOCKET_ALLOW_ANONYMOUS=1"]),
        ("serve --host no.such.host.invalid", {"RAGSOCKET_ALLOW_ANONYMOUS": "1"},
         ["no.such.host.invalid", "--host 127.0.0.1"]),
        ("serve --llm-url http://127.0.0.1:1/v1", {}, ["RAGSOCKET_LLM_MODEL"]),
        ("serve --state-dir a-file", {}, ["a-file cannot be used", "--state-dir"]),
        ("serve", {"RAGSOCKET_DATABASE_URL": "nonsense"}, ["RAGSOCKET_DATABASE_URL", "sqlite"]),
        ("serve", {"RAGSOCKET_DATABASE_URL": "sqlite+aiosqlite:///a-file"}, ["a-file", "opened"]),
        ("ingest missing", {}, ["missing does not exist"]),
        ("chat --url tcp://127.0.0.1", {}, ["--url", "ws://127.0.0.1:8000"]),
    ],
)  # fmt: skip
def test_a_fault_of_the_settings_is_one_line_with_the_fix(
    tmp_path: Path, arguments: str, env: dict[str, str], words: list[str]
) -> None:
    """Status 2 and one line on stderr that names what was set, and what would be right."""
    (tmp_path / "a-file").write_text("this is not a database, and no folder either\n" * 100)
    done = run(*arguments.split(), cwd=tmp_path, **{"RAGSOCKET_PORT": "0"} | env)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("ragsocket: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert not [word for word in words if word not in done.stderr], done.stderr


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("prot = 8000", ["no setting 'prot'", "did you mean port?"]),
        ("xyzzy = 1", ["no setting 'xyzzy'", "remove it"]),
        ("port = 'abc'", ["port in ragsocket.toml is 'abc'"]),
        ("llm_api_key = 'secret'\nsearch = 3", ["search in ragsocket.toml is '3'"]),
        ("port = ", ["ragsocket.toml is not valid TOML", "end of document"]),
        ("port = 'x'\nhots = 'y'", ["port in", "did you mean host?"]),
    ],
)
def test_a_fault_of_the_file_names_the_file(tmp_path: Path, toml: str, words: list[str]) -> None:
    """A wrong value or an unknown name in ragsocket.toml is told as such; secrets are not shown."""
    (tmp_path / "ragsocket.toml").write_text(toml)
    done = run("serve", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert not [word for word in words if word not in done.stderr], done.stderr
    assert "secret" not in done.stderr


def test_a_value_that_is_a_secret_is_not_repeated(tmp_path: Path) -> None:
    """A key of the wrong type is refused without showing it."""
    (tmp_path / "ragsocket.toml").write_text("llm_api_key = 123456")
    done = run("serve", cwd=tmp_path)
    assert done.returncode == 2
    assert "llm_api_key" in done.stderr
    assert "123456" not in done.stderr


def test_a_busy_port_is_named(tmp_path: Path) -> None:
    """A port that something listens on is refused before anything is read."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = run("serve", "--port", str(port), cwd=tmp_path)
    assert done.returncode == 2
    assert f"port {port} on 127.0.0.1 is in use" in done.stderr
    assert "--port" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_version_is_the_packages(tmp_path: Path) -> None:
    """`--version` prints the name and the version."""
    from ragsocket import __version__

    assert run("--version", cwd=tmp_path).stdout == f"ragsocket {__version__}\n"


def test_openapi_needs_no_valid_settings(tmp_path: Path) -> None:
    """The document is printed as JSON whatever the environment says."""
    done = run("openapi", cwd=tmp_path, RAGSOCKET_PORT="abc")
    document = json.loads(done.stdout)
    assert document["openapi"].startswith("3.")
    assert "/stream-question/" in document["paths"]


def test_every_flag_is_a_setting() -> None:
    """Flags and settings have the same names, so that what one page says holds for both."""
    from ragsocket.settings import Settings

    shown = run("serve", "--help", cwd=Path.cwd()).stdout
    flags = {flag.replace("-", "_") for flag in re.findall(r"--([a-z-]+)", shown)}
    # These say what to do once, not how to serve.
    flags -= {"help", "pull"}
    assert flags <= set(Settings.model_fields)
    assert {"host", "port", "data", "llm_url", "llm_model", "workers", "state_dir"} <= flags
