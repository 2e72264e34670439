"""What a recipe allows to be lost of the metric: a number in the metric's own unit, or a share of the reference's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from edgefuse.errors import RecipeError
from edgefuse.measure.metrics import is_share

_EXPECTED = (
    "a number in the metric's own unit (0.01 is a point of accuracy), or a share of the reference's metric ('2 %')"
)


@dataclass(frozen=True)
class MaxDrop:
    """What may be lost of the metric in each subset.

    Attributes:
        value: in the metric's own unit, or the share.
        of_reference: whether it is a share of what the reference reaches.
        implied: whether the recipe leaves it open.
    """

    value: float
    of_reference: bool = False
    implied: bool = False

    def __str__(self) -> str:
        return f"{100 * self.value:g} %" if self.of_reference else f"{self.value:g}"

    def limit(self, reference: float) -> float:
        """Return what may be lost, in the metric's unit, where the reference reaches this much of it."""
        return self.value * abs(reference) if self.of_reference else self.value


Written: TypeAlias = float | str
"""How one budget stands in a recipe."""


def read(path: Path, written: Written) -> MaxDrop:
    """Read what stands in a recipe.

    Args:
        path: of the recipe.
        written: its `[search] max_drop`.

    Raises:
        RecipeError: if it is no budget of any metric.
    """
    if not isinstance(written, str):
        if not (math.isfinite(written) and written >= 0):
            raise RecipeError(f"[search] max_drop in {path} is out of range", got=written, expected="zero or more")
        return MaxDrop(written)
    number, percent, rest = written.partition("%")
    try:
        share = float(number) / 100 if percent and not rest.strip() else None
    except ValueError:
        share = None
    if share is None:
        raise RecipeError(f"[search] max_drop in {path} is no budget", got=repr(written), expected=_EXPECTED)
    if not (math.isfinite(share) and share > 0):
        nothing = share == 0
        raise RecipeError(
            f"[search] max_drop in {path} is out of range",
            got=repr(written),
            expected="more than 0 %",
            fix="write max_drop = 0, a number, if nothing may be lost" if nothing else None,
        )
    return MaxDrop(share, of_reference=True)


def read_for(
    path: Path, written: Written | Mapping[str, Written] | None, metrics: Mapping[str, str]
) -> dict[str, MaxDrop]:
    """Read the budgets of all outputs; without one, a point of a share, or a hundredth of what the reference reaches.

    Args:
        path: of the recipe.
        written: its `[search] max_drop`, if there is one: that of the first output, or one by output.
        metrics: the names of the outputs' metrics, by output, the first one first.

    Raises:
        RecipeError: if one is no budget of its metric, or is for no output.
    """
    first = next(iter(metrics))
    given = written if isinstance(written, Mapping) else {first: written}
    for output in given:
        if output not in metrics:
            raise RecipeError(
                f"[search] max_drop in {path} is for an unknown output", got=repr(output), expected=" or ".join(metrics)
            )
    return {output: _read_for(path, given.get(output), metric) for output, metric in metrics.items()}


def _read_for(path: Path, written: Written | None, metric: str) -> MaxDrop:
    if written is None:
        return MaxDrop(0.01, of_reference=not is_share(metric), implied=True)
    found = read(path, written)
    if is_share(metric) and found.value >= 1:
        raise RecipeError(
            f"[search] max_drop in {path} allows all of the metric '{metric}' to be lost",
            got=written if found.of_reference else f"{found.value:g}",
            expected="less than 100 %" if found.of_reference else "less than 1 (0.01 is one point), or a share ('2 %')",
        )
    return found
