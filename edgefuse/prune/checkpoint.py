"""Checkpoints of a recovery: written whole or not at all, read without executing anything, tied to a student.

A file is what torch writes and, behind it, the size and the SHA-256 of that: torch does not notice a bit that flipped.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from edgefuse.files import open_unfollowed

logger = logging.getLogger(__name__)

_SEAL_BYTES = 16 + 2 * hashlib.sha256().digest_size  # in hexadecimal
_BLOCK_BYTES = 1 << 20


def identity(module: nn.Module, tensors: Mapping[str, Tensor], facts: Mapping[str, object]) -> str:
    """Return a SHA-256 of all that decides a recovery.

    Args:
        module: the student, before its first step.
        tensors: a first batch of examples.
        facts: settings; anything that JSON can write.
    """
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    digest.update(f"{torch.__version__} {module}".encode())
    for name, tensor in (*module.state_dict().items(), *tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save(path: Path, key: str, state: Mapping[str, Any]) -> None:
    """Write a state (tensors, numbers, strings, and lists and dicts of them) under `path`, all or nothing.

    Args:
        path: of the folder.
        key: of the recovery, which a later run compares.
        state: tensors, numbers, strings, and lists and dicts of them.

    Raises:
        OSError: if the system refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".partial", dir=path.parent)
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            hashed = _Hashed(file)
            _write(hashed, {"key": key, "state": dict(state)})
            file.write(hashed.seal())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def load(path: Path, key: str) -> dict[str, Any] | None:
    """Return the state that was saved under this key; None, with a line in the log, for a foreign or damaged file."""
    try:
        with open(path, "rb", opener=open_unfollowed) as file:
            _check(file)
            content = torch.load(file, weights_only=True)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        logger.warning("the checkpoint %s is damaged and not used: %s", path, str(error).partition("\n")[0])
        return None
    if not isinstance(content, dict) or content.get("key") != key:
        logger.warning("the checkpoint %s belongs to another student, data or settings and is not used", path)
        return None
    state: dict[str, Any] = content["state"]
    return state


def remove(path: Path) -> None:
    """Remove a checkpoint that is not needed any more, if there is one and the system lets us."""
    with suppress(OSError):
        path.unlink(missing_ok=True)


class _Hashed:
    """A file for torch to write to, which keeps the hash of what it wrote, and why it could not write."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self._size_bytes = 0
        self.refused: OSError | None = None

    def write(self, data: bytes) -> int:
        self._sha256.update(data)
        self._size_bytes += len(data)
        try:
            return self._file.write(data)
        except OSError as error:
            self.refused = error
            raise

    def flush(self) -> None:
        self._file.flush()

    def seal(self) -> bytes:
        return _seal(self._size_bytes, self._sha256.hexdigest())


def _write(file: _Hashed, content: Mapping[str, Any]) -> None:
    try:
        torch.save(content, file)  # type: ignore[arg-type]  # more than these two methods it does not call
    except RuntimeError:
        if file.refused is not None:  # torch tells of its own confusion instead
            raise file.refused from None
        raise


def _seal(size_bytes: int, sha256: str) -> bytes:
    return f"{size_bytes:016x}{sha256}".encode()


def _check(file: IO[bytes]) -> None:
    """Read a whole file and go back to its beginning; a ValueError says what is wrong with it."""
    state = os.fstat(file.fileno())
    if not stat.S_ISREG(state.st_mode):
        raise ValueError("it is no file")
    size_bytes = max(state.st_size - _SEAL_BYTES, 0)
    file.seek(size_bytes)
    sealed = file.read(_SEAL_BYTES)
    if sealed[:16] != _seal(size_bytes, "")[:16]:  # what is too large is not read
        raise ValueError("it has another size than what was written")
    file.seek(0)
    found, left = hashlib.sha256(), size_bytes
    while left and (block := file.read(min(left, _BLOCK_BYTES))):
        found.update(block)
        left -= len(block)
    if sealed != _seal(size_bytes, found.hexdigest()):
        raise ValueError("it has another content than what was written")
    file.seek(0)
