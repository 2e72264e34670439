"""Areas under curves of a ranking, by torchmetrics."""

from __future__ import annotations

import numpy as np
import torch
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from edgefuse.compiler.metrics.metric import Array


def mean_area(what: str, wanted: Array, scores: Array) -> float:
    """Return the mean over the columns that have both a right and a wrong one; NaN if none has.

    Args:
        what: `auroc` or `average_precision`.
        wanted: bool [n, columns].
        scores: float [n, columns], from 0 to 1.
    """
    area = binary_auroc if what == "auroc" else binary_average_precision
    told = [column for column in range(wanted.shape[1]) if 0 < wanted[:, column].sum() < len(wanted)]
    areas = [
        float(
            area(
                torch.from_numpy(scores[:, column].copy()),
                torch.from_numpy(wanted[:, column].astype(np.int64)),
                validate_args=False,
            )
        )
        for column in told
    ]
    return float(np.mean(areas)) if areas else float("nan")
