"""Areas under the curves of a ranking: of a column that is right for some items, and of all columns together."""

from __future__ import annotations

import numpy as np

from edgefuse.compiler.metrics.metric import Array


def mean_area(what: str, wanted: Array, scores: Array) -> float:
    """Return the mean over the columns that are right for some items and wrong for others; NaN if none is.

    Args:
        what: `auroc` or `average_precision`.
        wanted: bool [n, columns].
        scores: float [n, columns]: the higher, the more likely right.
    """
    area = auroc if what == "auroc" else average_precision
    told = np.flatnonzero(wanted.any(axis=0) & ~wanted.all(axis=0))
    areas = [area(*_counts(wanted[:, column], scores[:, column])) for column in told]
    return float(np.mean(areas)) if areas else float("nan")


def auroc(right: Array, wrong: Array) -> float:
    """Return the area under the curve of receiver operating characteristics, by trapezoids.

    Args:
        right: how many right items score at least as much as each distinct score, the highest first; from 0 to all.
        wrong: the same of wrong items.
    """
    return float((np.diff(wrong) * (right[1:] + right[:-1])).sum() / (2 * right[-1] * wrong[-1]))


def average_precision(right: Array, wrong: Array) -> float:
    """Return the mean precision over all right items; arguments as those of `auroc`."""
    return float((np.diff(right) * right[1:] / (right[1:] + wrong[1:])).sum() / right[-1])


def _counts(wanted: Array, scores: Array) -> tuple[Array, Array]:
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)  # of those that score alike
    right = np.append(0, np.cumsum(wanted[order])[last])
    return right, np.append(0, last + 1) - right
