"""Reads the settings, and says in one line which of them is wrong, where it was set, and how."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import EnvSettingsSource, SettingsError

from ragsocket.errors import ConfigError
from ragsocket.settings import Settings

PREFIX = "RAGSOCKET_"
TOML = "ragsocket.toml"


def load_settings(**flags: Any) -> Settings:
    """Return the settings; flags that are not None go before environment and file.

    Raises:
        ConfigError: a value cannot be used, or a name is unknown; the message names the fix.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        raise ConfigError(" ".join(_sentence(e, given) for e in error.errors())) from None
    except SettingsError as error:
        raise ConfigError(f"the settings cannot be read: {error}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{TOML} is not valid TOML: {error}.") from None
    except OSError as error:
        raise ConfigError(
            f"{TOML} cannot be read ({error.strerror}): make it readable, or remove it."
        ) from None


def check_folder(folder: Path) -> None:
    """Refuse what is no folder of documents.

    Raises:
        ConfigError: it is missing or something else.
    """
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise ConfigError(
            f"the folder of documents {folder} {what}: make it, or name another with --data "
            "(RAGSOCKET_DATA)."
        )


def unknown_variables() -> list[tuple[str, str]]:
    """Return each `RAGSOCKET_…` of the environment that is no setting, with what to do about it."""
    names = [name for name in _environment() if name.startswith(PREFIX.lower())]
    return [
        (name.upper(), _advice(name.removeprefix(PREFIX.lower()), PREFIX))
        for name in sorted(names)
        if name.removeprefix(PREFIX.lower()) not in Settings.model_fields
    ]


def _environment() -> Mapping[str, str | None]:
    """The environment as the settings see it, names in lower case."""
    return EnvSettingsSource(Settings).env_vars


def _sentence(finding: ErrorDetails, flags: Mapping[str, object]) -> str:
    name = str(finding["loc"][0])
    if finding["type"] == "extra_forbidden":
        return f"{TOML} has no setting {name!r}: {_advice(name, '')}"
    field = Settings.model_fields[name]
    where = f"{name} in {TOML}"
    if name in flags:
        where = f"--{name.replace('_', '-')}"
    elif PREFIX.lower() + name in _environment():
        where = PREFIX + name.upper()
    if name == "workers":
        return (
            f"{where} is {finding['input']}, and one worker process is all there is today: "
            "use 1 or leave it out."
        )
    value = "" if "key" in name else f" is {str(finding['input'])[:80]!r}"
    wrong = finding["msg"].removeprefix("Value error, ").replace("Input should", "it should")
    return f"{where}{value}: {wrong}. ({field.description})"


def _advice(name: str, prefix: str) -> str:
    close = get_close_matches(name.lower(), Settings.model_fields, n=1)
    if not close:
        return "remove it."
    return f"did you mean {prefix}{close[0].upper() if prefix else close[0]}?"
