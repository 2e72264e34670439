"""What is compiled: a model taken apart, its assets, and its data made ready once and kept on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import safetensors.torch
from safetensors import SafetensorError
from torch import nn

from edgefuse import registry
from edgefuse.bundle.manifest import Provenance, Pruning
from edgefuse.bundle.spec import ModelSpec, StageSpec, subset_name
from edgefuse.bundle.wiring import check_model, check_stages
from edgefuse.compiler.cache import fingerprint
from edgefuse.compiler.cache.cache import Cache
from edgefuse.compiler.candidates.toolchain import wanted_schemes
from edgefuse.compiler.model.data_checks import check_data
from edgefuse.compiler.model.splits import SPLITS, TRAIN, SplitData, load_split
from edgefuse.compiler.recipe.factory import call_factory
from edgefuse.compiler.recipe.recipe import Recipe
from edgefuse.datasets.sample import Splits
from edgefuse.errors import BundleError, DataError, ModelError, RecipeError
from edgefuse.measure.metrics import Metric
from edgefuse.models.fusion import FusionModel
from edgefuse.progress import Progress
from edgefuse.prune.training import Epoch
from edgefuse.quantize.quantizer import Quantizer
from edgefuse.runtime.graph import absent_values
from edgefuse.stages.explicit import split
from edgefuse.stages.stage import TorchStage

Array: TypeAlias = npt.NDArray[np.generic]

TUNING = "tuning"


@dataclass(frozen=True)
class Recovery:
    """How pruned stages came back: one, or several that were trained together; the curve from before recovery on."""

    stages: tuple[str, ...]
    pruning: Pruning
    epochs: tuple[Epoch, ...]


@dataclass(frozen=True)
class Subject:
    """A model under compilation.

    `splits` has the three that every compile reads, `train` where stages are to be pruned and recover, and `tuning` (or
    `train`, if the data have none) where stages are to be trained on through their rounding. `variants`
    are the pruned forms of a stage, by its name: other modules behind the same interface; `recoveries` tells how they
    came to be. Stages whose interfaces were narrowed are a subject of their own; its `reference` is the subject that
    they come from, which accuracy and speed are held against.
    """

    recipe: Recipe
    model: nn.Module
    spec: ModelSpec
    stages: tuple[TorchStage, ...]
    assets: Mapping[str, bytes]
    splits: Mapping[str, SplitData]
    subsets: tuple[tuple[str, ...], ...]
    provenance: Provenance
    variants: Mapping[str, tuple[TorchStage, ...]] = field(default_factory=dict)
    recoveries: tuple[Recovery, ...] = ()
    reference: Subject | None = None

    def forms(self, name: str) -> tuple[TorchStage, ...]:
        """Return all forms of a stage, the unpruned one first."""
        unpruned = next(stage for stage in self.stages if stage.spec.name == name)
        return (unpruned, *self.variants.get(name, ()))

    def form(self, stage: str, pruning: Pruning | None) -> TorchStage:
        """Return the form of a stage that was pruned so, or not at all."""
        return next(form for form in self.forms(stage) if form.pruning == pruning)

    @property
    def specs(self) -> tuple[StageSpec, ...]:
        """The wiring."""
        return tuple(stage.spec for stage in self.stages)

    @property
    def value_keys(self) -> tuple[str, ...]:
        """The keys of the preprocessed tensors and lengths, as `Source.key` spells them."""
        return tuple(absent_values(self.spec.modalities))

    def columns(self, subset: tuple[str, ...]) -> list[int]:
        """Return the columns of `present` that a subset fills."""
        return [i for i, modality in enumerate(self.spec.modalities) if modality.name in subset]

    @property
    def budget_subsets(self) -> tuple[str, ...]:
        """The names of the subsets that the budget binds."""
        return self.recipe.search.subsets or tuple(subset_name(subset) for subset in self.subsets)


def prepare(path: Path, recipe: Recipe, cache: Cache, progress: Progress) -> Subject:
    """Build the model, take it apart, and preprocess its data (or find it in the cache).

    Raises:
        RecipeError, ModelError, DataError, MeasureError: what the user gave does not fit together.
    """
    model = _build_model(path, recipe)
    spec: ModelSpec = model.spec  # type: ignore[assignment]
    stages = split(model)
    _check_wiring(spec, stages)
    _check_names(path, recipe, spec, stages)
    if recipe.prune.narrow is not None and not isinstance(model, FusionModel):
        raise RecipeError(
            f"[prune] narrow in {path} needs a model with interfaces to narrow",
            got=type(model).__name__,
            expected="an edgefuse FusionModel",
            fix="leave it out, or build the model from encoders and a fusion module",
        )
    Metric(spec.metric)  # refuses a name that it does not know
    assets = _read_assets(path, recipe, model)
    data = call_factory(path, recipe.data.factory)
    _check_splits(path, recipe, data)
    splits = {name: load_split(name, data, spec, assets, cache, progress) for name in _wanted(recipe, data)}
    provenance = Provenance(
        weights_sha256=fingerprint.of_module(model),
        data_sha256=fingerprint.of_bytes("".join(part.digest for part in splits.values()).encode()),
        recipe_sha256=fingerprint.of_bytes(path.read_bytes()),
        tools={},
    )
    subject = Subject(recipe, model, spec, stages, assets, splits, spec.subsets(), provenance)
    check_data(subject)
    return subject


def _wanted(recipe: Recipe, data: Splits) -> tuple[str, ...]:
    tuning = (TUNING if len(data.tuning) else TRAIN,) if recipe.quantize.aware else ()
    return tuple(dict.fromkeys((*SPLITS, *((TRAIN,) if recipe.prune.wanted else ()), *tuning)))


def _build_model(path: Path, recipe: Recipe) -> nn.Module:
    model = call_factory(path, recipe.model.factory)
    if not isinstance(model, nn.Module) or not isinstance(getattr(model, "spec", None), ModelSpec):
        raise ModelError(
            f"what '{recipe.model.factory}' returns cannot be compiled",
            got=type(model).__name__,
            expected="a torch module with a ModelSpec as its attribute 'spec' (edgefuse.models.FusionModel has one)",
        )
    if recipe.model.weights is not None:
        _load_weights(model, path.parent / recipe.model.weights)
    return model.eval()


def _load_weights(model: nn.Module, path: Path) -> None:
    try:
        model.load_state_dict(safetensors.torch.load_file(path))
    except FileNotFoundError as error:
        raise RecipeError(
            "the weights of the recipe are missing", got=f"no file {path}", fix="correct [model] weights"
        ) from error
    except (SafetensorError, RuntimeError) as error:
        raise RecipeError(f"the weights {path} do not fit the model", got=str(error).replace("\n", " ")) from error


def _check_wiring(spec: ModelSpec, stages: tuple[TorchStage, ...]) -> None:
    """Refuse now what no bundle could hold later."""
    try:
        check_model(spec)
        check_stages(spec, [stage.spec for stage in stages])
    except BundleError as error:
        raise ModelError(f"the model '{spec.name}' does not fit into a bundle: {error}") from error


def _check_names(path: Path, recipe: Recipe, spec: ModelSpec, stages: tuple[TorchStage, ...]) -> None:
    subsets = [subset_name(subset) for subset in spec.subsets()]
    for name in recipe.search.subsets:
        if name not in subsets:
            raise RecipeError(f"[search] subsets in {path}", got=repr(name), expected=" or ".join(subsets))
    known = [stage.spec.name for stage in stages]
    for name in recipe.schemes:
        if name not in known:
            raise RecipeError(f"[schemes] in {path}", got=repr(name), expected=" or ".join(known))
    for target in recipe.compile.targets if recipe.schemes else ():
        quantizer: Quantizer = registry.create("quantizers", target)
        for stage in stages:
            wanted_schemes(quantizer, stage.spec, recipe.search.objective, recipe.schemes, recipe.compile.device)
    trained = [stage.spec.name for stage in stages if stage.spec.role != "frontend"]
    asked = [("under [[prune.variants]]", name) for variant in recipe.prune.variants for name in variant.stages]
    for where, name in (*asked, *(("under [quantize] aware", name) for name in recipe.quantize.aware)):
        if name not in trained:
            raise RecipeError(f"a stage {where} in {path}", got=repr(name), expected=" or ".join(trained))


def _read_assets(path: Path, recipe: Recipe, model: nn.Module) -> dict[str, bytes]:
    assets: dict[str, bytes] = dict(getattr(model, "assets", {}))
    for name in recipe.model.assets:
        try:
            assets[Path(name).name] = (path.parent / name).read_bytes()
        except OSError as error:
            raise RecipeError(f"cannot read the asset '{name}' of {path}", got=error.strerror) from error
    return assets


def _check_splits(path: Path, recipe: Recipe, data: Any) -> None:
    if not isinstance(data, Splits):
        raise DataError(
            f"what '{recipe.data.factory}' returns", got=type(data).__name__, expected="edgefuse.datasets.Splits"
        )
    for name in SPLITS:
        if len(getattr(data, name)) == 0:
            raise DataError(f"the split '{name}' of '{recipe.data.factory}' is empty", expected="at least one sample")
    if recipe.prune.wanted and len(data.train) == 0:
        raise DataError(
            f"the recipe {path} prunes, but '{recipe.data.factory}' gives no training samples",
            got="an empty `train` in its Splits",
            expected="samples to recover on (labels are not used)",
            fix="fill Splits.train, or leave [prune] out",
        )
    if recipe.quantize.aware and not (len(data.tuning) or len(data.train)):
        raise DataError(
            f"[quantize] aware in {path}, but '{recipe.data.factory}' gives nothing to train on",
            got="an empty `tuning` and an empty `train` in its Splits",
            expected="samples that look like deployed ones (labels are not used)",
            fix="fill Splits.tuning, or leave aware out",
        )
