"""The parts of cache keys: hashes of weights, of the code of modules, and of the tools."""

from __future__ import annotations

import hashlib
import inspect
import sys
from functools import cache
from pathlib import Path

from torch import nn
from torch.fx import GraphModule


def of_bytes(data: bytes) -> str:
    """Return the SHA-256 of bytes in hex."""
    return hashlib.sha256(data).hexdigest()


def of_module(module: nn.Module) -> str:
    """Return a hash of a module: its structure, the source files of its classes, all parameters and buffers."""
    state = hashlib.sha256(repr(module).encode())
    for source in sorted(_source_of(kind) for kind in {type(part) for part in module.modules()}):
        state.update(source.encode())
    for part in module.modules():
        if isinstance(part, GraphModule):  # its class has no file, and its repr no code
            state.update(part.code.encode())
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        array = tensor.detach().cpu().contiguous().numpy()
        state.update(f"{name} {array.dtype} {array.shape}".encode())
        state.update(array.tobytes())
    return state.hexdigest()


def _source_of(kind: type) -> str:
    """Hash the file that defines a class; a class without a file is known by its name alone."""
    try:
        path = inspect.getsourcefile(kind)
    except (TypeError, OSError):
        path = None
    if path is None or not Path(path).is_file():
        return repr(kind)
    return of_bytes(Path(path).read_bytes())


def of_compiler() -> str:
    """Return a hash of this package's own source, so that a change of ours never meets a stale result."""
    return of_source("bundle", "runtime", "measure", "device", "export", "quantize", "compiler")


@cache
def of_source(*places: str) -> str:
    """Return a hash of some of this package's files and folders, for results that depend on these alone."""
    root = Path(__file__).parents[2]
    state = hashlib.sha256(sys.version.encode())
    for place in places:
        files = [root / place] if place.endswith(".py") else sorted((root / place).rglob("*.py"))
        for path in files:
            state.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return state.hexdigest()
