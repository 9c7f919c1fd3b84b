"""The processes of a run: the model, the servers, and one client per measurement."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from benchmarks.load import Figures, Load

ROOT = Path(__file__).resolve().parent.parent
START_WITHIN_S = 60.0
MEASURE_WITHIN_S = 120.0
END_WITHIN_S = 10.0

DOCUMENTS = 40
"""Small documents that the one with the answer has to be found among."""

Kind = Literal["ours", "ordinary", "tutorial"]
Cores = Sequence[int]


def _cores() -> tuple[Cores, Cores]:
    """The servers get a core to themselves where a process can be bound to one."""
    if sys.platform != "linux":
        return (), ()
    first, *others = sorted(os.sched_getaffinity(0))
    return ((first,), others) if others else ((), ())


SERVER_CORES, OTHER_CORES = _cores()


class Broken(Exception):
    """A process did not start, or a measurement failed."""


@dataclass
class Processes:
    """What runs, and where. Every process is ended by its pid when the run is over."""

    folder: Path
    tutorial_python: str | None = None
    running: ExitStack = field(default_factory=ExitStack)
    model: subprocess.Popen[str] | None = None
    model_url: str = ""
    servers: dict[Kind, tuple[subprocess.Popen[str], str]] = field(default_factory=dict)

    def start(self, kinds: list[Kind]) -> None:
        """Start the model and the servers, and wait until they are ready."""
        self.model, said = self.start_process(
            [sys.executable, "-m", "benchmarks.model"], OTHER_CORES
        )
        self.model_url = str(said["url"])
        model_url = ["--model-url", self.model_url]
        for kind in kinds:
            if kind == "ours":
                write_documents(self.folder / "documents")
                command = [sys.executable, "-m", "benchmarks.servers.ours"]
                command += ["--folder", str(self.folder)]
            elif kind == "ordinary":
                command = [sys.executable, "-m", "benchmarks.servers.ordinary"]
            else:
                assert self.tutorial_python is not None
                command = [self.tutorial_python, str(ROOT / "benchmarks/servers/tutorial.py")]
            process, said = self.start_process([*command, *model_url], SERVER_CORES)
            self.servers[kind] = process, f"ws://127.0.0.1:{said['port']}/ws"

    def measure(self, kind: Kind, **load: int | bool | None) -> Figures:
        """Run one client against one server.

        Raises:
            Broken: a miscount, or no answer.
        """
        assert self.model is not None
        server, url = self.servers[kind]
        asked = Load(
            url=url,
            protocol="responses" if kind == "ours" else "tokens",
            pids={"server": server.pid, "model": self.model.pid},
            **load,  # type: ignore[arg-type]
        )
        with _pinned(OTHER_CORES):
            try:
                done = subprocess.run(
                    [sys.executable, "-m", "benchmarks.client"],
                    input=msgspec.json.encode(asked),
                    capture_output=True,
                    timeout=MEASURE_WITHIN_S,
                    check=False,
                    cwd=self.folder,
                    env=environment(),
                )
            except subprocess.TimeoutExpired as error:
                raise Broken(f"{kind}, {load}: {error}") from error
        try:
            done.check_returncode()
            return msgspec.json.decode(done.stdout, type=Figures)
        except (subprocess.CalledProcessError, msgspec.DecodeError) as error:
            said = f"{len(done.stdout)} bytes of figures. {done.stderr.decode()[-2000:]}"
            raise Broken(f"{kind}, {load}: {error} {said}") from error

    def start_process(
        self, command: list[str], cores: Cores
    ) -> tuple[subprocess.Popen[str], dict[str, str | int]]:
        """Start a process that says one line of JSON when it is ready; ended with the run."""
        with _pinned(cores):
            # In a folder of its own, so that no settings file of an operator is read.
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, text=True, cwd=self.folder, env=environment()
            )
        self.running.callback(_end, process)
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], START_WITHIN_S)
        line = process.stdout.readline() if ready else ""
        if not line:
            raise Broken(f"{' '.join(command)} did not start.")
        said: dict[str, str | int] = json.loads(line)
        return process, said


@contextmanager
def _pinned(cores: Cores) -> Iterator[None]:
    """Bind what is started in the block to these cores; to none in particular if empty."""
    if sys.platform != "linux" or not cores:
        yield
        return
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, mine)


def environment() -> dict[str, str]:
    """Ours without the operator's settings, and with this repository on the path."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("RAGSOCKET_")}
    places = (ROOT, ROOT / "src", ROOT / "tests")
    return {**kept, "PYTHONPATH": os.pathsep.join(map(str, places))}


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(END_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def write_documents(folder: Path) -> None:
    """Write a small folder in which the client's question has an answer."""
    folder.mkdir(parents=True)
    for number in range(DOCUMENTS):
        text = f"Pier {number} is {10 + number} metres long and was built of stone.\n"
        (folder / f"pier-{number}.md").write_text(f"# Pier {number}\n\n{text}")
    (folder / "harbour.md").write_text(
        "# The harbour office\n\n"
        "Answers are kept at the harbour office for as long as thirty days. "
        "The ferry leaves at 7:40. Many tokens were lost at sea.\n"
    )
