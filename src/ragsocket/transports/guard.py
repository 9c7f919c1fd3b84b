"""Who may come in: the origin and the host name of every request, checked inside every endpoint.

A page of another site can open a WebSocket to this machine, and a DNS name of an attacker can
be made to point to it; browsers stop neither. So a request is let in only if its `Host` is a
name of this server, and its `Origin`, where there is one, is this server or a page that the
operator allows.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from ragsocket.errors import RequestError
from ragsocket.protocol.errors import ErrorCode
from ragsocket.settings import Settings, is_loopback

LOOPBACK_ORIGIN = r"https?://(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?"
"""Pages of this machine, which a server that listens on it alone lets read its answers."""


@dataclass(frozen=True, slots=True)
class Guard:
    """The rules, made of the settings.

    Attributes:
        loopback: True while the server listens on this machine alone.
        origins: origins of other pages that may connect, lower case.
        hosts: host names that are this server's, lower case.
    """

    loopback: bool
    origins: frozenset[str]
    hosts: frozenset[str]

    @classmethod
    def of(cls, settings: Settings) -> Guard:
        """Make the rules of the settings."""
        origins = frozenset(settings.allowed_origins)
        named = {urlsplit(origin).hostname or "" for origin in origins}
        hosts = named | {host.lower() for host in settings.allowed_hosts} | {settings.host.lower()}
        return cls(is_loopback(settings.host), origins, frozenset(hosts))

    def check(self, connection: HTTPConnection) -> None:
        """Let a request in.

        Raises:
            RequestError: its host or origin is not allowed; status 403.
        """
        host = connection.headers.get("host", "")
        if not self._host_allowed(host):
            raise RequestError(
                ErrorCode.HOST_NOT_ALLOWED,
                "this server does not go by that host name; the operator can add it to "
                "RAGSOCKET_ALLOWED_HOSTS.",
                status=403,
            )
        origin = connection.headers.get("origin")
        if origin is not None and not self._origin_allowed(origin, host):
            raise RequestError(
                ErrorCode.ORIGIN_NOT_ALLOWED,
                "pages of that origin may not connect; the operator can add it to "
                "RAGSOCKET_ALLOWED_ORIGINS.",
                status=403,
            )

    def _host_allowed(self, host: str) -> bool:
        name = _host_name(host)
        if name is None:
            return False
        if name in self.hosts:
            return True
        if self.loopback:
            return is_loopback(name)
        # A name can be pointed anywhere by its owner; an address is what was dialled.
        return _is_address(name) or is_loopback(name)

    def _origin_allowed(self, origin: str, host: str) -> bool:
        origin = origin.lower()
        if origin in self.origins:
            return True
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            return False
        if parts.netloc == host.lower():
            return True
        return self.loopback and is_loopback(parts.hostname)


def _host_name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
