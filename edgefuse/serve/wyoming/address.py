"""Where the service listens."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from edgefuse.errors import InputError, cited
from edgefuse.serve.http.access import is_loopback

_EXPECTED = "tcp://HOST:PORT or unix:///PATH"


@dataclass(frozen=True)
class Address:
    """A TCP port, or the path of a unix socket.

    Attributes:
        host: a name or a number; empty for a unix socket.
        port: 0 takes one that is free.
        path: absolute; empty for a TCP port.
    """

    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def local(self) -> bool:
        """Whether nobody but this machine can reach it."""
        return bool(self.path) or is_loopback(self.host)

    def __str__(self) -> str:
        if self.path:
            return f"unix://{self.path}"
        return f"tcp://[{self.host}]:{self.port}" if ":" in self.host else f"tcp://{self.host}:{self.port}"


def address_of(uri: str, *, exposed: bool) -> Address:
    """Return the address to listen at that a URI tells.

    Args:
        uri: `tcp://HOST:PORT` or `unix:///PATH`.
        exposed: whether others than this machine may reach it.

    Raises:
        InputError: it is no such URI, or others may reach it and are not to.
    """
    address = _parsed(uri, "address to listen at")
    if not exposed and not address.local:
        raise InputError(
            "the Wyoming protocol knows no password and no encryption, and others could reach this address",
            got=uri,
            expected="loopback, such as tcp://127.0.0.1:10400, or a unix socket",
            fix="say that you want it exposed, on a network that you trust",
        )
    return address


def recogniser_at(uri: str) -> Address:
    """Return the address of a speech recogniser.

    Raises:
        InputError: the URI is of no service.
    """
    return _parsed(uri, "address of a speech recogniser")


def _parsed(uri: str, what: str) -> Address:
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname or "", parts.port
        host.encode("idna")  # or connecting would raise what is no error of a connection
    except ValueError as error:
        raise InputError(f"this is no {what}", got=f"{uri} ({cited(error)})", expected=_EXPECTED) from None
    if parts.scheme == "unix" and parts.path.startswith("/") and not parts.netloc:
        return Address(path=parts.path)
    if parts.scheme != "tcp" or not host or port is None or parts.path not in ("", "/"):
        raise InputError(f"this is no {what}", got=uri, expected=_EXPECTED)
    return Address(host, port)
