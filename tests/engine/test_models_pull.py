"""Model files: the catalog, and how a file gets here or does not."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ragsocket.engine.models.catalog import Carrier, Model, catalog
from ragsocket.engine.models.choice import absent_model, local_model
from ragsocket.engine.models.pull import pull
from ragsocket.errors import ConfigError, PullError
from ragsocket.settings import Settings

CONTENT = bytes(range(256)) * 8192
NOWHERE = "http://127.0.0.1:9/model.gguf"


class Notes:
    """Keeps what a pull says."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.done: list[int] = []

    def says(self, text: str) -> None:
        self.said.append(text)

    def at(self, done: int, total: int) -> None:
        self.done.append(done)


class Hub(ThreadingHTTPServer):
    """Serves CONTENT, from where it is asked to; `cut` ends an answer after so many bytes."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.content = CONTENT
        self.cut: int | None = None
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/model.gguf"


class _Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        start = int(wanted[len("bytes=") : -1]) if wanted else 0
        body = self.server.content[start:]
        self.send_response(206 if wanted else 200)
        if wanted:
            end = len(self.server.content)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.cut])

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on this machine, asked without a proxy."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Hub() as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        yield server
        server.shutdown()
        serving.join()


def model(url: str = NOWHERE, carriers: tuple[Carrier, ...] = ()) -> Model:
    """A model whose official file is CONTENT."""
    return Model(
        name="tiny",
        use="for a test",
        file="tiny.gguf",
        size=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        licence="MIT",
        page=url,
        hub=url,
        context_tokens=600,
        carriers=carriers,
    )


def make_wheel(folder: Path, part: bytes, number: int) -> Carrier:
    """Write a wheel that pip takes, and return its entry of a catalog."""
    folder.mkdir(exist_ok=True)
    name = f"carrier{number}"
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}/__init__.py", "raise SystemExit('imported')\n")
        wheel.writestr(f"{name}/part.bin", part)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return Carrier(
        package=name,
        version="1.0",
        wheel=path.name,
        wheel_size=path.stat().st_size,
        wheel_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        member=f"{name}/part.bin",
    )


def test_the_catalog_is_whole() -> None:
    """Every entry has a licence, a hub and carriers that add up, and the default is one of them."""
    known = catalog()
    assert known.find(known.default) is not None
    for entry in known.models:
        assert entry.hub.startswith("https://")
        assert entry.hub.endswith(entry.file)
        assert sum(carrier.wheel_size for carrier in entry.carriers) > entry.size * 0.9


def test_the_official_file_is_taken_from_the_hub_and_kept(tmp_path: Path, hub: Hub) -> None:
    """A second pull finds it here, and asks nobody."""
    first = pull(model(hub.url), tmp_path, notes := Notes())
    assert (first.source, first.path.read_bytes()) == ("hub", CONTENT)
    assert notes.done[-1] == len(CONTENT)
    assert pull(model(hub.url), tmp_path, Notes()).source is None
    assert len(hub.asked) == 1


def test_a_download_that_broke_off_goes_on_where_it_ended(tmp_path: Path, hub: Hub) -> None:
    """The second pull asks for the rest alone."""
    hub.cut = 1_500_000
    with pytest.raises(PullError, match="pull again"):
        pull(model(hub.url), tmp_path, Notes(), sources=["hub"])
    hub.cut = None
    assert pull(model(hub.url), tmp_path, Notes()).path.read_bytes() == CONTENT
    assert hub.asked == [None, "bytes=1500000-"]


def test_another_file_is_named_and_deleted(tmp_path: Path, hub: Hub) -> None:
    """Nothing with a wrong hash stays, whatever its size."""
    hub.content = CONTENT[:-1] + b"!"
    with pytest.raises(PullError, match=r"not the official file of tiny.*deleted"):
        pull(model(hub.url), tmp_path, Notes())
    assert [path.name for path in tmp_path.iterdir()] == [".tiny.gguf.lock"]


def test_a_damaged_file_is_fetched_again(tmp_path: Path, hub: Hub) -> None:
    """A truncated file here is replaced, and that is said."""
    (tmp_path / "tiny.gguf").write_bytes(CONTENT[:1000])
    notes = Notes()
    assert pull(model(hub.url), tmp_path, notes).source == "hub"
    assert "was not the official file" in notes.said[0]


def test_a_file_of_ones_own_is_copied_if_it_is_the_official_one(tmp_path: Path) -> None:
    """The original stays; another file is refused and stays too."""
    own, other = tmp_path / "own.bin", tmp_path / "other.bin"
    own.write_bytes(CONTENT)
    other.write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(PullError, match="not the official file"):
        pull(model(), tmp_path / "models", Notes(), own_file=other)
    with pytest.raises(PullError, match="does not exist"):
        pull(model(), tmp_path / "models", Notes(), own_file=tmp_path / "none")
    assert pull(model(), tmp_path / "models", Notes(), own_file=own).source == "file"
    assert own.exists()
    assert other.exists()


def test_wheels_are_joined_and_never_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parts make the file; wheels that are here and right are not fetched again."""
    shelf = tmp_path / "shelf"
    carriers = (make_wheel(shelf, CONTENT[:700_000], 1), make_wheel(shelf, CONTENT[700_000:], 2))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    wheels = tmp_path / "models" / ".tiny.gguf.wheels"
    wheels.mkdir(parents=True)
    (shelf / carriers[0].wheel).rename(wheels / carriers[0].wheel)
    pulled = pull(model(carriers=carriers), tmp_path / "models", Notes())
    assert (pulled.source, pulled.path.read_bytes()) == ("carriers", CONTENT)
    assert not wheels.exists()


def test_a_wheel_with_another_hash_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wheel is checked by pip before anything of it is looked at."""
    carrier = make_wheel(tmp_path / "shelf", CONTENT, 1)
    make_wheel(tmp_path / "shelf", CONTENT + b"!", 1)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "shelf"))
    with pytest.raises(PullError, match="another one than the catalog knows"):
        pull(model(carriers=(carrier,)), tmp_path / "models", Notes(), sources=["carriers"])


def test_without_a_network_the_message_names_what_was_asked(tmp_path: Path) -> None:
    """One sentence, and what helps."""
    with pytest.raises(PullError, match=r"the hub cannot be reached .* --from FILE"):
        pull(model(), tmp_path, Notes())


def test_a_full_disk_is_called_one(tmp_path: Path) -> None:
    """The system refuses the bytes, and the message says where room is missing."""
    (tmp_path / "own.bin").write_bytes(CONTENT)
    code = (
        "import resource, sys\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "from test_models_pull import *\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "root = Path(sys.argv[1])\n"
        "try: pull(model(), root / 'models', Notes(), own_file=root / 'own.bin')\n"
        "except PullError as error: print(error)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("not enough room")


def test_two_pulls_at_once_fetch_once(tmp_path: Path, hub: Hub) -> None:
    """The second waits, and finds the file."""
    sources: list[str | None] = []

    def fetch() -> None:
        sources.append(pull(model(hub.url), tmp_path, Notes()).source)

    threads = [threading.Thread(target=fetch) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(sources, key=str) == [None, None, "hub"]
    assert len(hub.asked) == 1


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("qwen2.5-coder-0.5", "did you mean qwen2.5-coder-0.5b-instruct"),
        ("qwen2.5-coder-1.5b-instruct", "run: ragsocket models pull qwen2.5-coder-1.5b-instruct"),
        ("missing.gguf", "does not exist"),
    ],
)
def test_a_model_that_cannot_be_run_is_refused_with_the_fix(
    tmp_path: Path, wanted: str, said: str
) -> None:
    """An unknown name, a file that was not pulled, and a path to nothing."""
    with pytest.raises(ConfigError, match=said):
        local_model(Settings(llm_model=wanted, models_dir=tmp_path))


def test_what_would_run_here_is_fetched_and_nothing_else(tmp_path: Path) -> None:
    """The default, or the one that is named; not with a server, a file, or `none`."""
    default = catalog().find(catalog().default)
    assert absent_model(Settings(models_dir=tmp_path)) == default
    named = absent_model(Settings(models_dir=tmp_path, llm_model="smollm2-135m-instruct"))
    assert named is not None
    assert named.name == "smollm2-135m-instruct"
    for settings in (
        Settings(models_dir=tmp_path, llm_url="http://127.0.0.1:9/v1", llm_model="any"),
        Settings(models_dir=tmp_path, llm_model="none"),
        Settings(models_dir=tmp_path, llm_model="own.gguf"),
    ):
        assert absent_model(settings) is None
    with named.in_directory(tmp_path).open("wb") as file:
        file.truncate(named.size)
    assert absent_model(Settings(models_dir=tmp_path, llm_model=named.name)) is None


def test_without_a_default_here_there_is_no_model(tmp_path: Path) -> None:
    """Nor with one of the wrong size, with a server, or with `none`."""
    assert local_model(Settings(models_dir=tmp_path)) is None
    default = catalog().find(catalog().default)
    assert default is not None
    default.in_directory(tmp_path).write_bytes(b"half")
    assert local_model(Settings(models_dir=tmp_path)) is None
    assert local_model(Settings(models_dir=tmp_path, llm_model="none")) is None
    assert local_model(Settings(llm_url="http://127.0.0.1:9/v1", llm_model="any")) is None
