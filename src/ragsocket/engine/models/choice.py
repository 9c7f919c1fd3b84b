"""Which model runs on this machine, if one does: decided from settings and files, in one place."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ragsocket.engine.models.catalog import Model, catalog
from ragsocket.errors import ConfigError
from ragsocket.settings import Settings

log = logging.getLogger(__name__)

CONTEXT_TOKENS = 640
"""What a prompt should hold for a file that is not in the catalog."""

RUNTIME = "xllamacpp"


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A model file that can be run.

    Attributes:
        name: what clients call the model.
        path: the file.
        sha256: what it must be, or None for a file of the operator's own.
        context_tokens: what a prompt for it should hold.
        min_assent: as in the catalog; None for a model that need not be asked.
    """

    name: str
    path: Path
    sha256: str | None
    context_tokens: int
    min_assent: float | None = None


def local_model(settings: Settings) -> LocalFile | None:
    """Return the model to run here; None if a server has it, or extracts answer.

    Looks at files, but reads none. Without a name it is the catalog's default, if that is here
    and can be run.

    Raises:
        ConfigError: the model that is named cannot be run; the message names the fix.
    """
    wanted = settings.llm_model
    if settings.llm_url or wanted == "none":
        return None
    if wanted is None:
        return _default(settings)
    chosen = (
        _own_file(wanted, settings)
        if wanted.lower().endswith(".gguf")
        else _known(wanted, settings)
    )
    if find_spec(RUNTIME) is None:
        raise ConfigError(
            f"{RUNTIME} is missing, which runs models here: install ragsocket[local], name a "
            "server with --llm-url, or use --llm-model none."
        )
    return chosen


def absent_model(settings: Settings) -> Model | None:
    """Return the model of the catalog that would run here if its file were here, or None."""
    if settings.llm_url or find_spec(RUNTIME) is None:
        return None
    model = catalog().find(settings.llm_model or catalog().default)
    return None if model is None or model.is_present(settings.models_path) else model


def _default(settings: Settings) -> LocalFile | None:
    known = catalog()
    model = known.find(known.default)
    assert model is not None
    path = model.in_directory(settings.models_path)
    if not path.exists():
        return None
    if not model.is_present(settings.models_path):
        log.warning("%s is damaged, so extracts answer; run: ragsocket models pull", path)
        return None
    return _of(model, settings) if find_spec(RUNTIME) is not None else None


def _own_file(wanted: str, settings: Settings) -> LocalFile:
    path = Path(wanted).expanduser()
    if not path.is_file():
        what = "is no file" if path.exists() else "does not exist"
        raise ConfigError(
            f"the model file {path} {what}: correct --llm-model (RAGSOCKET_LLM_MODEL)."
        )
    return LocalFile(path.stem, path, None, _context(settings, CONTEXT_TOKENS))


def _known(wanted: str, settings: Settings) -> LocalFile:
    model = catalog().find(wanted)
    if model is None:
        raise ConfigError(
            f"no model {wanted!r} can be run here; {catalog().advice(wanted)} Name one of the "
            "catalog, a .gguf file, or the server that has it with --llm-url (RAGSOCKET_LLM_URL)."
        )
    if not model.is_present(settings.models_path):
        path = model.in_directory(settings.models_path)
        what = "is damaged" if path.exists() else "is not here"
        raise ConfigError(
            f"the model {model.name} {what} ({path}); run: ragsocket models pull {model.name}."
        )
    return _of(model, settings)


def _of(model: Model, settings: Settings) -> LocalFile:
    path = model.in_directory(settings.models_path)
    return LocalFile(
        model.name,
        path,
        model.sha256,
        _context(settings, model.context_tokens),
        model.min_assent,
    )


def _context(settings: Settings, usual: int) -> int:
    """Return the operator's own prompt budget, whose default is meant for fast models, or ours."""
    return settings.context_tokens if "context_tokens" in settings.model_fields_set else usual
