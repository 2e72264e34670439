"""The prunings that a recipe asks for: each can be made, and has a name of its own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from edgefuse import registry
from edgefuse.bundle.manifest import Pruning, PruningStep
from edgefuse.errors import RecipeError


def check_variants(path: Path, variants: Iterable[tuple[Sequence[str], tuple[PruningStep, ...]]]) -> None:
    """Check the entries of [[prune.variants]], each with its stages and its steps.

    Raises:
        RecipeError: if one is incomplete, or two of a stage have one name.
    """
    named: dict[tuple[str, str], tuple[PruningStep, ...]] = {}
    for stages, steps in variants:
        if not steps or not stages:
            raise RecipeError(
                f"an entry of [[prune.variants]] in {path} is incomplete", got="no stages or no steps", expected="both"
            )
        for step in steps:
            _check_step(path, step)
        name = Pruning(steps=steps).id
        for stage in stages:
            if (stage, name) in named:
                raise _same_name(path, stage, name, named[stage, name], steps)
            named[stage, name] = steps


def _same_name(
    path: Path, stage: str, name: str, one: tuple[PruningStep, ...], other: tuple[PruningStep, ...]
) -> RecipeError:
    """Return the error for two prunings of a stage that files and reports could not tell apart."""
    spelled = [", ".join(f"{step.method} {step.ratio:g} {step.importance}".strip() for step in s) for s in (one, other)]
    return RecipeError(
        f"two prunings of '{stage}' under [[prune.variants]] in {path} have the same name '{name}'",
        got=f"{spelled[0]} and {spelled[1]}" if spelled[0] != spelled[1] else f"{spelled[0]} twice",
        expected="steps that differ in the method, the options or the ratio in whole percent",
        fix="leave one of them out, or change a ratio by a percent",
    )


def _check_step(path: Path, step: PruningStep) -> None:
    pruners = registry.names("pruners")
    if step.method not in pruners:
        raise RecipeError(
            f"an entry of [[prune.variants]] in {path} names an unknown method",
            got=repr(step.method),
            expected=" or ".join(pruners),
        )
    if not (math.isfinite(step.ratio) and 0 <= step.ratio < 1):
        raise RecipeError(
            f"the ratio of '{step.method}' under [[prune.variants]] in {path} is out of range",
            got=step.ratio,
            expected="the fraction to remove, from 0 to less than 1",
        )
