"""The budget of a recipe in numbers: what the reference reaches decides what a share of it is."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgefuse.compiler.evaluation.drops import Judgement, judgements
from edgefuse.compiler.evaluation.evaluator import Answers
from edgefuse.compiler.metrics.metric import Metric
from edgefuse.compiler.model.budget import Budget
from edgefuse.compiler.model.subject import Subject
from edgefuse.compiler.recipe.max_drop import MaxDrop
from edgefuse.errors import RecipeError

logger = logging.getLogger(__name__)

SPLITS = ("validation", "test")
"""The splits that drops are measured on."""

_FLOAT32 = 1e-6
"""Of a value: what float32 leaves open after some sums."""

_HARDLY_ANYTHING = 1e-3
"""Of what the reference reaches: quantized models lose more."""


def budget(subject: Subject, asked: Mapping[str, MaxDrop], answers: Mapping[str, Answers]) -> Budget:
    """Return the budget in numbers, by split, output and subset.

    Args:
        subject: the model and its data.
        asked: what the recipe allows to be lost, by output.
        answers: of the reference, by split.

    Raises:
        RecipeError: if it is a share of nothing.
    """
    reached: dict[str, list[_Reached]] = {output: [] for output in subject.judged if subject.bound_keys_of(output)}
    for split in SPLITS:
        for key, one in judgements(subject, split).items():
            value = one.metric.figure(one.rows(answers[split], answers[split]))
            known = _Reached(split, key, value, abs(value) <= _rounding(one, answers[split]))
            reached.get(one.output.name, []).append(known)
    parts = {
        output: _part(subject.metrics[output], asked[output], subject.bound_keys_of(output), found)
        for output, found in reached.items()
    }
    return Budget.of_several(parts, {output: [one.key for one in found] for output, found in reached.items()})


@dataclass(frozen=True)
class _Reached:
    """What the reference reaches of a metric, and whether that is nothing but rounding."""

    split: str
    key: str
    value: float
    nothing: bool


def _part(metric: Metric, asked: MaxDrop, bound: Sequence[str], reached: Sequence[_Reached]) -> Budget:
    """Return the budget of one output.

    Args:
        metric: of the output.
        asked: what may be lost of it.
        bound: the keys of its figures that the budget binds.
        reached: by the reference.
    """
    first = next(one for one in reached if (one.split, one.key) == ("validation", bound[0]))
    whole = 1.0 if metric.share else abs(first.value) or 1.0
    of_nothing = [one for one in reached if one.key in bound and one.nothing]
    if not asked.of_reference or (asked.implied and of_nothing):
        if not metric.share and not asked.implied and 0 < asked.value < _HARDLY_ANYTHING * whole:
            logger.warning("%s", _hardly_anything(asked, metric.name, whole))
        return Budget(asked.value, whole=whole, of_items=metric.share)
    if of_nothing:
        one = of_nothing[0]
        raise _share_of_nothing(asked, f"the {metric.name} of '{one.key}' on '{one.split}'", one.value)
    limits = {
        split: {one.key: asked.limit(one.value) for one in reached if one.split == split and one.value}
        for split in SPLITS
    }
    return Budget(limits["validation"][bound[0]], share=asked.value, limits=limits, whole=whole, of_items=metric.share)


def _share_of_nothing(asked: MaxDrop, what: str, value: float) -> RecipeError:
    much = f"{value:.1e}, which is rounding" if value else "0"
    return RecipeError(
        f"[search] max_drop is a share of nothing: {what} is {much}",
        got=str(asked),
        expected="a number in the metric's own unit",
        fix="write max_drop as a number, or leave the subset out with [search] subsets",
    )


def _rounding(one: Judgement, answers: Answers) -> float:
    """Return what the reference misses of an error of values if its answers are the targets, but for rounding."""
    if one.metric.share or one.metric.against != "targets" or ":" in one.metric.name:
        return 0.0
    exact = answers[one.output.name][one.subset][one.places].astype(np.float64)
    if one.targets is None or exact.size != one.targets.size:
        return 0.0
    return abs(one.metric.aggregate(exact * (1 + _FLOAT32), exact))


def _hardly_anything(asked: MaxDrop, metric: str, whole: float) -> str:
    return (
        f"[search] max_drop = {asked} is {asked.value / whole:.1e} of the reference's {metric}, {whole:.4g}: hardly "
        "any compression loses so little. A share of it is written as max_drop = '2 %'"
    )
