"""What every test can ask for."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from openai import AsyncOpenAI

from harness import Served, index, official, serving
from postgres import Postgres
from upstream import Upstream

SAMPLES = Path(__file__).parent.parent / "data"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The loop that production runs on."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(autouse=True, scope="session")
def no_models_of_this_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Whoever has pulled the default model gets the same results as everybody else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAGSOCKET_MODELS_DIR", str(tmp_path_factory.mktemp("models")))
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A Postgres server, for the tests that ask for it."""
    with Postgres() as server:
        yield server


@pytest.fixture(scope="session")
def empty(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], str]:
    """Makes an empty database of a kind, `sqlite` or `postgres`, and returns its URL."""

    def make(kind: str) -> str:
        if kind == "sqlite":
            return f"sqlite:///{tmp_path_factory.mktemp('database') / 'history.sqlite3'}"
        server: Postgres = request.getfixturevalue("postgres")
        return server.fresh()

    return make


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, empty: Callable[[str], str]) -> str:
    """The URL of an empty database, of each kind in turn."""
    return empty(request.param)


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    """A scripted model server."""
    async with Upstream() as server:
        yield server


@pytest.fixture(scope="session")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two small documents, for reading only."""
    folder = tmp_path_factory.mktemp("documents")
    (folder / "ferry.md").write_text(
        "# Ferry\n\nThe ferry to Holm leaves at 7:40 every morning. "
        "A bicycle travels for 3 crowns. Dogs travel free of charge.\n"
    )
    (folder / "harbour.txt").write_text(
        "The harbour office opens at nine. Lost luggage is kept for 30 days in shed 4.\n"
    )
    return folder


@pytest.fixture(scope="session")
def ingested(documents: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory with an index of the two documents, for copying."""
    state = tmp_path_factory.mktemp("ingested")
    index(documents, state)
    return state


@pytest.fixture
def state(ingested: Path, tmp_path: Path) -> Path:
    """A state directory of the test's own, with the two documents in its index."""
    return shutil.copytree(ingested, tmp_path / "state")


@pytest.fixture(scope="session")
def _worked_in(documents: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("worked-in")
    (folder / "documents").mkdir()
    (folder / ".ragsocket").mkdir(mode=0o700)
    shutil.copy(documents / "ferry.md", folder / "documents")
    index(folder / "documents", folder / ".ragsocket")
    return folder


@pytest.fixture
def cwd(_worked_in: Path, tmp_path: Path) -> Path:
    """A working directory with one document in `documents`, and its index in the usual place."""
    return shutil.copytree(_worked_in, tmp_path / "cwd")


@pytest.fixture
async def served(upstream: Upstream, state: Path) -> AsyncIterator[Served]:
    """The whole server over two documents and the scripted model, ready for questions."""
    async with serving(state, upstream=upstream) as server:
        yield server


@pytest.fixture
async def client(served: Served) -> AsyncIterator[AsyncOpenAI]:
    """The official client, which repeats nothing by itself."""
    async with official(served) as client:
        yield client


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory with an index of the sample documents, for copying."""
    state = tmp_path_factory.mktemp("samples")
    index(SAMPLES, state)
    return state


@pytest.fixture
async def extracting(samples: Path, tmp_path: Path) -> AsyncIterator[Served]:
    """A server over the sample documents, without a model."""
    state = shutil.copytree(samples, tmp_path / "state")
    async with serving(state) as served:
        yield served
