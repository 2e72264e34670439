"""Metrics of fidelity: how near answers are to those of the reference; for data that nobody has labelled."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from scipy.special import rel_entr, softmax  # type: ignore[import-untyped]

from edgefuse.bundle.spec import LabelsOutput
from edgefuse.compiler.metrics.metric import Array, Asked, Metric, Rows


def _alike(outputs: Array, targets: Array, asked: Asked) -> Rows:
    """Return the share of each item's answers that are the reference's: of classes, labels, or tokens."""
    if isinstance(asked.output, LabelsOutput):
        threshold = np.log(asked.output.threshold / (1 - asked.output.threshold))
        same = (outputs > threshold) == (targets > threshold)
    else:
        same = outputs.argmax(axis=-1) == targets.argmax(axis=-1)
    return (same.reshape(len(outputs), -1).mean(axis=1),)


def _divergence(outputs: Array, targets: Array, asked: Asked) -> Rows:
    """Return the Jensen-Shannon divergence of each item's classes from the reference's, in bits: from 0 to 1.

    The source is Lin, IEEE Transactions on Information Theory, 1991.
    """
    found, wanted = (softmax(logits.astype(np.float64), axis=1) for logits in (outputs, targets))
    mean = (found + wanted) / 2
    nats = (rel_entr(found, mean) + rel_entr(wanted, mean)).sum(axis=1) / 2
    return (np.maximum(nats, 0.0) / np.log(2),)


def _relative(outputs: Array, targets: Array, asked: Asked) -> Rows:
    """Return the error of each item's values as a share of the size of the reference's: lengths of vectors."""
    found, wanted = (values.reshape(len(values), -1).astype(np.float64) for values in (outputs, targets))
    error, size = np.linalg.norm(found - wanted, axis=1), np.linalg.norm(wanted, axis=1)
    return (np.where(size > 0, error / np.where(size > 0, size, 1.0), (error > 0).astype(np.float64)),)


_AGREEMENT = Metric(_alike, against="reference")

DECISIONS: Mapping[str, Metric] = MappingProxyType({"agreement": _AGREEMENT})
"""Of several labels, and of tokens."""

CLASSES: Mapping[str, Metric] = MappingProxyType(
    {"agreement": _AGREEMENT, "divergence": Metric(_divergence, lower_is_better=True, against="reference")}
)
VALUES: Mapping[str, Metric] = MappingProxyType(
    {"relative_error": Metric(_relative, lower_is_better=True, against="reference")}
)
