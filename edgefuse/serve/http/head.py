"""The head of a request, read strictly: what two readers could read in two ways is refused (RFC 9112)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from edgefuse.errors import shown
from edgefuse.serve.http.limits import Limits
from edgefuse.serve.http.refusal import Refusal

END = b"\r\n\r\n"
_REQUEST = re.compile(rb"([A-Z]{1,20}) (/[!-~]*) HTTP/1\.[01]")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t -~\x80-\xff]*?)[ \t]*")
_BARE = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|\0")
_ONCE = frozenset({b"authorization", b"content-length", b"content-type", b"expect", b"host", b"transfer-encoding"})
_MAX_DIGITS = 15


@dataclass(frozen=True)
class Head:
    """What has to be known before the body comes.

    Attributes:
        method: `GET`, `POST`, ...
        length: of the body, in bytes.
        expects: the peer waits for `100 Continue` before it sends the body.
    """

    method: str
    length: int
    expects: bool


def check_line_ends(data: bytes | bytearray, begin: int) -> None:
    """Refuse what is no line of a head, before its end has come.

    Args:
        data: as far as it has come.
        begin: before which it was checked already.

    Raises:
        Refusal: there is a bare line feed, a bare carriage return or a null character.
    """
    if _BARE.search(data, max(0, begin - 1)):
        raise Refusal(400, "the head of the request is damaged", got="a line that does not end in CR LF")


def read(data: bytes, limits: Limits) -> Head:
    """Return what a head says.

    Args:
        data: from the request line to the empty line, which is left out.
        limits: of the service.

    Raises:
        Refusal: it is damaged or ambiguous, or there are too many headers, or the body is too large.
    """
    line, *lines = data.split(b"\r\n")
    found = _REQUEST.fullmatch(line)
    if found is None:
        raise Refusal(400, "the request line is damaged", got=_quoted(line), expected="METHOD /path HTTP/1.1")
    if len(lines) > limits.headers:
        raise Refusal(431, "there are too many headers", got=len(lines), expected=f"at most {limits.headers}")
    fields: dict[bytes, bytes] = {}
    counts: Counter[bytes] = Counter()
    for one in lines:
        field = _FIELD.fullmatch(one)
        if field is None:  # also one that begins with a space: it once went on with the line before
            raise Refusal(400, "a header is damaged", got=_name(one), expected="Name: value on one line")
        fields[field[1].lower()] = field[2]
        counts[field[1].lower()] += 1
    twice = next((name for name in _ONCE if counts[name] > 1), None)
    if twice is not None:
        raise Refusal(400, f"the header '{twice.decode()}' came {counts[twice]} times", expected="once")
    if not fields.get(b"host") and line.endswith(b"1.1"):
        raise Refusal(400, "the header 'host' is missing")
    length = _length(fields, limits)
    return Head(found[1].decode(), length, expects=fields.get(b"expect", b"").lower() == b"100-continue")


def _length(fields: Mapping[bytes, bytes], limits: Limits) -> int:
    given = fields.get(b"content-length")
    if b"transfer-encoding" in fields:
        if given is not None:
            raise Refusal(400, "the request says its length in two ways", got="Content-Length and Transfer-Encoding")
        raise Refusal(411, "the request does not say its length", fix="send Content-Length, no Transfer-Encoding")
    if given is None:
        return 0
    if not given.isdigit():
        raise Refusal(400, "Content-Length is no number", got=_quoted(given), expected="digits")
    if len(given) > _MAX_DIGITS or int(given) > limits.body_bytes:
        got = f"{shown(given.decode(), 20)} bytes"
        raise Refusal(413, "the body is too large", got=got, expected=f"at most {limits.body_bytes} bytes")
    return int(given)


def _quoted(data: bytes) -> str:
    return ascii(data[:60].decode("latin-1"))


def _name(line: bytes) -> str:
    """Return the name of a header without its value, which may be a secret."""
    return _quoted(line.partition(b":")[0])
