"""The parts of cache keys: hashes of weights, of the code of modules, and of the tools."""

from __future__ import annotations

import enum
import hashlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from types import FunctionType
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn
from torch.fx import GraphModule


def of_bytes(data: bytes) -> str:
    """Return the SHA-256 of bytes in hex."""
    return hashlib.sha256(data).hexdigest()


def of_module(module: nn.Module) -> str:
    """Return a hash of a module: structure, sources of its classes, their attributes, parameters and buffers."""
    return _of_parts(module, {})


def _of_parts(module: nn.Module, seen: _Seen) -> str:
    state = hashlib.sha256(repr(module).encode())
    for source in sorted(_source_of(kind) for kind in {type(part) for part in module.modules()}):
        state.update(source.encode())
    for part in module.modules():
        if isinstance(part, GraphModule):  # its class has no file, and its repr no code
            state.update(part.code.encode())
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + _of_tensor(tensor))
    parts = dict(module.named_modules())
    seen |= {id(part): (name, part) for name, part in parts.items()}
    for name, part in parts.items():
        held = {key: value for key, value in vars(part).items() if key not in _OF_TORCH}
        for piece in _of_value(held, seen):
            state.update(f"{name} ".encode() + piece)
    return state.hexdigest()


# What every module holds: its parameters and parts are hashed by name, and a compile runs no hook of training.
_OF_TORCH = frozenset(vars(nn.Module())) | {"_graph", "_code", "_lineno_map", "_prologue_start", "meta", "shape_env"}
_Seen: TypeAlias = dict[int, tuple[str, object]]
"""What was met, by identity, with a name: met again, as a configuration that all parts hold, its name is enough."""
_PLAIN = (str, bytes, int, float, complex, type(None), torch.dtype, torch.device, np.generic, enum.Enum, Path, slice)


def _of_value(value: Any, seen: _Seen) -> Iterator[bytes]:
    """Yield what distinguishes a value that a module holds; what has no content that can be read counts by its type.

    Args:
        value: anything, as `self.scale` or a configuration of a library.
        seen: what was met before, which this adds to.
    """
    yield type(value).__qualname__.encode()
    if isinstance(value, _PLAIN):
        yield repr(value).encode()
        return
    if id(value) in seen:
        yield seen[id(value)][0].encode()
        return
    if not isinstance(value, tuple):  # equal ones may be one or two, and none closes a circle by itself
        seen[id(value)] = (f"#{len(seen)}", value)
    yield from _of_content(value, seen)


def _of_content(value: Any, seen: _Seen) -> Iterator[bytes]:
    """Yield what distinguishes a value that was not met before, and is more than a number or a word."""
    if isinstance(value, torch.Tensor):
        yield f"{value.dtype} {tuple(value.shape)}".encode() + _of_tensor(value)
    elif isinstance(value, np.ndarray):
        yield f"{value.dtype} {value.shape}".encode() + np.ascontiguousarray(value).tobytes()
    elif isinstance(value, Mapping):
        yield from _of_value([*value, *value.values()], seen)
    elif isinstance(value, list | tuple):
        yield str(len(value)).encode()
        for held in value:
            yield from _of_value(held, seen)
    elif isinstance(value, set | frozenset):
        yield from sorted(b"".join(_of_value(held, dict(seen))) for held in value)
    elif isinstance(value, nn.Module):  # in a list, where torch does not see it
        yield _of_parts(value, seen).encode()
    else:
        yield from _of_code(value, seen)


def _of_code(value: Any, seen: _Seen) -> Iterator[bytes]:
    """Yield what distinguishes a function, a class or an object that keeps its values in attributes."""
    value = getattr(value, "__func__", value)  # of a method
    if isinstance(value, partial):
        yield from _of_value((value.func, value.args, value.keywords), seen)
    elif isinstance(value, FunctionType):
        yield f"{value.__module__}.{value.__qualname__}".encode() + value.__code__.co_code
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        yield from _of_value([value.__code__.co_consts, value.__defaults__, cells], seen)
    elif isinstance(value, type) or not hasattr(value, "__dict__"):
        yield str(getattr(value, "__qualname__", type(value).__qualname__)).encode()
    else:
        yield from _of_value(vars(value), seen)


def _of_tensor(tensor: torch.Tensor) -> bytes:
    """Return the bytes of a tensor, of a type that numpy lacks too."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


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
