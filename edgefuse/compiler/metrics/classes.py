"""Metrics of logits over classes, [n, classes], against class indices, int [n]."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType

import numpy as np

from edgefuse.compiler.metrics.metric import Array, Asked, Metric, Rows
from edgefuse.compiler.metrics.ranking import mean_area
from edgefuse.errors import MeasureError


def _correct(outputs: Array, targets: Array, asked: Asked) -> Rows:
    """Tell of each item whether its target is among the `k` largest logits; of equal ones the first is larger."""
    wanted = _classes(outputs, targets)[:, None]
    own = np.take_along_axis(outputs, wanted, axis=1)
    before = np.arange(outputs.shape[1]) < wanted
    rank = ((outputs > own) | ((outputs == own) & before)).sum(axis=1)
    return ((rank < asked.k).astype(np.float64),)


def _decided(outputs: Array, targets: Array, asked: Asked) -> Rows:
    """Return the targets, and the classes with the largest logits."""
    return _classes(outputs, targets), outputs.argmax(axis=1)


def _scored(outputs: Array, targets: Array, asked: Asked) -> Rows:
    """Return the targets and the logits."""
    return _classes(outputs, targets), outputs


def of_confusion(wanted: Array, predicted: Array, *, what: str) -> float:
    """Return the mean of the classes' precision, recall or F1, over those that occur in targets or predictions.

    Args:
        wanted: the targets, int [n].
        predicted: classes, int [n].
        what: `precision`, `recall`, `f1`, or `balanced`: the recall, over the classes that occur in targets alone.
    """
    hits, of_wanted, of_predicted = (
        np.bincount(found, minlength=1 + max(wanted.max(), predicted.max())).astype(np.float64)
        for found in (wanted[wanted == predicted], wanted, predicted)
    )
    total = {"precision": of_predicted, "recall": of_wanted, "balanced": of_wanted}.get(
        what, (of_wanted + of_predicted) / 2
    )
    seen = of_wanted > 0 if what == "balanced" else of_wanted + of_predicted > 0
    return float((hits[seen] / np.maximum(total[seen], 0.5)).mean())  # no class has half an item


def of_ranking(wanted: Array, logits: Array, *, what: str) -> float:
    """Return the mean area under a curve, each class against all others, over those that occur in the targets.

    Args:
        wanted: the targets, int [n].
        logits: float [n, classes].
        what: `auroc` or `average_precision`.
    """
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True).astype(np.float64))
    return mean_area(what, wanted[:, None] == np.arange(logits.shape[1]), shifted / shifted.sum(axis=1, keepdims=True))


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "accuracy": Metric(_correct),
        "accuracy@k": Metric(_correct),
        "balanced_accuracy": Metric(_decided, partial(of_confusion, what="balanced")),
        "macro_precision": Metric(_decided, partial(of_confusion, what="precision")),
        "macro_recall": Metric(_decided, partial(of_confusion, what="recall")),
        "macro_f1": Metric(_decided, partial(of_confusion, what="f1")),
        "average_precision": Metric(_scored, partial(of_ranking, what="average_precision")),
        "auroc": Metric(_scored, partial(of_ranking, what="auroc")),
    }
)


def _classes(outputs: Array, targets: Array) -> Array:
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
