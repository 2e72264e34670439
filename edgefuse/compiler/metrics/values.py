"""Metrics of numbers and arrays, [n, ...], against numbers of the same shape."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from edgefuse.compiler.metrics.metric import Array, Asked, Metric, Rows
from edgefuse.errors import MeasureError


def _absolute(outputs: Array, targets: Array, asked: Asked) -> Rows:
    """Return the mean absolute error of each item."""
    found, wanted = _pairs(outputs, targets, asked)
    return (np.abs(found - wanted).mean(axis=1),)


def _squared(outputs: Array, targets: Array, asked: Asked) -> Rows:
    """Return the mean squared error of each item."""
    found, wanted = _pairs(outputs, targets, asked)
    return (((found - wanted) ** 2).mean(axis=1),)


def _pairs(outputs: Array, targets: Array, asked: Asked) -> Rows:
    """Return outputs and targets as float64 [n, values]."""
    if outputs.size != targets.size or not np.isfinite(targets).all():
        raise MeasureError(
            "a metric of values needs finite targets like the outputs",
            got=f"outputs {outputs.shape} and targets {targets.shape}",
        )
    width = math.prod(outputs.shape[1:])
    return outputs.reshape(-1, width).astype(np.float64), targets.reshape(-1, width).astype(np.float64)


def root_of_mean(squares: Array) -> float:
    """Return the root of the mean of squared errors."""
    return math.sqrt(squares.mean())


def concordance(found: Array, wanted: Array) -> float:
    """Return the mean over the values of the concordance correlation coefficient (Lin, Biometrics, 1989).

    Of values that never vary there is none; NaN if there are no others.
    """
    n = len(found)
    apart = (found.mean(axis=0) - wanted.mean(axis=0)) ** 2
    together = ((found - found.mean(axis=0)) * (wanted - wanted.mean(axis=0))).sum(axis=0) / max(n - 1, 1)
    spread = sum(values.var(axis=0) * n / max(n - 1, 1) for values in (found, wanted))
    told = spread > 0
    return float((2 * together[told] / (spread + apart)[told]).mean()) if told.any() else float("nan")


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "mae": Metric(_absolute, lower_is_better=True),
        "mse": Metric(_squared, lower_is_better=True),
        "rmse": Metric(_squared, root_of_mean, lower_is_better=True),
        "concordance": Metric(_pairs, concordance),
    }
)
