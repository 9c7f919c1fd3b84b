"""`ragsocket doctor`: one line per thing that `serve` needs, with the fix where it is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import typer

from ragsocket.cli import checks
from ragsocket.cli.checks import Check, Wrong
from ragsocket.cli.configure import load_settings, unknown_variables
from ragsocket.cli.printable import one_line
from ragsocket.errors import ConfigError
from ragsocket.settings import Settings

CHECKS: dict[str, Check] = {
    "state directory": checks.state_directory,
    "disk": checks.disk,
    "engine": checks.engine,
    "documents": checks.documents,
    "index": checks.index,
    "history": checks.history,
    "model": checks.model,
    "embeddings": checks.embeddings,
    "port": checks.port,
}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        name: what was looked at.
        ok: False if it must be mended.
        text: what was found.
        fix: how to mend it; None if all is well, or if the text says it.
    """

    name: str
    ok: bool
    text: str
    fix: str | None = None

    def __str__(self) -> str:
        line = f"{'✓' if self.ok else '✗'} {self.name}: {self.text}"
        return one_line(f"{line}. {self.fix}" if self.fix else line)


def examine(flags: Mapping[str, Any], *, as_json: bool) -> bool:
    """Check everything and print what was found; False if anything is wrong.

    Args:
        flags: settings from the command line, None where not given.
        as_json: print one JSON array at the end in place of lines.
    """
    findings = []
    for finding in _findings(flags):
        findings.append(finding)
        if not as_json:
            typer.echo(str(finding))
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    return all(finding.ok for finding in findings)


def _findings(flags: Mapping[str, Any]) -> Iterator[Finding]:
    yield _finding("python", checks.python)
    yield _finding("packages", checks.packages)
    try:
        settings = load_settings(**flags)
    except ConfigError as error:
        # Nothing else can be looked at without knowing where.
        yield Finding("settings", False, str(error))
        return
    yield _finding("settings", lambda: _settings(settings))
    for name, check in CHECKS.items():
        yield _finding(name, lambda check=check: check(settings))


def _settings(settings: Settings) -> str:
    settings.check()
    unknown = unknown_variables()
    if unknown:
        raise Wrong(
            f"{', '.join(name for name, _ in unknown)} in the environment has no effect",
            " ".join(f"{name}: {advice}" for name, advice in unknown),
        )
    return "valid"


def _finding(name: str, look: Any) -> Finding:
    try:
        return Finding(name, True, look())
    except Wrong as wrong:
        return Finding(name, False, wrong.text, wrong.fix)
    except ConfigError as error:
        return Finding(name, False, str(error))
    except Exception as error:
        # One check that breaks must not hide the others.
        return Finding(name, False, f"could not be looked at ({type(error).__name__})", f"{error}.")
