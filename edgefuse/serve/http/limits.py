"""What one peer, and all of them together, may take: bytes, seconds, connections."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The bounds of the service; what passes one is refused in a sentence.

    Attributes:
        header_bytes: of the request line and the headers.
        headers: their number.
        body_bytes: of the rest of a request.
        parts: of a multipart request.
        buffered_bytes: of all requests that have not come whole yet, together.
        connections: that are open at once. One more takes the place of the one that has sent nothing for longest.
        header_s: from the first byte of a request to the end of its headers.
        body_s: from there to its end.
        idle_s: between two requests of a connection, which is closed then.
        write_s: for a peer to take a part of an answer.
        answer_s: from a whole request to its answer, or to the first token.
    """

    header_bytes: int = 16_384
    headers: int = 64
    body_bytes: int = 16_777_216
    parts: int = 32
    buffered_bytes: int = 134_217_728
    connections: int = 256
    header_s: float = 10.0
    body_s: float = 30.0
    idle_s: float = 30.0
    write_s: float = 5.0
    answer_s: float = 30.0
