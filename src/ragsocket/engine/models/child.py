"""The child process of `LocalModel`: loads a model file, serves it, and ends with its parent.

One JSON object comes in on stdin, one goes out on stdout: the address, or what went wrong. After
that stdin says when to end, by ending itself, as it does even when the parent is killed.
"""

from __future__ import annotations

import json
import os
from typing import Any

MIB_OF_CACHED_PROMPTS = 256
"""Prompts of conversations that have no slot at the moment are kept in memory up to this."""

HTTP_THREADS_BESIDE_ANSWERS = 6

SPINS = "2000"
"""How long threads of the native code wait for each other without giving up their processor. By
default it is for ever: as fast on an idle machine, but half as fast as this on a busy one."""

_SERVERS: list[object] = []  # Kept alive until the process ends.


def main() -> None:
    """Serve until stdin ends; what the native code prints goes to stderr."""
    out = os.dup(1)
    os.dup2(2, 1)
    with open(0, "rb", buffering=0, closefd=False) as stdin:
        wanted = json.loads(stdin.readline())
    try:
        said = {"url": _serve(wanted)}
    except (ImportError, RuntimeError, ValueError, MemoryError) as error:
        said = {"error": f"{type(error).__name__}: {error}"}
    os.write(out, json.dumps(said).encode() + b"\n")
    if "url" in said:
        while os.read(0, 4096):
            pass
    # At once: threads of the native code still run, and would be torn down one by one.
    os._exit(0)


def _serve(wanted: dict[str, Any]) -> str:
    """Load the model and return the address that it is served at."""
    # Read when the native code is loaded. Not by os.environ, whose reads are the settings' alone.
    os.putenv("GOMP_SPINCOUNT", SPINS)
    import xllamacpp

    slots = wanted["slots"]
    params = xllamacpp.CommonParams()
    params.model.path = wanted["model"]
    params.model_alias = {wanted["name"]}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [wanted["key"]]
    params.n_parallel = slots
    params.n_ctx = slots * wanted["slot_tokens"]
    params.n_batch = params.n_ubatch = wanted["batch_tokens"]
    params.cpuparams.n_threads = wanted["threads"]
    params.cpuparams_batch.n_threads = wanted["threads"]
    params.n_threads_http = 2 * slots + HTTP_THREADS_BESIDE_ANSWERS
    params.cache_prompt = wanted["caches"]
    params.cache_ram_mib = MIB_OF_CACHED_PROMPTS if wanted["caches"] else 0
    params.n_gpu_layers = 0
    params.ui = False
    params.endpoint_slots = True
    params.offline = True
    params.verbosity = 0
    server = xllamacpp.Server(params)
    _SERVERS.append(server)
    return str(server.listening_address)


if __name__ == "__main__":
    main()
