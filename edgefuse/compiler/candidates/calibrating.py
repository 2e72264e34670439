"""What schemes are applied to: the float files of a target, and what calibrates those of each stage.

A stage is calibrated by what the candidates of the stages before it really give.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import partial

from edgefuse.bundle.scheme import Scheme
from edgefuse.bundle.spec import StageSpec
from edgefuse.compiler.candidates.built import Built
from edgefuse.compiler.candidates.schemes import wanted_schemes
from edgefuse.compiler.candidates.target_data import TargetData
from edgefuse.compiler.candidates.toolchain import Calibration, Quantizable
from edgefuse.compiler.evaluation.evaluator import is_leaf, leaves_of
from edgefuse.compiler.evaluation.runners import Runner


def stages_of(specs: Sequence[StageSpec]) -> list[list[StageSpec]]:
    """Return the stages in groups that depend on earlier groups alone: the leaves, then each other stage by itself."""
    return [[spec for spec in specs if is_leaf(spec)], *([spec] for spec in specs if not is_leaf(spec))]


def pairs(data: TargetData, stage: StageSpec) -> list[tuple[Built, Scheme]]:
    """Return what may be tried on a stage: its float files, each with every scheme."""
    recipe, files = data.material.subject.recipe, data.candidates.built[stage.name]
    wanted = recipe.search.objective, recipe.schemes, recipe.compile.device
    return list(itertools.product(files, wanted_schemes(data.tools(files[0]).quantizer, stage, *wanted)))


def quantizable(data: TargetData, stage: StageSpec, source: Built) -> Quantizable:
    """Return what schemes are applied to.

    Args:
        data: of the target.
        stage: of the file.
        source: the float file.
    """
    subject, floats = data.material.subject, data.floats()
    combinations = [floats] if is_leaf(stage) else _combinations(data)
    leaves = [spec.name for spec in subject.specs if is_leaf(spec)]
    runs = [[combination[name].identity for name in leaves] for combination in combinations]
    feeds = partial(data.evaluator("calibration").calibration_feeds, stage, combinations, floats)
    calibration = Calibration(feeds, [subject.splits["calibration"].digest, stage.name, runs])
    return Quantizable(data.material.forms.form(stage.name, source.pruning), source, calibration)


def chains(data: TargetData, stage: StageSpec) -> list[tuple[StageSpec, Mapping[str, Runner]]]:
    """Return the leaves that a stage is calibrated behind, each of their candidates once, with what runs it."""
    if is_leaf(stage):
        return []
    found = data.evaluator("calibration").calibration_chains(_combinations(data))
    own = partial(leaves_of, data.material.subject.specs)
    return list({(leaf.name, *(chain[o].identity for o in own(leaf))): (leaf, chain) for leaf, chain in found}.values())


def _combinations(data: TargetData) -> list[dict[str, Runner]]:
    """Return combinations in which every candidate of every leaf stage appears."""
    leaves = {s.name: data.candidates.built[s.name] for s in data.material.subject.specs if is_leaf(s)}
    count = max((len(built) for built in leaves.values()), default=1)
    floats = data.floats()
    return [
        floats | {name: data.runner(built[number % len(built)]) for name, built in leaves.items()}
        for number in range(count)
    ]
