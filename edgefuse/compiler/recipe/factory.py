"""Import what a recipe names as `module:callable`, and call it: the user's own code, which may raise anything."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path
from typing import Any

from edgefuse.errors import EdgefuseError, RecipeError


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
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise RecipeError(
            f"cannot import the factory '{reference}' of {recipe_path}",
            got=str(error),
            fix=f"put the module beside the recipe ({folder}) or install it",
        ) from error
    except Exception as error:
        raise _failed(f"importing the module '{module_name}' of {recipe_path} failed", error) from error
    factory = getattr(module, attribute, None)
    if factory is None:
        raise RecipeError(f"the module '{module_name}' has no '{attribute}'", fix="correct the factory in the recipe")
    if not callable(factory):
        raise RecipeError(
            f"the factory '{reference}' cannot be called", got=type(factory).__name__, expected="a callable"
        )
    try:
        return factory()
    except EdgefuseError:
        raise
    except Exception as error:
        raise _failed(f"the factory '{reference}' of {recipe_path} failed", error) from error


def _failed(what: str, error: Exception) -> RecipeError:
    """Say where the user's own code failed, which may raise anything."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    got = f"{type(error).__name__}: {' '.join(str(error).split())} ({Path(frame.filename).name}:{frame.lineno})"
    return RecipeError(what, got=got, fix="call it in Python by itself; EDGEFUSE_DEBUG=1 shows the whole traceback")
