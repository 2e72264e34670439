"""Checkpoints of a recovery: written whole or not at all, read without executing anything, tied to a student."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)


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
    """Write a state (tensors, numbers, strings, and lists and dicts of them) under `path`, all or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".partial", dir=path.parent)
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save({"key": key, "state": dict(state)}, file)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def load(path: Path, key: str) -> dict[str, Any] | None:
    """Return the state that was saved under this key; None, with a line in the log, for a foreign or damaged file."""
    if not path.is_file():
        return None
    try:
        content = torch.load(path, weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        logger.warning("the checkpoint %s is damaged and not used: %s", path, str(error).partition("\n")[0])
        return None
    if not isinstance(content, dict) or content.get("key") != key:
        logger.warning("the checkpoint %s belongs to another student, data or settings and is not used", path)
        return None
    state: dict[str, Any] = content["state"]
    return state
