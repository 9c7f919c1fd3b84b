"""The models that are known by their content, from `catalog.json` beside this file.

Where a file came from does not matter, because it is used only if it is, bit for bit, the one
whose SHA-256 stands here.
"""

from __future__ import annotations

import hashlib
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
PlainName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Carrier(BaseModel):
    """A wheel of a package registry that holds a model's file or a part of it.

    Attributes:
        package: name of the package.
        version: the one version looked at.
        wheel: file name of the wheel.
        wheel_size: its size in bytes.
        wheel_sha256: its hash.
        member: path of the part inside.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    package: PlainName
    version: PlainName
    wheel: PlainName
    wheel_size: int
    wheel_sha256: Sha256
    member: str


class Model(BaseModel):
    """A model file.

    Attributes:
        name: what an operator calls it.
        use: what it is for, a few words.
        file: name of the file in the models' directory.
        size: bytes.
        sha256: hash of the official file.
        licence: SPDX name of the licence of the weights.
        page: where the model's makers describe it.
        hub: official address of the file.
        context_tokens: what a prompt for it should hold, in tokens, so that it is read soon.
        min_assent: what its own Yes over No, plus what the best retrieval score weighs, must come
            to for a text to count as holding the answer; None for a model that cannot tell.
        carriers: wheels whose members, joined in this order, are the file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: PlainName
    use: str
    file: PlainName
    size: int
    sha256: Sha256
    licence: str
    page: str
    hub: str
    context_tokens: int
    min_assent: float | None = None
    carriers: tuple[Carrier, ...]

    def in_directory(self, directory: Path) -> Path:
        """Return where the file stands in the models' directory."""
        return directory / self.file

    def is_present(self, directory: Path) -> bool:
        """True if a file of that name and size is there; what is in it was not looked at."""
        path = self.in_directory(directory)
        try:
            return path.is_file() and path.stat().st_size == self.size
        except OSError:
            return False


class Catalog(BaseModel):
    """All models that are known.

    Attributes:
        default: name of the model that is used if none is named.
        models: the entries.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    default: PlainName
    models: tuple[Model, ...]

    def find(self, name: str) -> Model | None:
        """Return the model of that name, or None."""
        return next((model for model in self.models if model.name == name.lower()), None)

    def names(self) -> list[str]:
        """Return every name, the default first."""
        return [model.name for model in self.models]

    def advice(self, name: str) -> str:
        """Return what might have been meant by an unknown name, as the end of a sentence."""
        close = get_close_matches(name.lower(), self.names(), n=3, cutoff=0.4)
        if close:
            return f"did you mean {' or '.join(close)}?"
        return f"there are {', '.join(self.names())}."


@cache
def catalog() -> Catalog:
    """Return the catalog."""
    text = files("ragsocket.engine.models").joinpath("catalog.json").read_text("utf-8")
    return Catalog.model_validate_json(text)


def sha256_of(path: Path) -> str:
    """Return a file's hash. Blocks for about a second per 500 MB.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
