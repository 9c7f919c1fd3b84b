"""The wheel that people install carries everything that the checkout has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import ragsocket
import ragsocket_client

ROOT = Path(__file__).parents[1]
CLIENT = ROOT / "clients" / "python" / "src" / "ragsocket_client"


def test_the_wheel_holds_the_server_and_the_client(tmp_path: Path) -> None:
    """Every file of both packages is in it, and its chat starts without the checkout."""
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=100)
    installed = tmp_path / "installed"
    with ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
        wheel.extractall(installed)
    for package in (ROOT / "src" / "ragsocket", CLIENT):
        for path in package.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert f"{path.relative_to(package.parent)}" in names
    done = subprocess.run(
        [sys.executable, "-m", "ragsocket", "chat", "--url", "ws://127.0.0.1:9"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(installed)},
        input="",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "nothing answers at ws://127.0.0.1:9/v1/responses" in done.stderr


def test_server_and_client_are_released_together() -> None:
    """One version for both, since the server's wheel carries the client's files."""
    assert ragsocket.__version__ == ragsocket_client.__version__
