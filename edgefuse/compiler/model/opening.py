"""From a recipe to a model taken apart: built, given its weights, and checked against the limits of a bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import msgspec
from torch import nn

from edgefuse.bundle.decoders import check_decoders
from edgefuse.bundle.layout import twice
from edgefuse.bundle.spec import ModelSpec, in_files, subset_name
from edgefuse.bundle.wiring import check_model, check_stages
from edgefuse.compiler.metrics.named import metrics_of
from edgefuse.compiler.model.given import Given
from edgefuse.compiler.model.observation import input_values
from edgefuse.compiler.model.subject import Model
from edgefuse.compiler.model.weights import load_weights
from edgefuse.compiler.recipe import max_drop
from edgefuse.compiler.recipe.factory import call_factory
from edgefuse.compiler.recipe.recipe import Recipe
from edgefuse.datasets.sample import Splits
from edgefuse.errors import BundleError, DataError, ModelError, RecipeError
from edgefuse.files import read_regular, reason
from edgefuse.models import pretrained
from edgefuse.stages.explicit import check_spec
from edgefuse.stages.found import Found, find
from edgefuse.stages.stage import InputValues
from edgefuse.stages.streaming import streams_of

Search: TypeAlias = Callable[[Sequence[InputValues]], Found]
"""Takes a model apart, knowing what its inputs look like."""

_MAX_ASSET_BYTES = 1 << 28
"""Of a file that travels in a bundle: a tokenizer, a list of labels."""


def take_apart(path: Path, recipe: Recipe, given: Given | None = None) -> Model:
    """Build the model that a recipe names and take it apart.

    What its inputs look like is seen in the first calibration samples, as far as they can be read: what is wrong with
    data is told when all of them are.

    Args:
        path: of the recipe.
        recipe: what is asked for.
        given: the model and its data, in place of the recipe's factories.

    Raises:
        RecipeError, ModelError: recipe and model do not fit together.
        RecipeError, DataError: the factory of the data fails, or returns something else.
    """
    described, brought, search = _opened(path, recipe, given)
    check_spec(described)
    assets = _read_assets(path, recipe, brought)
    data = given.data if given else _made_data(path, recipe)
    found = search(input_values(in_files(described), assets, data))
    _check_wiring(found)
    _check_names(path, recipe, found)
    streams_of(found.stages)  # a step that does not keep its promise is told now
    metrics = metrics_of(found.spec, path.resolve().parent)
    first = next(iter(metrics.values())).name
    found = replace(found, spec=msgspec.structs.replace(found.spec, metric=first))
    allowed = max_drop.read_for(path, recipe.search.max_drop, {name: one.name for name, one in metrics.items()})
    return Model(recipe, found, metrics, assets, path, data, allowed)


def _opened(path: Path, recipe: Recipe, given: Given | None) -> tuple[ModelSpec, Mapping[str, bytes], Search]:
    """Return the spec of the model that a recipe names, the assets that it brings, and what takes it apart."""
    if recipe.model.onnx:
        from edgefuse.compiler.model.onnx_file import open_onnx  # which takes tools that a torch module does not need
        from edgefuse.stages.onnx import find as find_in_onnx

        onnx = open_onnx(path, recipe)
        return onnx.spec, {}, lambda values: find_in_onnx(onnx.file, onnx.spec, values, onnx.names)
    module, spec = _build_model(path, recipe, given)
    return spec, getattr(module, "assets", {}), lambda values: find(module, spec, values)


def _made_data(path: Path, recipe: Recipe) -> Splits:
    """Return the data that a recipe names, whatever is wrong with its splits."""
    factory = recipe.data.factory
    data = call_factory(path, factory)
    if not isinstance(data, Splits):
        raise DataError(
            f"the factory '{factory}' returns no data", got=type(data).__name__, expected="edgefuse.datasets.Splits"
        )
    return data


def _build_model(path: Path, recipe: Recipe, given: Given | None) -> tuple[nn.Module, ModelSpec]:
    """Return what the factory builds, or what is at hand, with its weights; or what a folder holds."""
    if recipe.model.pretrained:
        return pretrained.build(path.parent / recipe.model.pretrained)
    factory = recipe.model.factory
    made = (given.module, given.spec) if given else call_factory(path, factory)
    model, spec = described(factory, made)
    if recipe.model.weights is not None:
        load_weights(model, path.parent / recipe.model.weights)
    return model.eval(), spec


def described(factory: str, made: object) -> tuple[nn.Module, ModelSpec]:
    """Return the module and the spec that a factory made: a module with a `spec`, or both as a pair.

    Args:
        factory: its name.
        made: what it returned.

    Raises:
        ModelError: if it is neither.
    """
    model, spec = made if isinstance(made, tuple) and len(made) == 2 else (made, getattr(made, "spec", None))
    if not isinstance(model, nn.Module) or not isinstance(spec, ModelSpec):
        raise ModelError(
            f"the factory '{factory}' returns no model that can be compiled",
            got=", ".join(type(part).__name__ for part in (made if isinstance(made, tuple) else (made,))),
            expected="a torch module with a ModelSpec as its attribute 'spec', or the pair (module, spec)",
        )
    return model, spec


def _check_wiring(found: Found) -> None:
    """Refuse now what no bundle could hold later."""
    try:
        check_model(found.spec)
        check_stages(found.spec, [stage.spec for stage in found.stages])
        check_decoders(found.spec, [stage.spec for stage in found.stages])
    except BundleError as error:
        raise ModelError(f"the model '{found.spec.name}' does not fit into a bundle: {error}") from error


def _check_names(path: Path, recipe: Recipe, found: Found) -> None:
    subsets = [subset_name(subset) for subset in found.spec.subsets()]
    for name in recipe.search.subsets:
        if name not in subsets:
            raise RecipeError(
                f"[search] subsets in {path} names an unknown subset", got=repr(name), expected=" or ".join(subsets)
            )
    known = [stage.spec.name for stage in found.stages]
    for name in recipe.schemes:
        if name not in known:
            raise RecipeError(
                f"[schemes] in {path} names an unknown stage", got=repr(name), expected=" or ".join(known)
            )
    trained = [stage.spec.name for stage in found.stages if stage.spec.role != "frontend"]
    for name in (name for variant in recipe.prune.variants for name in variant.stages):
        if name not in trained:
            raise RecipeError(
                f"[[prune.variants]] in {path} names an unknown stage or a frontend",
                got=repr(name),
                expected=" or ".join(trained),
            )


def _read_assets(path: Path, recipe: Recipe, brought: Mapping[str, bytes]) -> dict[str, bytes]:
    assets = dict(brought)
    if name := twice(Path(name).name for name in recipe.model.assets):
        raise RecipeError(f"two assets of {path} have one name", got=repr(name), expected="names that differ")
    for name in recipe.model.assets:
        try:
            assets[Path(name).name] = read_regular(path.parent / name, _MAX_ASSET_BYTES)
        except (OSError, ValueError) as error:  # ValueError: a name with a null character
            raise RecipeError(f"cannot read the asset '{name}' of {path}", got=reason(error)) from error
    return assets
