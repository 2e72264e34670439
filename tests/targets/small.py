"""The data of the reference model `digits`, a few items of each split."""

from __future__ import annotations

from edgefuse.datasets import Splits
from edgefuse.datasets.digits import Settings, load


def data() -> Splits:
    """Return the small parts."""
    return load(Settings(items=(24, 60, 60), recovery_items=128))
