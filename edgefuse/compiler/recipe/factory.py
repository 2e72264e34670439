"""Import what a recipe names as `module:callable`, and call it: the user's own code, which may raise anything."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgefuse.errors import EdgefuseError, RecipeError, cited

_MOST_CITED = 150
"""Characters of what the user's code said: the place where it did stands behind them."""


def call_factory(recipe_path: Path, reference: str) -> Any:
    """Import `module:callable` (the recipe's folder is searched first) and return what the callable returns.

    Raises:
        RecipeError: if it cannot be imported or called.
    """
    factory = imported(reference, recipe_path.resolve().parent, f" of {recipe_path}")
    if not callable(factory):
        raise RecipeError(
            f"the factory '{reference}' cannot be called", got=type(factory).__name__, expected="a callable"
        )
    with staying_here(), users_code(f"the factory '{reference}' of {recipe_path} failed"):
        return factory()


def imported(reference: str, folder: Path, whose: str = "", kind: type[EdgefuseError] = RecipeError) -> Any:
    """Return what `module:callable` names; whether it can be called is not looked at.

    Args:
        reference: module and name.
        folder: that is searched first.
        whose: reference it is, for the error: " of recipe.toml".
        kind: of the error where there is no such thing, or the module raises.
    """
    module_name, _, attribute = reference.partition(":")
    if not module_name or not attribute.isidentifier():
        raise kind(f"a factory{whose} has no module or no callable", got=repr(reference), expected="'module:callable'")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    with staying_here(), users_code(f"importing the module '{module_name}'{whose} failed", kind):
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            raise kind(
                f"cannot import the factory '{reference}'{whose}",
                got=cited(error),
                fix=f"put the module into {folder}, or install it",
            ) from error
    if not hasattr(module, attribute):
        raise kind(f"the module '{module_name}' has no '{attribute}'", fix="correct the name of the factory")
    return getattr(module, attribute)


@contextmanager
def users_code(what: str, kind: type[EdgefuseError] = RecipeError) -> Iterator[None]:
    """Run the user's own code within the block, which may raise anything.

    Args:
        what: failed, if it does.
        kind: of the error that says so, and where.
    """
    try:
        yield
    except (EdgefuseError, KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    except BaseException as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        got = f"{cited(error, _MOST_CITED)} ({Path(frame.filename).name}:{frame.lineno})"
        fix = "call it in Python by itself; EDGEFUSE_DEBUG=1 shows the whole traceback"
        raise kind(what, got=got, fix=fix) from error


@contextmanager
def staying_here() -> Iterator[None]:
    """Return to the folder that this process stands in, if there still is one, wherever the block goes."""
    try:
        here = Path.cwd()
    except FileNotFoundError:
        yield
        return
    try:
        yield
    finally:
        os.chdir(here)
