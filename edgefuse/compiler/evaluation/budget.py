"""The budget of a recipe in numbers: what the reference reaches decides what a share of it is."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from edgefuse.compiler.evaluation.drops import accuracy
from edgefuse.compiler.evaluation.evaluator import Outputs
from edgefuse.compiler.evaluation.runners import Array
from edgefuse.compiler.model.budget import Budget
from edgefuse.compiler.model.subject import Subject
from edgefuse.compiler.recipe.max_drop import MaxDrop
from edgefuse.errors import RecipeError
from edgefuse.measure.metrics import Metric, is_share

logger = logging.getLogger(__name__)

SPLITS = ("validation", "test")
"""The splits that drops are measured on."""

_FLOAT32 = 1e-6
"""Of a value: what float32 leaves open after some sums."""

_HARDLY_ANYTHING = 1e-3
"""Of what the reference reaches: quantized models lose more."""


def budget(subject: Subject, asked: MaxDrop, answers: Mapping[str, Outputs]) -> Budget:
    """Return the budget in numbers, by split and subset.

    Args:
        subject: the model and its data.
        asked: what the recipe allows to be lost.
        answers: of the reference, by split and subset.

    Raises:
        RecipeError: if it is a share of nothing.
    """
    metric = subject.spec.metric
    reached = {split: accuracy(subject, split, answers[split]) for split in SPLITS}
    first = next(iter(subject.budget_subsets))
    whole = 1.0 if is_share(metric) else abs(reached["validation"][first]) or 1.0
    of_nothing = [
        (split, subset)
        for split in SPLITS
        for subset in subject.budget_subsets
        if abs(reached[split][subset]) <= _rounding(metric, answers[split][subset])
    ]
    if not asked.of_reference or (asked.implied and of_nothing):
        if not is_share(metric) and not asked.implied and 0 < asked.value < _HARDLY_ANYTHING * whole:
            logger.warning("%s", _hardly_anything(asked, metric, whole))
        return Budget(asked.value, whole=whole, of_items=is_share(metric))
    if of_nothing:
        split, subset = of_nothing[0]
        raise _share_of_nothing(asked, f"the {metric} of '{subset}' on '{split}'", reached[split][subset])
    limits = {
        split: {subset: asked.limit(value) for subset, value in by_subset.items() if value}
        for split, by_subset in reached.items()
    }
    return Budget(limits["validation"][first], share=asked.value, limits=limits, whole=whole, of_items=is_share(metric))


def _share_of_nothing(asked: MaxDrop, what: str, value: float) -> RecipeError:
    much = f"{value:.1e}, which is rounding" if value else "0"
    return RecipeError(
        f"[search] max_drop is a share of nothing: {what} is {much}",
        got=str(asked),
        expected="a number in the metric's own unit",
        fix="write max_drop as a number, or leave the subset out with [search] subsets",
    )


def _rounding(metric: str, answers: Array) -> float:
    """Return what the reference misses of a metric of values if its answers are the targets, but for rounding."""
    if is_share(metric):
        return 0.0
    exact = answers.astype(np.float64)
    return abs(Metric(metric).aggregate(exact * (1 + _FLOAT32), exact))


def _hardly_anything(asked: MaxDrop, metric: str, whole: float) -> str:
    return (
        f"[search] max_drop = {asked} is {asked.value / whole:.1e} of the reference's {metric}, {whole:.4g}: hardly "
        "any compression loses so little. A share of it is written as max_drop = '2 %'"
    )
