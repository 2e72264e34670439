"""Where encoded media come from: a path or the bytes of a file."""

from __future__ import annotations

import io
import os
from pathlib import Path

from edgefuse.errors import InputError

Encoded = str | os.PathLike[str] | bytes | bytearray | memoryview
ENCODED = (str, os.PathLike, bytes, bytearray, memoryview)
"""The types that `open_media` takes, for `isinstance`."""


def open_media(raw: Encoded, name: str) -> io.BytesIO:
    """Return the content of a file, given its path or its bytes.

    Args:
        raw: a path or the file's bytes.
        name: the modality, for messages.

    Raises:
        InputError: if there is no such file, or it is empty.
    """
    if isinstance(raw, (str, os.PathLike)):
        try:
            data = Path(raw).read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a path with a null character
            raise InputError(
                f"the file for '{name}' cannot be read",
                got=f"{str(raw)!r} ({error.strerror if isinstance(error, OSError) else error})",
                expected="the path of a readable file",
            ) from error
    else:
        data = bytes(raw)
    if not data:
        raise InputError(f"the file for '{name}' is empty", got="0 bytes", expected="an encoded file")
    return io.BytesIO(data)
