"""Opens the port before anything slow is loaded, and says in words why it cannot be opened."""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from ragsocket.errors import ConfigError

BACKLOG = 2048

EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Addresses that mean every one of this machine, and one that can be dialled instead."""


def dialled(host: str, port: int) -> str:
    """Return the `host:port` by which a listening address is reached from this machine."""
    dial = EVERYWHERE.get(host, host)
    return f"[{dial}]:{port}" if ":" in dial else f"{dial}:{port}"


@contextmanager
def bound(host: str, port: int) -> Iterator[list[socket.socket]]:
    """Listen on every address of a host; who connects early waits for the server.

    Args:
        host: address or name.
        port: 0 takes a free one.

    Raises:
        ConfigError: it is in use, not allowed, or not this machine's; the message names the fix.
    """
    passive = socket.AI_PASSIVE
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=passive)
    except (socket.gaierror, UnicodeError) as error:
        raise ConfigError(
            f"cannot listen on {host!r}: there is no such address. Use an address of this machine, "
            "for example --host 127.0.0.1."
        ) from error
    with ExitStack() as opened:
        sockets: list[socket.socket] = []
        refusal: OSError | None = None
        for family, _, _, _, address in dict.fromkeys(found):
            # A free port is taken once: the same on every address, as the one that is printed.
            chosen = sockets[0].getsockname()[1] if sockets else port
            try:
                listener = _listen(family, (address[0], chosen, *address[2:]))
                sockets.append(opened.enter_context(listener))
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise _explained(host, port, error) from error
                # localhost may name an IPv6 address where there is no IPv6.
                refusal = error
        if not sockets:
            assert refusal is not None
            raise _explained(host, port, refusal) from refusal
        yield sockets


def _listen(family: int, address: tuple[object, ...]) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform != "win32":
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.bind(address)
        # At once: two sockets may be bound to one port as long as neither listens.
        opened.listen(BACKLOG)
    except BaseException:
        opened.close()
        raise
    return opened


def _explained(host: str, port: int, error: OSError) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        return ConfigError(
            f"port {port} on {host} is in use: stop what listens there, or choose another with "
            "--port or RAGSOCKET_PORT (0 takes a free one)."
        )
    if error.errno == errno.EACCES:
        return ConfigError(
            f"this user may not listen on port {port}: choose one from 1024 up with --port."
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return ConfigError(
            f"{host} is not an address of this machine: use one that is, for example "
            "--host 127.0.0.1, or 0.0.0.0 for all of them."
        )
    return ConfigError(
        f"cannot listen on {host} port {port} ({error.strerror}): try --host 127.0.0.1."
    )
