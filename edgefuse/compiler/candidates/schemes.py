"""Which schemes to try on a stage."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence

import msgspec

from edgefuse import registry
from edgefuse.bundle.scheme import Scheme
from edgefuse.bundle.spec import StageSpec
from edgefuse.compiler.candidates.built import FLOAT
from edgefuse.compiler.recipe.recipe import Recipe
from edgefuse.compiler.search.figures import Objective
from edgefuse.errors import RecipeError
from edgefuse.quantize.quantizer import Quantizer
from edgefuse.quantize.schemes import INT4, INT4_TABLE

_RANGES = re.compile(r"^(?!dynamic_).*_ai[0-9]")
"""Names of schemes that quantize activations, and not by what each run sees: see `edgefuse.bundle.scheme`."""


def check_schemes(recipe: Recipe, stages: Sequence[StageSpec]) -> None:
    """Refuse a recipe that names schemes which a target does not know.

    Raises:
        RecipeError: naming the stage and the closest scheme that there is.
    """
    for target in recipe.compile.members if recipe.schemes else ():
        quantizer: Quantizer = registry.create("quantizers", target)
        for stage in stages:
            wanted_schemes(quantizer, stage, recipe.search.objective, recipe.schemes, recipe.compile.device)


def wanted_schemes(
    quantizer: Quantizer,
    stage: StageSpec,
    objective: Objective,
    asked: Mapping[str, tuple[str, ...]],
    device: str = "host",
) -> tuple[Scheme, ...]:
    """Return the schemes to try on a stage: what the quantizer offers for a device, or those that the recipe names.

    Args:
        quantizer: of the target.
        stage: to be quantized.
        objective: of the recipe.
        asked: the recipe's `[schemes]`: ids by stage.
        device: the recipe's `[compile] device`.

    Raises:
        RecipeError: if the recipe names a scheme that the quantizer does not know.
    """
    offered = quantizer.schemes(stage)
    if device == "arm64":
        offered = _signed(offered)
    if offered and objective == "size":
        narrow = (INT4_TABLE, INT4) if _looks_up(stage) else (INT4,)
        offered = (*offered, *(scheme for scheme in narrow if scheme in quantizer.known()))
    if stage.name not in asked:
        return offered
    by_id = {scheme.id: scheme for scheme in (*quantizer.known(), *offered)} if offered else {}
    for name in asked[stage.name]:
        if name != FLOAT.id and name not in by_id:
            close = difflib.get_close_matches(name, by_id, n=1)
            raise RecipeError(
                f"[schemes] {stage.name} names a scheme that cannot be applied",
                got=repr(name),
                expected=" or ".join([FLOAT.id, *(scheme.id for scheme in offered)]),
                fix=f"did you mean '{close[0]}'?" if close else None,
            )
    return tuple(by_id[name] for name in asked[stage.name] if name in by_id)


def calibrated(scheme: Scheme) -> bool:
    """Tell whether a scheme is found by calibration samples: by ranges of activations, or by what weights meet."""
    return bool(_RANGES.search(scheme.name)) or scheme.balanced or scheme.fitted or scheme.corrected


def _looks_up(stage: StageSpec) -> bool:
    """Say whether a stage takes ids, which it then looks up in a table."""
    return any(port.source.kind == "modality" and port.tensor.dtype == "int32" for port in stage.inputs)


def _signed(schemes: Sequence[Scheme]) -> tuple[Scheme, ...]:
    """Return schemes with signed activations in place of unsigned ones: what Arm's dot products multiply."""
    signed = (msgspec.structs.replace(s, activation="s8") if s.activation == "u8" else s for s in schemes)
    return tuple(dict.fromkeys(signed))
