"""What a user's code reaches from a module's classes and functions: further files, and values under global names.

A file is the user's own unless a library or Python brought it: those change with their versions. A name counts where a
function uses it, so a file that only other parts of a program import is no part of a module. What was typed into a
session, as into a notebook, has no file: its functions are known by their code.
"""

from __future__ import annotations

import inspect
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

_PACKAGE = Path(__file__).resolve().parents[2]
_OF_PYTHON = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib"))
_OF_LIBRARIES = {"site-packages", "dist-packages"}


@dataclass
class Reached:
    """What was reached: files of the user's own, functions without a file, values by the name that a function uses."""

    files: set[Path] = field(default_factory=set)
    typed: list[FunctionType] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    _met: dict[int, object] = field(default_factory=dict)

    def add(self, starts: Iterable[object]) -> Reached:
        """Add what functions, classes and modules reach; return itself."""
        waiting = list(starts)
        while waiting:
            thing = waiting.pop()
            if id(thing) not in self._met:
                self._met[id(thing)] = thing
                waiting += self._of(thing)
        return self

    def _of(self, thing: object) -> Iterator[object]:
        """Take note of a thing's file, and yield what it uses, if it is the user's own."""
        path = file_of(thing)
        if path is None and _is_of_session(thing):
            self._note_typed(thing)
        elif path is not None and _is_own(path):
            self.files.add(path)
        else:
            return
        if isinstance(thing, type):
            yield from thing.__mro__[1:]
            yield from (part for held in vars(thing).values() for part in _functions(held))
        elif isinstance(thing, FunctionType):
            yield from _functions(getattr(thing, "__wrapped__", None))
            for name, value in _used(thing):
                if isinstance(value, ModuleType | FunctionType | type):
                    yield value
                else:
                    self.values.setdefault(name, value)

    def _note_typed(self, thing: object) -> None:
        """Take note of a function that has no file, or of what a class without one holds besides functions."""
        if isinstance(thing, FunctionType):
            self.typed.append(thing)
        elif isinstance(thing, type):
            held = {name: value for name, value in vars(thing).items() if not name.startswith(("__", "_abc_"))}
            plain = {name: value for name, value in held.items() if not [*_functions(value)]}
            self.values |= {f"{thing.__qualname__}.{name}": value for name, value in plain.items()}


def _is_of_session(thing: object) -> bool:
    """Tell whether a class or function was made in the session itself, not in a library's `exec`."""
    return isinstance(thing, type | FunctionType) and thing.__module__ == "__main__"


def _used(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield what a function uses of the globals, of modules among them, and of modules that it imports by itself."""
    known, names = function.__globals__, list(dict.fromkeys(_names(function.__code__)))
    package = known.get("__package__") or ""
    found: list[tuple[str, Any]] = [(name, known[name]) for name in names if name in known]
    found += [
        (name, sys.modules[full]) for name in names for full in (name, f"{package}.{name}") if full in sys.modules
    ]
    met: set[int] = set()
    while found:
        name, value = found.pop()
        yield f"{function.__module__}.{name}", value
        if isinstance(value, ModuleType) and id(value) not in met and is_own(value):
            met.add(id(value))
            found += [(f"{name}.{inner}", vars(value)[inner]) for inner in names if inner in vars(value)]


def _names(code: CodeType) -> Iterator[str]:
    """Yield the names that code uses, with that of functions within."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _functions(held: object) -> Iterator[object]:
    """Yield the functions and classes in an attribute of a class."""
    if isinstance(held, property):
        yield from (part for part in (held.fget, held.fset) if part is not None)
    elif isinstance(inner := getattr(held, "__func__", getattr(held, "__wrapped__", held)), FunctionType | type):
        yield inner


def is_own(thing: object) -> bool:
    """Tell whether a class, function or module is the user's own."""
    path = file_of(thing)
    return path is not None and _is_own(path)


def file_of(thing: object) -> Path | None:
    """Return the file that defines a class, function or module, if there is one."""
    try:
        name = inspect.getsourcefile(thing)  # type: ignore[arg-type] # whatever it is, it says so
    except (TypeError, OSError):
        return None
    return Path(name) if name and Path(name).is_file() else None


@cache
def _is_own(path: Path) -> bool:
    whole = path.resolve()
    if whole.is_relative_to(_PACKAGE):  # of this package, models alone: the rest has parts of keys of its own
        return whole.is_relative_to(_PACKAGE / "models")
    return not _OF_LIBRARIES & {*whole.parts} and not any(whole.is_relative_to(folder) for folder in _OF_PYTHON)
