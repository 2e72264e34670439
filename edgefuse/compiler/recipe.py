"""The recipe: a TOML file that says what to compile, for which targets, within which budget."""

from __future__ import annotations

import difflib
import importlib
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import tomllib

from edgefuse import registry
from edgefuse.bundle.spec import Record
from edgefuse.errors import RecipeError


class ModelSection(Record, frozen=True, kw_only=True):
    """Where the model comes from.

    Attributes:
        factory: `module:callable` that returns the torch model; the module may lie beside the recipe.
        weights: a safetensors file beside the recipe, loaded into the model.
        assets: files beside the recipe that preprocessing needs (a tokenizer), besides those the model brings.
    """

    factory: str
    weights: str | None = None
    assets: tuple[str, ...] = ()


class DataSection(Record, frozen=True, kw_only=True):
    """Where the data comes from: `module:callable` that returns `Splits`."""

    factory: str


class CompileSection(Record, frozen=True, kw_only=True):
    """What to make: the targets, and the threads that latency is measured and judged with."""

    targets: tuple[str, ...] = ("onnx",)
    threads: int = 1


class SearchSection(Record, frozen=True, kw_only=True):
    """What to look for.

    Attributes:
        objective: what the default rung minimises.
        max_drop: how much of the metric may be lost in each subset, as a fraction (0.01 is one point).
        subsets: the subsets that the budget binds (`image+audio`); all admissible ones if empty.
        max_fusion_passes: how many combinations are judged per target, at the most.
    """

    objective: Literal["latency", "size"] = "latency"
    max_drop: float = 0.01
    subsets: tuple[str, ...] = ()
    max_fusion_passes: int = 24


class Recipe(Record, frozen=True, kw_only=True):
    """A whole recipe. `schemes` narrows the schemes tried on a stage to those ids."""

    model: ModelSection
    data: DataSection
    compile: CompileSection = CompileSection()
    search: SearchSection = SearchSection()
    schemes: dict[str, tuple[str, ...]] = {}  # noqa: RUF012 - msgspec copies empty defaults


def load(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        RecipeError: if the file cannot be read, is not TOML, has unknown keys or values out of range.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(
            f"cannot read the recipe {path}", got=error.strerror, fix="give the path of a TOML file"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"the recipe {path} is not TOML", got=str(error)) from error
    _refuse_unknown_keys(path, table)
    try:
        recipe = msgspec.convert(table, Recipe)
    except msgspec.ValidationError as error:
        raise RecipeError(f"the recipe {path} is wrong", got=str(error)) from error
    check(path, recipe)
    return recipe


def _refuse_unknown_keys(path: Path, table: Mapping[str, Any]) -> None:
    sections: dict[str, type[Record]] = {
        "model": ModelSection,
        "data": DataSection,
        "compile": CompileSection,
        "search": SearchSection,
    }
    _refuse(path, "", table, (*sections, "schemes"))
    for name, section in sections.items():
        if isinstance(content := table.get(name), Mapping):
            _refuse(path, f"[{name}] ", content, section.__struct_fields__)


def _refuse(path: Path, where: str, table: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in table:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            fix = f"did you mean '{close[0]}'?" if close else f"remove it; known keys: {', '.join(known)}"
            raise RecipeError(f"the recipe {path} has an unknown key {where}'{key}'", fix=fix)


def check(path: Path, recipe: Recipe) -> None:
    """Check what types cannot say.

    Raises:
        RecipeError: if a value is out of range or a target is unknown.
    """
    search, wanted = recipe.search, recipe.compile
    if not (math.isfinite(search.max_drop) and 0 <= search.max_drop < 1):
        raise RecipeError(
            f"[search] max_drop in {path}", got=search.max_drop, expected="a fraction from 0 to 1 (0.01 is one point)"
        )
    if search.max_fusion_passes < 1:
        raise RecipeError(f"[search] max_fusion_passes in {path}", got=search.max_fusion_passes, expected="at least 1")
    if wanted.threads < 1:
        raise RecipeError(f"[compile] threads in {path}", got=wanted.threads, expected="at least 1")
    known = registry.names("targets")
    for target in wanted.targets:
        if target not in known:
            raise RecipeError(f"[compile] targets in {path}", got=repr(target), expected=" or ".join(known))
    if not wanted.targets or len(set(wanted.targets)) != len(wanted.targets):
        raise RecipeError(f"[compile] targets in {path}", got=list(wanted.targets), expected="each target once")


def call_factory(recipe_path: Path, reference: str) -> Any:
    """Import `module:callable` (the recipe's folder is searched first) and return what the callable returns.

    Raises:
        RecipeError: if it cannot be imported or called.
    """
    module_name, _, attribute = reference.partition(":")
    if not module_name or not attribute.isidentifier():
        raise RecipeError(f"a factory in {recipe_path}", got=repr(reference), expected="'module:callable'")
    folder = str(recipe_path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except ImportError as error:
        raise RecipeError(
            f"cannot import the factory '{reference}' of {recipe_path}",
            got=str(error),
            fix=f"put the module beside the recipe ({folder}) or install it",
        ) from error
    except AttributeError as error:
        raise RecipeError(
            f"the module '{module_name}' has no '{attribute}'", fix="correct the factory in the recipe"
        ) from error
    if not callable(factory):
        raise RecipeError(f"the factory '{reference}'", got=type(factory).__name__, expected="a callable")
    return factory()
