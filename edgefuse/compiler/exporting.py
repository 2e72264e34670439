"""`edgefuse.export`: a bundle with schemes that are named, in seconds, by a compile's own steps.

    take apart → lower in float, hold to torch → calibrate and quantize what has a scheme, hold to torch → bundle

Nothing is pruned, searched, judged or timed, and no label is read: what was not measured is absent from the bundle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import msgspec
from torch import nn

from edgefuse.bundle.manifest import Rung, members
from edgefuse.bundle.scheme import Scheme
from edgefuse.bundle.spec import ModelSpec, StageSpec
from edgefuse.bundle.writer import write_bundle
from edgefuse.compiler import forkserver
from edgefuse.compiler import workers as worker_kinds
from edgefuse.compiler.candidates.build import Builder
from edgefuse.compiler.candidates.built import FLOAT, candidate_id
from edgefuse.compiler.candidates.golden import GoldenRow, golden_inputs
from edgefuse.compiler.candidates.schemes import calibrated, wanted_schemes
from edgefuse.compiler.candidates.target_data import Material, TargetData
from edgefuse.compiler.candidates.toolchain import Toolchain
from edgefuse.compiler.check.batches import mixing
from edgefuse.compiler.model.calibration import calibration_of
from edgefuse.compiler.model.given import Given, given, is_of_model
from edgefuse.compiler.model.opening import take_apart
from edgefuse.compiler.model.preparation import prepare_calibration
from edgefuse.compiler.model.subject import Model
from edgefuse.compiler.recipe.keywords import call_of, recipe_of
from edgefuse.compiler.recipe.recipe import Recipe
from edgefuse.compiler.recipe.wanted import recipe_for
from edgefuse.compiler.recovery.forms import Forms
from edgefuse.compiler.rungs.assemble import Assembly
from edgefuse.compiler.search import Combination
from edgefuse.compiler.workers import Workers, in_one_thread
from edgefuse.datasets.cache import Cache, open_cache
from edgefuse.datasets.cache import cache_folder as default_folder
from edgefuse.datasets.sample import Sample
from edgefuse.errors import CheckError, DataError, QuantizeError, RecipeError, shown
from edgefuse.progress import Progress, silent
from edgefuse.stages.examples import masks_of

RUNG = "fixed"
"""The name of the one rung."""

_CALL = call_of("export")


@dataclass(frozen=True)
class ExportResult:
    """The result of an export.

    Attributes:
        bundle: where it was written.
        digest: of the bundle, which `edgefuse.load(bundle, digest=…)` pins.
        golden: how the file of each stage did against torch on generated inputs, in the order of the stages.
    """

    bundle: Path
    digest: str
    golden: tuple[GoldenRow, ...]

    @property
    def summary(self) -> str:
        """The same for people."""
        rows = [f"  {row.candidate}: {_spelled(row)}" for row in self.golden]
        return "\n".join([f"{self.bundle}: digest {self.digest}", "against torch on generated inputs:", *rows])


def _spelled(row: GoldenRow) -> str:
    return "equal" if row.snr_db is None else f"{row.snr_db:.1f} dB, largest error {row.max_abs_error:.2g}"


@overload
def export(
    model: nn.Module,
    spec: ModelSpec,
    target: str,
    *,
    out: Path | str,
    schemes: Mapping[str, str] | None = None,
    calibration: Sequence[Sample | Mapping[str, Any]] = (),
    assets: Sequence[str] = (),
    cache: Path | str | None = None,
    progress: Progress = silent,
) -> ExportResult: ...


@overload
def export(
    recipe: Path | str,
    target: str,
    *,
    out: Path | str,
    schemes: Mapping[str, str] | None = None,
    cache: Path | str | None = None,
    progress: Progress = silent,
) -> ExportResult: ...


def export(*subject: Any, **keywords: Any) -> ExportResult:
    """Make a bundle whose stages have the schemes that are named, held to torch; nothing is searched or timed.

    `export(model, spec, target, out=…)` takes a torch module, which stays as it is, and what it takes and gives;
    `export(recipe, target, out=…)` takes the model and the calibration samples of a TOML file. The files are those that
    a compile makes of the same.

    Args:
        subject: `model`, `spec` and `target`; or `recipe` and `target`.
        keywords: of both forms: `out`, the bundle: an archive if it ends with `.edgefuse`, else a folder; `schemes`, by
            stage, as `{"image_encoder": "static_wi8_ai8.u8"}`, float where none is named; `cache`, a folder, by default
            the user's; `progress`, which is told what is going on. Of the first form: `calibration`, a sequence of
            samples or of their inputs by modality, of which no label is read, for static schemes; `assets`, files that
            preprocessing needs.

    Raises:
        RecipeError, ModelError, DataError: what the user gave is wrong, or a static scheme has no samples.
        ExportError: the target cannot lower a stage.
        QuantizeError: a scheme cannot be applied to a stage.
        CheckError, BackendError: a file does not answer like torch, or its runtime does not take it.
        BundleError, CacheError: the bundle, or the cache, cannot be written.
    """
    return (_of_model if is_of_model(subject, keywords) else _of_recipe)(*subject, **keywords)


def _of_model(
    model: nn.Module,
    spec: ModelSpec,
    target: str,
    *,
    calibration: Sequence[Any] = (),
    assets: Sequence[str] = (),
    **settings: Any,
) -> ExportResult:
    recipe = recipe_of(_CALL, {"targets": [target], "assets": assets})
    at_hand = given(_CALL, model, spec, calibration_of(_CALL, calibration, spec))
    return _exported(_CALL, recipe, at_hand, **settings)


def _of_recipe(recipe: Path | str, target: str, **settings: Any) -> ExportResult:
    path = Path(recipe)
    return _exported(path, recipe_for(path, [target]), None, **settings)


@in_one_thread()
def _exported(
    path: Path,
    recipe: Recipe,
    at_hand: Given | None,
    *,
    out: Path | str,
    schemes: Mapping[str, str] | None = None,
    cache: Path | str | None = None,
    progress: Progress = silent,
) -> ExportResult:
    forkserver.leave_imported_script()
    bundle, schemes = Path(out), schemes or {}
    store = open_cache(Path(cache) if cache else default_folder())
    target = recipe.compile.targets[0]
    _check_asked(target, schemes)
    named = {stage: (scheme,) for stage, scheme in schemes.items()}
    progress(0, 0, "take the model apart")
    model = take_apart(path, msgspec.structs.replace(recipe, schemes=named), at_hand)
    chosen = _chosen(model, target, store)
    fixed = {stage: (scheme.id,) for stage, scheme in chosen.items()}
    model = replace(model, recipe=msgspec.structs.replace(model.recipe, schemes=fixed))
    with worker_kinds.create("local", worker_kinds.Settings(shared=store.folder, progress=progress)) as workers:
        data = _built(model, target, store, workers, progress)
    combination = {stage: _made(data, stage, scheme) for stage, scheme in chosen.items()}
    rung = _rung(data, combination)
    assembly = Assembly(data, {rung.name: combination}).streaming()
    digest = write_bundle(bundle, assembly.manifest([rung]), assembly.contents([rung]))
    checked = data.candidates.checked
    return ExportResult(bundle, digest, tuple(checked[candidate].row for candidate in combination.values()))


def _check_asked(target: str, schemes: object) -> None:
    """Refuse a target that joins several, and schemes that are not one text per stage."""
    if len(members(target)) > 1:
        raise RecipeError(
            "an export is for one target",
            got=repr(target),
            expected=" or ".join(members(target)),
            fix="export once for each of them",
        )
    if not isinstance(schemes, Mapping) or not all(isinstance(word, str) for pair in schemes.items() for word in pair):
        raise RecipeError(
            "the schemes of an export are not one by stage",
            got=shown(repr(schemes)),
            expected="as {'image_encoder': 'static_wi8_ai8.u8'}",
        )


def _chosen(model: Model, target: str, cache: Cache) -> dict[str, Scheme]:
    """Return the scheme of every stage.

    Raises:
        RecipeError: if the target does not have one of them.
        DataError: if one needs calibration samples, and there are none.
    """
    recipe, quantizer = model.recipe, Toolchain.of(target, cache).quantizer
    chosen: dict[str, Scheme] = {}
    for stage in (stage.spec for stage in model.stages):
        asked = {stage.name: recipe.schemes.get(stage.name, (FLOAT.id,))}
        found = wanted_schemes(quantizer, stage, recipe.search.objective, asked, recipe.compile.device)
        chosen[stage.name] = found[0] if found else FLOAT
    for name, scheme in chosen.items():
        if calibrated(scheme) and not len(model.data.calibration):
            raise DataError(
                f"the scheme '{scheme.id}' of '{name}' needs calibration samples",
                got="none",
                expected="samples, or their inputs by modality; labels are not read",
                fix="give some as calibration=[…], or name a dynamic scheme",
            )
    return chosen


def _built(model: Model, target: str, cache: Cache, workers: Workers, progress: Progress) -> TargetData:
    """Make the files, and hold them to torch; the first error that concerns them all is raised."""
    faults = mixing(model.stages, masks_of(model.spec), [modality.name for modality in model.spec.modalities])
    for fault in faults.values():
        raise fault
    golden = golden_inputs(model.stages, model.spec)
    builder = Builder([target], cache, workers)
    builder.lower(model.stages, golden)
    _require(builder, target)
    subject = prepare_calibration(model, cache, progress)
    material = Material(subject, Forms(subject.stages), golden, cache)
    builder.build(material, judged=False)
    _require(builder, target)
    return TargetData(material, builder.live[target])


def _require(builder: Builder, target: str) -> None:
    if target in builder.failed:
        raise builder.failed[target]


def _made(data: TargetData, stage: str, scheme: Scheme) -> str:
    """Return the candidate of a stage in a scheme, or raise why there is none."""
    made = data.candidates
    name = candidate_id(stage, None, scheme)
    if name in made.by_id:
        return name
    why, _, fix = made.refused.get(name, "it was not made").partition(" Fix: ")
    kind = CheckError if name in made.checked else QuantizeError
    what = f"{made.target}: '{stage}' cannot be exported as {scheme.id}: {why.rstrip('.')}"
    raise kind(what, fix=fix or "name another scheme for it")


def _rung(data: TargetData, combination: Combination) -> Rung:
    """Return the rung, with the size of its stage files, frontends apart; nothing else of it is known."""
    roles: dict[str, StageSpec] = {stage.name: stage for stage in data.material.subject.specs}
    built = [data.candidates.by_id[name] for name in combination.values()]
    sizes = {one.sha256: one.size_bytes for one in built if roles[one.stage].role != "frontend"}
    return Rung(
        name=RUNG,
        objective="float" if all(one.is_float for one in built) else "fixed",
        candidates=dict(combination),
        accuracy={},
        drop_ci95={},
        within_budget=None,
        size_bytes=sum(sizes.values()),
    )
