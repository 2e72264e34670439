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

from edgefuse.errors import EdgefuseError, RecipeError, shown


def call_factory(recipe_path: Path, reference: str) -> Any:
    """Import `module:callable` (the recipe's folder is searched first) and return what the callable returns.

    Raises:
        RecipeError: if it cannot be imported or called.
    """
    module_name, _, attribute = reference.partition(":")
    if not module_name or not attribute.isidentifier():
        raise RecipeError(
            f"a factory in {recipe_path} has no module or no callable",
            got=repr(reference),
            expected="'module:callable'",
        )
    folder = str(recipe_path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    with staying_here(), users_code(f"importing the module '{module_name}' of {recipe_path} failed"):
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            raise RecipeError(
                f"cannot import the factory '{reference}' of {recipe_path}",
                got=shown(spoken(error)),
                fix=f"put the module beside the recipe ({folder}) or install it",
            ) from error
    factory = getattr(module, attribute, None)
    if factory is None:
        raise RecipeError(f"the module '{module_name}' has no '{attribute}'", fix="correct the factory in the recipe")
    if not callable(factory):
        raise RecipeError(
            f"the factory '{reference}' cannot be called", got=type(factory).__name__, expected="a callable"
        )
    with staying_here(), users_code(f"the factory '{reference}' of {recipe_path} failed"):
        return factory()


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
        got = f"{type(error).__name__}: {spoken(error)} ({Path(frame.filename).name}:{frame.lineno})"
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


def spoken(error: BaseException) -> str:
    """Return what an error of the user's own says on one line, if it says anything."""
    try:
        return " ".join(str(error).split())
    except Exception:  # noqa: BLE001 - its __str__ is the user's own code, too
        return "an error that cannot be spelled"
