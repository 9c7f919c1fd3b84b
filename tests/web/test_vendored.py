"""What the page has from others is theirs, byte for byte, and so is its copy of our client."""

from __future__ import annotations

import json
import shutil
import subprocess
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WEB = Path(str(files("ragsocket"))) / "web"
VENDOR = WEB / "vendor"
PACKAGES = ROOT / "tests" / "js"
CLIENT = ROOT / "clients" / "js"
VENDORED = json.loads((VENDOR / "vendored.json").read_text())
OURS = ("ragsocket.js", "answer.js")


@pytest.mark.parametrize("entry", VENDORED, ids=[entry["name"] for entry in VENDORED])
def test_a_library_is_the_one_of_its_package(entry: dict[str, str]) -> None:
    """Bytes, version, licence and hash are those of the locked package of npm."""
    package = PACKAGES / "node_modules" / entry["name"]
    assert package.exists(), "run `make setup`: npm's packages are missing"
    about = json.loads((package / "package.json").read_text())
    assert (about["version"], about["license"]) == (entry["version"], entry["license"])
    body = (VENDOR / entry["file"]).read_bytes()
    assert sha256(body).hexdigest() == entry["sha256"]
    assert body == (package / entry["origin"]).read_bytes()
    assert (VENDOR / entry["license_file"]).read_bytes() == (package / "LICENSE").read_bytes()


@pytest.mark.parametrize("name", OURS)
def test_the_client_is_the_one_that_is_published(name: str) -> None:
    """The page uses `clients/js` as anybody would."""
    assert (VENDOR / name).read_bytes() == (CLIENT / name).read_bytes()


def test_every_file_is_accounted_for() -> None:
    """Nothing lies among the vendored files that the list does not name."""
    named = {entry[key] for entry in VENDORED for key in ("file", "license_file")}
    assert {path.name for path in VENDOR.iterdir()} == named | {*OURS, "vendored.json"}


def test_types(tmp_path: Path) -> None:
    """The page's own files are strictly typed; the types of what they import are the packages'."""
    shutil.copytree(WEB, tmp_path, dirs_exist_ok=True)
    for name, types in {
        "marked.esm.d.ts": PACKAGES / "node_modules" / "marked" / "lib" / "marked.d.ts",
        "purify.es.d.mts": PACKAGES / "node_modules" / "dompurify" / "dist" / "purify.es.d.mts",
        "events.d.ts": CLIENT / "events.d.ts",
    }.items():
        shutil.copy(types, tmp_path / "vendor" / name)
    (tmp_path / "node_modules").symlink_to(PACKAGES / "node_modules")
    options = json.loads((CLIENT / "tsconfig.json").read_text())["compilerOptions"]
    options |= {"module": "esnext", "moduleResolution": "bundler", "noEmit": True}
    for emits in ("declaration", "emitDeclarationOnly", "stripInternal", "outDir"):
        del options[emits]
    written = {path.name for path in WEB.glob("*.js")} - {"page.min.js"}
    config = {"compilerOptions": options, "files": sorted(written)}
    (tmp_path / "tsconfig.json").write_text(json.dumps(config))
    done = subprocess.run(
        [CLIENT / "node_modules" / ".bin" / "tsc", "--project", tmp_path],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout
