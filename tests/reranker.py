"""A reranker that runs as a real HTTP server, and does what a test tells it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class RerankServer:
    """What was asked of the server, and how it shall answer.

    Attributes:
        url: base URL.
        bodies: what was asked, oldest first.
        keys: the `Authorization` of each.
        favourite: passages that hold this word are the most relevant.
        status: what it answers with.
        answer: its body in place of an order.
        gate: while clear, it does not answer.
        asked: set when a request has come.
    """

    def __init__(self) -> None:
        self.url = ""
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.favourite = "soup"
        self.status = 200
        self.answer: Any = None
        self.gate = threading.Event()
        self.gate.set()
        self.asked = threading.Event()

    def results(self, documents: list[str]) -> dict[str, Any]:
        """Return the order of some passages, as Jina's server gives it."""
        scores = [(self.favourite in text) - place / 100 for place, text in enumerate(documents)]
        order = sorted(range(len(scores)), key=lambda place: -scores[place])
        return {"results": [{"index": n, "relevance_score": scores[n]} for n in order]}


@contextmanager
def rerank_server() -> Iterator[RerankServer]:
    """Run a reranker on a free loopback port."""
    state = RerankServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path == "/v1/rerank"
            state.bodies.append(body)
            state.keys.append(self.headers["Authorization"])
            state.asked.set()
            state.gate.wait(60)
            said = state.results(body["documents"]) if state.answer is None else state.answer
            answer = said if isinstance(said, bytes) else json.dumps(said).encode()
            try:
                self.send_response(state.status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)
            except OSError:
                pass  # the client has left

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield state
    finally:
        state.gate.set()
        server.shutdown()
        server.server_close()
        thread.join()
