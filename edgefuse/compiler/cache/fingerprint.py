"""The parts of cache keys: hashes of weights, of the code of modules, and of the tools."""

from __future__ import annotations

import enum
import hashlib
import inspect
import logging
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from numbers import Number
from pathlib import Path, PurePath
from types import CellType, CodeType, FunctionType, MappingProxyType, ModuleType
from typing import Any
from weakref import ReferenceType

import numpy as np
import torch
from torch import nn
from torch.fx import GraphModule

from edgefuse.compiler.cache.reached import Reached, file_of


def of_bytes(data: bytes) -> str:
    """Return the SHA-256 of bytes in hex."""
    return hashlib.sha256(data).hexdigest()


def of_module(module: nn.Module) -> str:
    """Return a hash of a module: structure, its code and what that reaches, attributes, parameters and buffers."""
    seen = _Seen()
    state = hashlib.sha256(_of_parts(module, seen).encode())
    for piece in _of_reached(seen):
        state.update(piece)
    return state.hexdigest()


def of_value(value: object) -> str:
    """Return a hash of any value, as a module may hold it, or a sample."""
    state = hashlib.sha256()
    for piece in _of_value(value, _Seen()):
        state.update(piece)
    return state.hexdigest()


def once(module: nn.Module) -> str:
    """Return the hash of a module as it was when it was first asked for, in whatever process.

    A compile asks before anything runs: what a forward leaves behind in attributes is no part of a key, and two
    compiles run modules unequally often. A copy of the module, which may be changed, knows nothing of it.
    """
    kept = vars(module).get(_KEPT)
    return kept.digest if isinstance(kept, _Kept) and kept.digest else keep(module, of_module(module))


def keep(module: nn.Module, digest: str) -> str:
    """Let `once` return this hash of a module, which tells all that the module was made from; return it."""
    vars(module)[_KEPT] = _Kept(digest)
    return digest


@dataclass(frozen=True)
class _Kept:
    """A hash that goes with a module into other processes, and not into copies."""

    digest: str

    def __deepcopy__(self, memo: object) -> _Kept:
        return _Kept("")


_KEPT = "_edgefuse_fingerprint"


class _Seen:
    """What was met, and the code that was met on the way.

    Attributes:
        names: by identity: met again, as a configuration that all parts hold, its name is enough.
        code: classes, functions and Python modules.
    """

    def __init__(self, names: Mapping[int, tuple[str, object]] = MappingProxyType({}), code: Any = None) -> None:
        self.names = dict(names)
        self.code: list[object] = [] if code is None else code

    def aside(self) -> _Seen:
        """Return the same, for a value whose place among others means nothing."""
        return _Seen(self.names, self.code)


def _of_parts(module: nn.Module, seen: _Seen) -> str:
    state = hashlib.sha256(repr(module).encode())
    kinds = {type(part) for part in module.modules()}
    seen.code += sorted(kinds, key=repr)
    for source in sorted(_source_of(kind) for kind in kinds):
        state.update(source.encode())
    for part in module.modules():
        if isinstance(part, GraphModule):  # its class has no file, and its repr no code
            state.update(part.code.encode())
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + _of_tensor(tensor))
    parts = dict(module.named_modules())
    seen.names |= {id(part): (name, part) for name, part in parts.items()}
    for name, part in parts.items():
        held = {key: value for key, value in vars(part).items() if key not in _OF_TORCH}
        for piece in _of_value(held, seen):
            state.update(f"{name} ".encode() + piece)
    return state.hexdigest()


def _of_reached(seen: _Seen) -> Iterator[bytes]:
    """Yield the user's own files and typed functions that code reaches, and what its global names hold."""
    found, told, typed, values = Reached(), 0, 0, set[str]()
    while told < len(seen.code):  # what a global holds has code, too
        found.add(seen.code[told:])
        told = len(seen.code)
        for name in sorted(found.values.keys() - values):
            values.add(name)
            yield name.encode()
            yield from _of_value(found.values[name], seen)
        for function in found.typed[typed:]:
            yield from _of_value(function, seen)
        typed = len(found.typed)
    yield from sorted(path.read_bytes() for path in found.files)


# What every module holds: its parameters and parts are hashed by name, and a compile runs no hook of training.
_OF_TORCH = frozenset(vars(nn.Module())) | {"_graph", "_code", "_lineno_map", "_prologue_start", "meta", "shape_env"}
_OF_TORCH |= {_KEPT}
_PLAIN = (str, bytes, Number, type(None), torch.dtype, torch.device, np.generic, enum.Enum, PurePath, slice, range)
_WITHOUT_CONTENT = (logging.Logger, logging.LoggerAdapter, logging.Handler, threading.local, ReferenceType)
"""What differs from process to process and decides no answer; of locks, which have no attributes, the same is true."""


def _of_value(value: Any, seen: _Seen) -> Iterator[bytes]:
    """Yield what distinguishes a value that a module holds; what has no content that can be read counts by its type.

    Args:
        value: anything, as `self.scale` or a configuration of a library.
        seen: what was met before, which this adds to.
    """
    yield type(value).__qualname__.encode()
    if isinstance(value, _WITHOUT_CONTENT):
        return
    if isinstance(value, _PLAIN):
        yield repr(value).encode()
        return
    if id(value) in seen.names:
        yield seen.names[id(value)][0].encode()
        return
    if not isinstance(value, tuple):  # equal ones may be one or two, and none closes a circle by itself
        seen.names[id(value)] = (f"#{len(seen.names)}", value)
    yield from _of_content(value, seen)


def _of_content(value: Any, seen: _Seen) -> Iterator[bytes]:
    """Yield what distinguishes a value that was not met before, and is more than a number or a word."""
    if isinstance(value, torch.Tensor):
        yield f"{value.dtype} {tuple(value.shape)}".encode() + _of_tensor(value)
    elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
        yield f"{value.dtype} {value.shape}".encode() + np.ascontiguousarray(value).tobytes()
    elif isinstance(value, np.ndarray):
        yield from _of_value(value.tolist(), seen)
    elif isinstance(value, Mapping):
        yield from _of_value([*value, *value.values()], seen)
    elif isinstance(value, list | tuple):
        yield str(len(value)).encode()
        for held in value:
            yield from _of_value(held, seen)
    elif isinstance(value, set | frozenset):
        yield from sorted(b"".join(_of_value(held, seen.aside())) for held in value)
    elif isinstance(value, nn.Module):  # in a list, where torch does not see it
        yield _of_parts(value, seen).encode()
    else:
        yield from _of_code(value, seen)


def _of_code(value: Any, seen: _Seen) -> Iterator[bytes]:
    """Yield what distinguishes a function, a class or an object that keeps its values in attributes."""
    if isinstance(value, partial):
        yield from _of_value((value.func, value.args, value.keywords), seen)
    elif isinstance(value, FunctionType):
        seen.code.append(value)
        yield f"{value.__module__}.{value.__qualname__}".encode()
        yield from _of_value([value.__code__, value.__defaults__, value.__kwdefaults__, _cells(value)], seen)
    elif isinstance(value, CodeType):
        yield value.co_code
        yield from _of_value([value.co_names, value.co_consts], seen)
    elif isinstance(value, type | ModuleType):
        seen.code.append(value)
        yield value.__name__.encode() if isinstance(value, ModuleType) else value.__qualname__.encode()
    elif inspect.isroutine(value):  # of a class or an object, or built in
        yield str(getattr(value, "__qualname__", "")).encode()
        owner = getattr(value, "__self__", None)
        yield from _of_value([owner, getattr(value, "__func__", None)], seen)
    else:
        seen.code.append(type(value))
        yield from _of_value(_attributes(value), seen)


def _cells(function: FunctionType) -> list[object]:
    """Return what a function took along of the one around it; a variable may have no value yet."""
    cells = function.__closure__ or ()
    return [cell.cell_contents for cell in cells if cell != CellType()]


def _attributes(value: object) -> dict[str, object]:
    """Return what an object keeps under names, in slots too."""
    slots = [vars(kind).get("__slots__", ()) for kind in type(value).__mro__]
    names = [name for several in slots for name in ([several] if isinstance(several, str) else several)]
    held = {name: getattr(value, name) for name in names if not name.startswith("__") and hasattr(value, name)}
    return held | getattr(value, "__dict__", {})


def _of_tensor(tensor: torch.Tensor) -> bytes:
    """Return the bytes of a tensor, of a type that numpy lacks too."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _source_of(kind: type) -> str:
    """Hash the file that defines a class; a class without a file is known by its name alone."""
    path = file_of(kind)
    return repr(kind) if path is None else of_bytes(path.read_bytes())


def of_compiler() -> str:
    """Return a hash of this package's own source, so that a change of ours never meets a stale result."""
    return of_source("bundle", "graph", "runtime", "measure", "device", "stages", "export", "quantize", "compiler")


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
