"""What a combination may lose of the metric in each subset, in the metric's own unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_SMALLEST_SCALE = 0.005
"""What counts as a large drop where the budget is (nearly) nothing, as a share of the whole metric."""

_LARGEST_DROP = 0.1
"""What a reduced rung may lose of a metric that is a share of the items."""

_LARGEST_BUDGETS = 10.0
"""The same of another metric, in budgets."""


@dataclass(frozen=True)
class Budget:
    """The budget of a recipe, resolved once, before any candidate is made.

    Attributes:
        max_drop: in the unit of the search, to which drops in all subsets are brought.
        share: what was asked for, if that is a share of what the reference reaches.
        limits: by split and subset; empty where it is `max_drop` in all of them.
        whole: what all of the metric is: 1 for a share of the items, else what the reference reaches.
        of_items: whether the metric is a share of the items.
    """

    max_drop: float = 0.01
    share: float | None = None
    limits: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    whole: float = 1.0
    of_items: bool = True

    def limit(self, split: str, subset: str) -> float:
        """Return what may be lost in a subset on a split."""
        return self.limits.get(split, {}).get(subset, self.max_drop)

    def weight(self, split: str, subset: str) -> float:
        """Return what a drop is multiplied by to be held against `max_drop`."""
        limit = self.limit(split, subset)
        return self.max_drop / limit if limit > 0 else 1.0

    def worst(self, split: str, drops: Mapping[str, float]) -> str:
        """Return the subset that lost most of what it may lose; of equals the first."""
        return max(drops, key=lambda subset: drops[subset] * self.weight(split, subset))

    @property
    def smallest_scale(self) -> float:
        """What counts as a large drop where `max_drop` is less."""
        return _SMALLEST_SCALE * self.whole if self.of_items or not self.max_drop else 0.0

    @property
    def largest_drop(self) -> float:
        """What a rung beyond the budget may lose."""
        return _LARGEST_DROP if self.of_items else _LARGEST_BUDGETS * max(self.max_drop, self.smallest_scale)
