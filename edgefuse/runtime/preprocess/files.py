"""Input files, given as a path or as bytes: opened, bounded, and named in messages."""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from edgefuse.errors import EdgefuseError, InputError, shown
from edgefuse.files import KINDS

Encoded = str | os.PathLike[str] | bytes | bytearray | memoryview
ENCODED = (str, os.PathLike, bytes, bytearray, memoryview)
"""The types of encoded input, for `isinstance`."""

# A message shows what was found in 200 characters: what happened, and where.
_MAX_CAUSE, _MAX_NAME = 90, 90
_KINDS = {**KINDS, stat.S_IFDIR: "Is a directory"}
# A pipe that nobody writes to must not hold us up, should one take the file's place after we looked.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_OBJECT = re.compile(r"<[^<>]* object at 0x[0-9a-fA-F]+>")


def origin(raw: object, noun: str) -> str:
    """Return how messages call an input: `'seven.png'`, or `the picture given as 344 bytes`."""
    if isinstance(raw, (str, os.PathLike)):
        name = repr(_path_text(raw))
        return name if len(name) <= _MAX_NAME else "'..." + name[5 - _MAX_NAME :]  # the end of a path says most
    if isinstance(raw, (bytes, bytearray, memoryview)):
        return f"the {noun} given as {_size(raw)} bytes"
    return f"the {noun} given as {type(raw).__name__}"


def cause(error: BaseException) -> str:
    """Return what a library says about damage, as a part of our sentence: one short line, no addresses, no escapes."""
    said = str(getattr(error, "error_string", "")) or str(error) or type(error).__name__
    return shown(" ".join(_OBJECT.sub("it", said).split()).rstrip("."), _MAX_CAUSE)


@contextmanager
def decoding(what: str, where: str, expected: str) -> Iterator[None]:
    """Turn whatever a media library raises within the block into one `InputError`.

    Args:
        what: is decoded ("the picture 'camera'").
        where: it comes from, as `origin` says it.
        expected: what would have done.
    """
    try:
        yield
    except EdgefuseError:
        raise
    # Broad on purpose: decoders answer damage with whatever their Python or C happens to raise (OSError, SyntaxError,
    # struct.error, KeyError, RuntimeError, MemoryError…; no list of ours was ever complete), and all of it means this.
    except Exception as error:
        raise InputError(f"{what} cannot be decoded", got=f"{cause(error)} in {where}", expected=expected) from error


def read(raw: Encoded, name: str, limit: int) -> bytes:
    """Return the whole content of a file or what was given as bytes.

    Args:
        raw: a path or bytes.
        name: of the modality, for messages.
        limit: of the size, in bytes.

    Raises:
        InputError: if it is no regular file, cannot be read, is empty or longer than `limit`.
    """
    with opened(raw, name, limit) as (file, size):
        try:
            return file.read(size)
        except (OSError, MemoryError) as error:
            raise _unreadable(name, raw, error) from error


@contextmanager
def opened(raw: Encoded, name: str, limit: int) -> Iterator[tuple[BinaryIO, int]]:
    """Open a file, or what was given as bytes, within the block; yields it with its size. Raises what `read` raises.

    Args:
        raw: a path or bytes.
        name: of the modality, for messages.
        limit: of the size, in bytes.
    """
    file, size = _regular(raw, name) if isinstance(raw, (str, os.PathLike)) else _in_memory(raw, name)
    with file:
        if size == 0:
            raise InputError(f"the file for '{name}' is empty", got=_nothing(raw), expected="an encoded file")
        if size > limit:
            raise InputError(
                f"the file for '{name}' is too large",
                got=f"{size} bytes" + (f" in {origin(raw, 'file')}" if isinstance(raw, (str, os.PathLike)) else ""),
                expected=f"at most {limit} bytes",
            )
        yield file, size


def _regular(raw: str | os.PathLike[str], name: str) -> tuple[BinaryIO, int]:
    """Open a regular file. We look first: opening a device or a pipe can have effects of its own."""
    try:
        path = Path(os.fsdecode(raw))
        _check_kind(path.stat().st_mode, raw, name)
        descriptor = os.open(path, _FLAGS)
    except (OSError, ValueError, TypeError) as error:  # ValueError: a null character; TypeError: an odd __fspath__
        raise _unreadable(name, raw, error) from error
    try:
        status = os.fstat(descriptor)
        _check_kind(status.st_mode, raw, name)  # of what we opened, which need not be what we looked at
        return os.fdopen(descriptor, "rb"), status.st_size
    except BaseException:
        os.close(descriptor)
        raise


def _in_memory(raw: bytes | bytearray | memoryview, name: str) -> tuple[BinaryIO, int]:
    try:
        data = raw if isinstance(raw, bytes) else bytes(raw)
        return io.BytesIO(data), len(data)
    except (ValueError, MemoryError) as error:  # ValueError: a memoryview that was released
        raise _unreadable(name, "", error) from error


def _check_kind(mode: int, raw: str | os.PathLike[str], name: str) -> None:
    if not stat.S_ISREG(mode):
        raise InputError(
            f"the file for '{name}' cannot be read",
            got=f"{origin(raw, 'file')} ({_KINDS.get(stat.S_IFMT(mode), 'no regular file')})",
            expected="the path of a readable file",
        )


def _unreadable(name: str, raw: object, error: Exception) -> InputError:
    said = (error.strerror if isinstance(error, OSError) else None) or cause(error)
    got = f"{origin(raw, 'file')} ({said})" if raw else said
    return InputError(f"the file for '{name}' cannot be read", got=got, expected="the path of a readable file")


def _nothing(raw: Encoded) -> str:
    return f"0 bytes in {origin(raw, 'file')}" if isinstance(raw, (str, os.PathLike)) else "0 bytes"


def _size(raw: bytes | bytearray | memoryview) -> int:
    try:
        return raw.nbytes if isinstance(raw, memoryview) else len(raw)
    except ValueError:  # it was released
        return 0


def _path_text(raw: str | os.PathLike[str]) -> str:
    try:
        return os.fsdecode(raw)
    except TypeError:  # an odd __fspath__
        return type(raw).__name__
