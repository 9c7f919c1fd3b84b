"""Foreign origins and foreign hosts are refused on every door."""

from __future__ import annotations

from typing import Any

import pytest
import websockets
from starlette.requests import HTTPConnection
from starlette.routing import Route, WebSocketRoute
from websockets.typing import Origin

from harness import Served, Talk
from ragsocket.errors import ConfigError, RequestError
from ragsocket.settings import Settings
from ragsocket.transports.guard import Guard


def connection(**headers: str) -> HTTPConnection:
    """A request with these headers."""
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    return HTTPConnection({"type": "http", "headers": raw})


def allowed(settings: Settings, **headers: str) -> bool:
    """Whether a request is let in."""
    try:
        Guard.of(settings).check(connection(**headers))
    except RequestError as error:
        assert error.status == 403
        return False
    return True


@pytest.mark.parametrize(
    ("host", "origin", "let_in"),
    [
        ("127.0.0.1:8000", None, True),
        ("localhost:8000", None, True),
        ("[::1]:8000", None, True),
        ("127.0.0.1:8000", "http://127.0.0.1:8000", True),
        ("127.0.0.1:8000", "http://localhost:3000", True),
        ("127.0.0.1:8000", "https://app.example", True),
        ("127.0.0.1:8000", "https://APP.example", True),
        ("127.0.0.1:8000", "https://evil.example", False),
        ("127.0.0.1:8000", "https://app.example.evil.example", False),
        ("127.0.0.1:8000", "http://localhost.evil.example", False),
        ("127.0.0.1:8000", "null", False),
        ("127.0.0.1:8000", "file://", False),
        ("127.0.0.1:8000", "", False),
        ("evil.example", None, False),
        ("evil.example", "http://evil.example", False),
        ("192.168.1.5:8000", None, False),
        ("app.example", "https://app.example", True),
        ("", None, False),
        ("[", None, False),
    ],
)
def test_on_loopback(host: str, origin: str | None, let_in: bool) -> None:
    """Bound to this machine: its own names, loopback pages, and what the operator lists."""
    settings = Settings(allowed_origins=("https://app.example",))
    headers = {"host": host} | ({} if origin is None else {"origin": origin})
    assert allowed(settings, **headers) is let_in


@pytest.mark.parametrize(
    ("host", "origin", "let_in"),
    [
        ("192.0.2.7:8000", None, True),
        ("192.0.2.7:8000", "http://192.0.2.7:8000", True),
        ("192.0.2.7:8000", "http://localhost:3000", False),
        ("docs.example:8000", "http://docs.example:8000", True),
        ("evil.example", None, False),
    ],
)
def test_on_other_addresses(host: str, origin: str | None, let_in: bool) -> None:
    """Bound to the network: addresses and listed names; loopback pages mean nothing there."""
    settings = Settings(host="0.0.0.0", allow_anonymous=True, allowed_hosts=("docs.example",))
    headers = {"host": host} | ({} if origin is None else {"origin": origin})
    assert allowed(settings, **headers) is let_in


def test_an_open_bind_without_keys_is_refused() -> None:
    """Listening to the network lets nobody in by accident: the start is refused with the fix."""
    with pytest.raises(ConfigError, match="RAGSOCKET_ALLOW_ANONYMOUS=1"):
        Settings(host="0.0.0.0").check()
    Settings(host="0.0.0.0", allow_anonymous=True).check()
    Settings(host="::1").check()


def http_doors(routes: Any) -> list[tuple[str, str]]:
    """Return method and path of every HTTP route of an application, included routers too."""
    doors = []
    for route in routes.routes:
        inner = getattr(route, "original_router", None)
        if inner:
            doors += http_doors(inner)
        elif isinstance(route, Route):
            doors += [(method, route.path) for method in route.methods or ()]
    return doors


async def test_every_http_door_refuses_strangers(served: Served) -> None:
    """Each HTTP route answers 403 to a foreign Origin and to a foreign Host."""
    doors = http_doors(served.app)
    assert ("GET", "/stream-question/events") in doors
    assert ("POST", "/v1/chat/completions") in doors
    async with served.http() as http:
        for method, path in doors:
            for name, value in (("Origin", "https://evil.example"), ("Host", "evil.example")):
                url = f"{path}?query_text=a"
                answer = await http.request(method, url, headers={name: value})
                assert answer.status_code == 403, (method, path, name)
                if method == "HEAD":
                    continue
                assert answer.json()["error"]["code"].endswith("_not_allowed")


async def test_every_socket_refuses_strangers(served: Served) -> None:
    """Each socket closes with 4403, which a browser can read, for a foreign Origin or Host."""
    paths = [route.path for route in served.app.routes if isinstance(route, WebSocketRoute)]
    assert set(paths) == {"/ws", "/v1/responses"}
    host, port = served.address.split(":")
    strangers: list[tuple[str, str, dict[str, Any]]] = [
        (served.address, "origin_not_allowed", {"origin": Origin("https://evil.example")}),
        (f"evil.example:{port}", "host_not_allowed", {"host": host, "port": int(port)}),
    ]
    for path in paths:
        for address, reason, options in strangers:
            async with websockets.connect(f"ws://{address}{path}", **options) as socket:
                assert await Talk(socket).close_code() == 4403
                assert socket.close_reason == reason


async def test_pages_of_this_machine_may_read_the_answers(served: Served) -> None:
    """On loopback a browser lets them, and nobody else, have what the HTTP doors say."""
    wanted = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type,authorization",
    }
    async with served.http() as http:
        for origin in ("http://localhost:3000", "https://127.0.0.1", "http://[::1]:8080"):
            asked = await http.options("/v1/conversations", headers={"Origin": origin, **wanted})
            assert asked.status_code == 200
            made = await http.post("/v1/conversations", headers={"Origin": origin}, json={})
            for answer in (asked, made):
                assert answer.headers["access-control-allow-origin"] == origin
        for origin in ("https://evil.example", "http://localhost.evil.example", "null"):
            asked = await http.options("/v1/conversations", headers={"Origin": origin, **wanted})
            assert "access-control-allow-origin" not in asked.headers
