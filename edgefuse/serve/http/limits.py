"""Sizes and times that a client cannot exceed."""

from __future__ import annotations

from dataclasses import dataclass, fields

from edgefuse.errors import InputError

BODIES = 4
"""Of the largest size, that all requests may have together, where nobody says otherwise."""
TOO_MANY_BYTES = "This service reads as many bytes as it takes at a time."
"""Told to whoever is refused for that."""
_VALUES = 2 << 20
_BYTES_A_VALUE = 8


@dataclass(frozen=True)
class Limits:
    """What a client may take of a service.

    Attributes:
        body_bytes: of one request.
        bodies_bytes: of all requests at a time, that is, of the memory that they take before they are decoded.
        header_bytes: of the request line and all header fields of one request.
        fields: header fields of one request.
        parts: of a multipart form.
        read_s: from the first byte of a request to its last one.
        write_s: that a client may fall behind `write_bytes_per_s` in accepting an answer.
        write_bytes_per_s: at which a client has to accept an answer, at the least, while more of it waits to be sent.
        idle_s: that a connection may be open without a request.
        answer_s: that a request may wait for its answer.
        connections: open at a time; the one that was silent for the longest goes for one more.
        threads: requests that are read or answered at a time.

    Raises:
        InputError: one of them is not above 0.
    """

    body_bytes: int = 16 << 20
    bodies_bytes: int = BODIES * body_bytes
    header_bytes: int = 16 << 10
    fields: int = 64
    parts: int = 32
    read_s: float = 10.0
    write_s: float = 5.0
    write_bytes_per_s: int = 10_000
    idle_s: float = 30.0
    answer_s: float = 30.0
    connections: int = 256
    threads: int = 32

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise InputError(f"the limit '{field.name}' is too small", got=value, expected="more than 0")

    @property
    def values(self) -> int:
        """Of a body of JSON: numbers, texts, lists and objects. While it is read, each takes 40 to 160 bytes."""
        return max(_VALUES, self.body_bytes // _BYTES_A_VALUE)
