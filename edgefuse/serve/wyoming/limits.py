"""What one peer may take: bytes, seconds, connections. The protocol itself has no limits."""

from __future__ import annotations

from dataclasses import dataclass

from edgefuse.errors import EdgefuseError


@dataclass(frozen=True)
class Limits:
    """The bounds of the service; what passes one is refused in a sentence.

    Attributes:
        header_bytes: of the line of JSON that begins an event.
        data_bytes: of the JSON after it, in which the text stands.
        payload_bytes: of the sound after that.
        connection_bytes: over the life of a connection.
        connections: that are open at once. One more takes the place of the one that has been silent longest.
        streams: of sound that are heard at once.
        idle_s: between two events of a connection, which is closed then.
        event_s: from the first byte of an event to its last, and for a peer to take an answer.
        linger_s: after an error that ends a connection, in which what still comes is thrown away.
        answer_s: from a request to its answer.
        utterance_s: of sound in one stream.
    """

    header_bytes: int = 65_536
    data_bytes: int = 65_536
    payload_bytes: int = 1_048_576
    connection_bytes: int = 67_108_864
    connections: int = 64
    streams: int = 8
    idle_s: float = 60.0
    event_s: float = 10.0
    linger_s: float = 1.0
    answer_s: float = 30.0
    utterance_s: float = 60.0


class CrowdedError(EdgefuseError):
    """There are as many connections, or utterances, as may be."""
