"""Metrics: a score per item, greater is better, and their aggregate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edgefuse.errors import MeasureError
from edgefuse.measure import statistics
from edgefuse.measure.statistics import Drop, Floats

Outputs: TypeAlias = npt.NDArray[Any]
_RESAMPLES = 1000


def _correct(outputs: Outputs, targets: Outputs) -> Floats:
    result: Floats = np.equal(outputs.argmax(axis=1), _classes(outputs, targets)).astype(np.float64)
    return result


def _negative_squares(outputs: Outputs, targets: Outputs) -> Floats:
    result: Floats = -(_error(outputs, targets) ** 2).mean(axis=1)
    return result


def _negative_absolutes(outputs: Outputs, targets: Outputs) -> Floats:
    result: Floats = -np.abs(_error(outputs, targets)).mean(axis=1)
    return result


def _macro_f1(outputs: Outputs, targets: Outputs) -> float:
    """Return the mean of the classes' F1, over the classes that occur in targets or predictions."""
    wanted, predicted = _classes(outputs, targets), outputs.argmax(axis=1)
    classes = outputs.shape[1]
    hits = np.bincount(wanted[wanted == predicted], minlength=classes)
    total = np.bincount(wanted, minlength=classes) + np.bincount(predicted, minlength=classes)
    seen = total > 0
    return float((2 * hits[seen] / total[seen]).mean())


_SCORES: Mapping[str, Callable[[Outputs, Outputs], Floats]] = MappingProxyType(
    {
        "accuracy": _correct,
        "macro_f1": _correct,
        "negative_mae": _negative_absolutes,
        "negative_mse": _negative_squares,
    }
)
# What is not the mean of the scores of its items.
_AGGREGATES: Mapping[str, Callable[[Outputs, Outputs], float]] = MappingProxyType({"macro_f1": _macro_f1})


# Shares of the items, from 0 to 1; others have a unit of their own.
_SHARES = frozenset({"accuracy", "macro_f1"})


def is_share(name: str) -> bool:
    """Tell whether a metric is a share of the items: its differences are points."""
    return name in _SHARES


def names() -> tuple[str, ...]:
    """Return the names of all metrics, sorted."""
    return tuple(sorted(_SCORES))


@dataclass(frozen=True)
class Metric:
    """A metric by name: `accuracy` and `macro_f1` of logits, `negative_mse` and `negative_mae` of values.

    Greater is better for all of them, so that reference - candidate is always what was lost.

    Raises:
        MeasureError: if there is no metric of that name.
    """

    name: str

    def __post_init__(self) -> None:
        if self.name not in _SCORES:
            raise MeasureError("there is no such metric", got=repr(self.name), expected=" or ".join(names()))

    def scores(self, outputs: Outputs, targets: Outputs) -> Floats:
        """Score each item, float64 [n]; for `macro_f1`, which has no score per item, whether it is right.

        Args:
            outputs: the model's first output, [n, ...]: logits [n, classes] or values.
            targets: class indices [n] for logits, values like `outputs` otherwise.

        Raises:
            MeasureError: if shapes do not fit, an output is NaN or infinite, or a target is not a class.
        """
        _check(outputs, targets)
        return _SCORES[self.name](outputs, targets)

    def aggregate(self, outputs: Outputs, targets: Outputs) -> float:
        """Return the metric over all items; arguments and errors as those of `scores`."""
        scores = self.scores(outputs, targets)
        special = _AGGREGATES.get(self.name)
        return special(outputs, targets) if special else float(scores.mean())

    def drop(self, reference: Outputs, candidate: Outputs, targets: Outputs, *, seed: int = 0) -> Drop:
        """Return the drop of a candidate against a reference on the same items, with its 95 % interval.

        The interval is that of `paired_drop`; for a metric that is no mean over items it is a paired bootstrap.

        Args:
            reference: outputs, float [items, width].
            candidate: outputs of the same items, float [items, width].
            targets: int [items] for classes, else float [items, width].
            seed: of the bootstrap.
        """
        wanted, found = self.scores(reference, targets), self.scores(candidate, targets)
        special = _AGGREGATES.get(self.name)
        if special is None:
            return statistics.paired_drop(wanted, found)
        drop = special(reference, targets) - special(candidate, targets)
        rng = np.random.default_rng(seed)
        draws = (rng.integers(0, len(targets), len(targets)) for _ in range(_RESAMPLES))
        losses = [special(reference[i], targets[i]) - special(candidate[i], targets[i]) for i in draws]
        low, high = np.quantile(losses, [0.025, 0.975])
        return Drop(drop, min(drop, float(low)), max(drop, float(high)))


def _check(outputs: Outputs, targets: Outputs) -> None:
    if outputs.ndim < 2 or not len(outputs) or len(outputs) != len(targets):
        raise MeasureError(
            "outputs and targets do not go together",
            got=f"outputs {outputs.shape} and targets {targets.shape}",
            expected="[n, ...] and [n, ...] of the same items, at least one",
        )
    bad = np.flatnonzero(~np.isfinite(outputs.reshape(len(outputs), -1)).all(axis=1))
    if len(bad):
        raise MeasureError(
            f"the outputs of {len(bad)} of {len(outputs)} items are NaN or infinite",
            got=f"item {bad[0]}",
            expected="finite numbers",
        )


def _classes(outputs: Outputs, targets: Outputs) -> npt.NDArray[np.int64]:
    """Return targets as class indices, int64 [n]."""
    if outputs.ndim != 2 or targets.ndim != 1 or not np.issubdtype(targets.dtype, np.integer):
        raise MeasureError(
            "a metric of classes needs logits and class indices",
            got=f"outputs {outputs.shape} and targets {targets.dtype} {targets.shape}",
            expected="[n, classes] and integers [n]",
        )
    classes = outputs.shape[1]
    if targets.min() < 0 or targets.max() >= classes:
        raise MeasureError(
            "a target is not a class",
            got=int(targets[(targets < 0) | (targets >= classes)][0]),
            expected=f"0 to {classes - 1}",
        )
    return targets.astype(np.int64)


def _error(outputs: Outputs, targets: Outputs) -> Floats:
    """Return outputs - targets as float64 [n, values]."""
    if outputs.size != targets.size or not np.isfinite(targets).all():
        raise MeasureError(
            "a metric of values needs finite targets like the outputs",
            got=f"outputs {outputs.shape} and targets {targets.shape}",
        )
    width = math.prod(outputs.shape[1:])
    difference: Floats = outputs.reshape(-1, width).astype(np.float64) - targets.reshape(-1, width)
    return difference
