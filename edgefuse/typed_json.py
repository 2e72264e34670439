"""JSON into typed records, from any thread."""

from __future__ import annotations

import os
import sys
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
        msgspec.MsgspecError: the text is not JSON in UTF-8, or not of that type.
        RecursionError: the text is nested too deeply.
    """
    decoder = _decoders.get(kind)
    if decoder is None:
        with _making:
            decoder = _decoders.setdefault(kind, msgspec.json.Decoder(kind))
    try:
        found: T = decoder.decode(data)
    except UnicodeDecodeError as error:  # which msgspec does not count among its own
        raise msgspec.DecodeError(str(error)) from error
    return found


def _after_in_child() -> None:
    """Replace the lock, whoever held it when the process was forked."""
    global _making
    _making = threading.Lock()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_after_in_child)
