"""Who may come in: the address that is listened at, the names it goes by, and the key of one run."""

from __future__ import annotations

import hmac
import ipaddress
import socket
from dataclasses import dataclass, field

from mosaicmem.errors import ConfigError


@dataclass
class Door:
    """Who may come in.

    Attributes:
        token: The secret of this run.
        port: Where the server listens.
        names: Host names by which it may be called, without the port.
        any_address: Whether any numeric address will do, as for a server that listens on all of them.
    """

    token: str
    port: int
    names: frozenset[str] = field(default_factory=lambda: frozenset({"127.0.0.1", "localhost", "::1"}))
    any_address: bool = False

    @staticmethod
    def at(host: str, port: int, token: str) -> Door:
        """The door of a server that listens at `host`."""
        names = {"127.0.0.1", "localhost", "::1", host.strip("[]").lower()}
        everywhere = is_everywhere(host)
        if everywhere:
            names.add(socket.gethostname().lower())
        return Door(token, port, frozenset(names), everywhere)

    @property
    def cookie(self) -> str:
        """Name of the cookie: browsers do not tell ports apart."""
        return f"mosaicmem_{self.port}"

    def knows_host(self, host: str | None) -> bool:
        """Whether a `Host` header names this server; a name of somebody else's that points here does not."""
        if host is None:
            return False
        bare = host.endswith("]") or ":" not in host
        name, port = (host, "80") if bare else (host.rpartition(":")[0], host.rpartition(":")[2])
        name = name.strip("[]").lower()
        if port != str(self.port):
            return False
        if name in self.names:
            return True
        if not self.any_address:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def knows_origin(self, origin: str | None, host: str | None) -> bool:
        """Whether a request comes from the page that this server gave out."""
        return origin is not None and origin == f"http://{host}"

    def opens(self, token: str | None) -> bool:
        """Whether a token is the right one, in constant time."""
        return token is not None and hmac.compare_digest(token.encode(), self.token.encode())


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens at `host`."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_everywhere(host: str) -> bool:
    """Whether `host` stands for all addresses of the machine."""
    return host.strip("[]") in ("0.0.0.0", "::", "")  # noqa: S104 - asked, not bound


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes a free one.

    Raises:
        ConfigError: if the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host.strip("[]"), port))
        found.listen(64)
    except OSError as error:
        found.close()
        raise ConfigError(f"cannot listen at {host}:{port} ({error.strerror}); choose another --port") from error
    return found
