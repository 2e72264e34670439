"""The bearer token that requests must carry (RFC 6750), and who may do without."""

from __future__ import annotations

import hmac
import ipaddress
import os
import re
from pathlib import Path

from edgefuse.errors import InputError
from edgefuse.files import reason

VARIABLE = "EDGEFUSE_TOKEN"
_MIN_LENGTH, _MAX_LENGTH = 16, 512
_SHAPE = re.compile(r"[A-Za-z0-9\-._~+/]+=*")
_EXPECTED = f"{_MIN_LENGTH} to {_MAX_LENGTH} letters, digits and -._~+/ on one line"


class Token:
    """A token, compared in a time that tells nothing of it.

    Args:
        text: the token.
        source: where it comes from, for messages.

    Raises:
        InputError: it is too short to be a secret, or cannot stand in a header.
    """

    def __init__(self, text: str, source: str) -> None:
        if not _MIN_LENGTH <= len(text) <= _MAX_LENGTH or not _SHAPE.fullmatch(text):
            fix = "make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
            got = f"{len(text)} characters"
            raise InputError(f"the token of {source} cannot be used", got=got, expected=_EXPECTED, fix=fix)
        self._secret = text.encode()

    def admits(self, header: str | None) -> bool:
        """Tell whether the value of a header `Authorization` carries the token."""
        scheme, _, given = (header or "").partition(" ")
        same = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), self._secret)
        return scheme.lower() == "bearer" and same

    def __repr__(self) -> str:
        return "Token(...)"


def token_of(path: Path | None) -> Token | None:
    """Return the token in a file, or else in the environment, or None if there is none.

    Args:
        path: of the file, whose one line it is.

    Raises:
        InputError: the file cannot be read, or the token cannot be used.
    """
    if path is None:
        text = os.environ.get(VARIABLE)
        return None if text is None else Token(text, f"the variable {VARIABLE}")
    try:
        with path.open(encoding="ascii") as file:
            text = file.read(_MAX_LENGTH + 3)
    except (OSError, ValueError) as error:
        raise InputError(f"the file '{path}' with the token cannot be read", got=reason(error)) from error
    return Token(text.removesuffix("\n").removesuffix("\r"), f"the file '{path}'")


def is_loopback(host: str) -> bool:
    """Tell whether nobody but this machine can reach a host that is listened at."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # another name may lead anywhere
        return False
