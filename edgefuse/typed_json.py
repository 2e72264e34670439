"""JSON into typed records, from any thread."""

from __future__ import annotations

import threading
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")
_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}
_making = threading.Lock()


def decode(data: bytes | str, kind: type[T]) -> T:
    """Return the record that a JSON text encodes.

    What msgspec makes of a type at its first use, it makes without a lock, and the process ends when two threads are at
    it. So decoders are made one after the other, and kept.

    Raises:
        msgspec.MsgspecError: the text is not JSON, or not of that type.
        UnicodeDecodeError, RecursionError: a string is not UTF-8; the text is nested too deeply.
    """
    decoder = _decoders.get(kind)
    if decoder is None:
        with _making:
            decoder = _decoders.setdefault(kind, msgspec.json.Decoder(kind))
    found: T = decoder.decode(data)
    return found
