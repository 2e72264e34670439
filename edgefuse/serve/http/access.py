"""Who may ask: whoever has the token; and, without one, only this machine, by its own names."""

from __future__ import annotations

import hmac
import ipaddress
import os
from pathlib import Path

from edgefuse.errors import InputError

VARIABLE = "EDGEFUSE_TOKEN"
_LEAST, _MOST = 16, 4096


def read_token(path: Path | None) -> str | None:
    """Return the token from a file, or else from the environment's `EDGEFUSE_TOKEN`; None if there is neither.

    Raises:
        InputError: the file cannot be read, or what is there is no token.
    """
    if path is None:
        token, where = os.environ.get(VARIABLE), f"the variable {VARIABLE}"
        if token is None:
            return None
    else:
        where = f"the file '{path}'"
        try:
            with path.open(encoding="utf-8") as file:
                token = file.read(_MOST + 1)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError("the token cannot be read", got=where, expected="a file with one line of text") from error
    token = token.strip()
    if not (_LEAST <= len(token) < _MOST and token.isascii() and token.isprintable() and " " not in token):
        raise InputError(
            f"{where} holds no token",
            got=f"{len(token)} characters",
            expected=f"at least {_LEAST} letters, digits and signs without spaces",
            fix="make one: python -c 'import secrets; print(secrets.token_urlsafe(32))'",
        )
    return token


def is_authorised(token: str, header: str | None) -> bool:
    """Tell whether the field `Authorization` of a request has the token, in a time that tells nothing of it."""
    scheme, _, given = (header or "").partition(" ")
    same = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), token.encode())
    return scheme.lower() == "bearer" and same


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches a host of this name."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def is_of_this_host(field: str) -> bool:
    """Tell whether the field `Host` of a request names this machine itself.

    A page from elsewhere whose name is made to lead here (DNS rebinding) has its own name there.
    """
    host = field.partition("]")[0] + "]" if field.startswith("[") else field.partition(":")[0]
    return is_loopback(host)


def address_for(text: str, token: str | None) -> tuple[str, int]:
    """Return host and port of an address at which a service listens that wants a token, or None.

    Raises:
        InputError: it is no address; or without a token, others than this machine could reach it.
    """
    host, port = parse_address(text)
    if token is None and not is_loopback(host):
        raise InputError(
            "without a token, only this machine may be served",
            got=text,
            expected="127.0.0.1, [::1] or localhost",
            fix=f"give --token-file, or set {VARIABLE}",
        )
    return host, port


def url_of(host: str, port: object, *, secure: bool) -> str:
    """Return the URL of a service.

    Args:
        host: at which it listens; a number of IPv6 without brackets.
        port: at which it listens.
        secure: whether it speaks TLS.
    """
    return f"{'https' if secure else 'http'}://{written(host, port)}"


def written(host: str, port: object) -> str:
    """Return host and port as `parse_address` reads them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT` or `[IPV6]:PORT`.

    Raises:
        InputError: it is neither.
    """
    host, colon, port = text.rpartition(":")
    good = colon and host and port.isascii() and port.isdigit() and int(port) < 1 << 16
    try:
        host.encode("idna")
    except UnicodeError:  # as a part that is empty, or too long
        good = False
    if not good or (":" in host) != host.startswith("["):
        raise InputError("this is no address to listen at", got=text, expected="HOST:PORT, or [IPV6]:PORT")
    return host.strip("[]"), int(port)
