"""What a combination may lose of each output's metric in each subset, in the metric's own unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

_NOTHING = 1e-5
"""What stands for a budget of nothing beside other outputs' budgets, as a share of the whole metric."""

_SMALLEST_SCALE = 0.005
"""What counts as a large drop where the budget is (nearly) nothing, as a share of the whole metric."""

_LARGEST_DROP = 0.1
"""What a reduced rung may lose of a metric that is a share of the items."""

_LARGEST_BUDGETS = 10.0
"""The same of another metric, in budgets."""


@dataclass(frozen=True)
class Budget:
    """The budget of a recipe, resolved once, before any candidate is made.

    Keys are those of `edgefuse.compiler.model.subject.key_of`: a subset, or an output and a subset.

    Attributes:
        max_drop: in the unit of the search, to which all drops are brought: that of the first output that may lose
            anything.
        share: what was asked for, if that is a share of what the reference reaches.
        limits: by split and key; empty where it is `max_drop` for all of them.
        whole: what all of the metric is: 1 for a share of the items, else what the reference reaches.
        of_items: whether the metric is a share of the items.
        shares: the same as `share` for each output that is judged, by name, where there are several.
        weights: by split and key, where there are several outputs.
    """

    max_drop: float = 0.01
    share: float | None = None
    limits: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    whole: float = 1.0
    of_items: bool = True
    shares: Mapping[str, float | None] = field(default_factory=dict)
    weights: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def limit(self, split: str, key: str) -> float:
        """Return what may be lost on a split."""
        return self.limits.get(split, {}).get(key, self.max_drop)

    def weight(self, split: str, key: str) -> float:
        """Return what a drop is multiplied by to be held against `max_drop`."""
        if split in self.weights:
            return self.weights[split][key]
        limit = self.limit(split, key)
        return self.max_drop / limit if limit > 0 else 1.0

    def worst(self, split: str, drops: Mapping[str, float]) -> str:
        """Return the key of what lost most of what it may lose; of equals the first."""
        return max(drops, key=lambda key: drops[key] * self.weight(split, key))

    @classmethod
    def of_several(cls, parts: Mapping[str, Budget], keys: Mapping[str, Sequence[str]]) -> Budget:
        """Return the budget of several outputs.

        Args:
            parts: the budget of each, by its name, the first one first.
            keys: of the figures of each that the budget binds, by its name.
        """
        if len(parts) == 1:
            return next(iter(parts.values()))
        unit = next((part for part in parts.values() if part.max_drop > 0), next(iter(parts.values())))
        limits: dict[str, dict[str, float]] = {"validation": {}, "test": {}}
        weights: dict[str, dict[str, float]] = {"validation": {}, "test": {}}
        for output, part in parts.items():
            for split, key in product(limits, keys[output]):
                limits[split][key] = limit = part.limit(split, key)
                least = limit or _NOTHING * part.whole
                weights[split][key] = unit.max_drop / least if unit.max_drop else 1.0
        shares = {output: part.share for output, part in parts.items()}
        first = next(iter(parts.values()))
        return cls(unit.max_drop, first.share, limits, unit.whole, unit.of_items, shares, weights)

    @property
    def smallest_scale(self) -> float:
        """What counts as a large drop where `max_drop` is less."""
        return _SMALLEST_SCALE * self.whole if self.of_items or not self.max_drop else 0.0

    @property
    def largest_drop(self) -> float:
        """What a rung beyond the budget may lose."""
        return _LARGEST_DROP if self.of_items else _LARGEST_BUDGETS * max(self.max_drop, self.smallest_scale)
