"""Metrics of several labels at once: a logit per label, [n, labels], against truths, bool or 0 and 1 [n, labels]."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType

import numpy as np

from edgefuse.bundle.spec import LabelsOutput
from edgefuse.compiler.metrics.metric import Array, Asked, Metric, Rows
from edgefuse.compiler.metrics.ranking import mean_area
from edgefuse.errors import MeasureError


def _decisions(outputs: Array, targets: Array, asked: Asked) -> Rows:
    """Return the truths, and which labels are above the threshold of the output, both bool [n, labels]."""
    wanted, logits = _scored(outputs, targets, asked)
    threshold = asked.output.threshold if isinstance(asked.output, LabelsOutput) else 0.5
    return wanted, logits > np.log(threshold / (1 - threshold))


def _right(outputs: Array, targets: Array, asked: Asked) -> Rows:
    """Return the share of the labels that is right, for each item."""
    wanted, found = _decisions(outputs, targets, asked)
    return ((wanted == found).mean(axis=1),)


def _all_right(outputs: Array, targets: Array, asked: Asked) -> Rows:
    """Tell of each item whether all its labels are right."""
    wanted, found = _decisions(outputs, targets, asked)
    return ((wanted == found).all(axis=1).astype(np.float64),)


def _scored(outputs: Array, targets: Array, asked: Asked) -> Rows:
    """Return the truths and the logits."""
    if outputs.ndim != 2 or targets.shape != outputs.shape or not np.isin(targets, (0, 1)).all():
        raise MeasureError(
            "a metric of several labels needs a logit and a truth for each label",
            got=f"outputs {outputs.shape} and targets {targets.shape}",
            expected="[n, labels], and 0 or 1 [n, labels]",
        )
    return targets.astype(bool), outputs


def of_counts(wanted: Array, found: Array, *, what: str, each: bool) -> float:
    """Return precision, recall or F1.

    Args:
        wanted: truths, bool [n, labels].
        found: decisions, bool [n, labels].
        what: `precision`, `recall` or `f1`.
        each: whether it is the mean over the labels that occur in either, or that of all decisions at once.
    """
    hits, true, told = ((one.sum(axis=0) if each else one.sum()[None]) for one in (wanted & found, wanted, found))
    total = {"precision": told, "recall": true}.get(what, (true + told) / 2)
    seen = true + told > 0
    return float((hits[seen] / np.maximum(total[seen], 0.5)).mean()) if seen.any() else 1.0


def of_ranking(wanted: Array, logits: Array, *, what: str) -> float:
    """Return the mean area under a curve over the labels that are true of some items and false of others.

    Args:
        wanted: truths, bool [n, labels].
        logits: float [n, labels].
        what: see `ranking.mean_area`.
    """
    return mean_area(what, wanted, logits)


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "accuracy": Metric(_right),
        "exact_match": Metric(_all_right),
        "average_precision": Metric(_scored, partial(of_ranking, what="average_precision")),
        "auroc": Metric(_scored, partial(of_ranking, what="auroc")),
    }
    | {
        f"{name}_{what}": Metric(_decisions, partial(of_counts, what=what, each=name == "macro"))
        for name in ("macro", "micro")
        for what in ("precision", "recall", "f1")
    }
)
