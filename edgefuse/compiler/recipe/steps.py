"""The section `[ladder]`: rungs below the default one, for a device that slows down."""

from __future__ import annotations

import math
from pathlib import Path

from edgefuse.bundle.spec import Record
from edgefuse.errors import RecipeError


class LadderSection(Record, frozen=True, kw_only=True):
    """The section `[ladder]`, which may be empty: rungs down which a device steps when it slows down.

    Attributes:
        ratio: how many times faster each rung is than the one above it, at the least.
        down_to: of the first rung's time, the share that the last one takes, at the most.
        max_drop: how much of the metric a rung may lose in its worst subset, in the unit of `[search] max_drop`; ten
            points of accuracy, or ten budgets of a metric with a unit of its own, if left out.
    """

    ratio: float = 1.3
    down_to: float = 0.5
    max_drop: float | None = None

    @property
    def shares(self) -> tuple[float, ...]:
        """The shares of the first rung's time at which rungs are looked for: evenly apart, `down_to` the last."""
        count = max(int(math.log(self.down_to) / -math.log(self.ratio) + 1e-9), 1)
        return tuple(self.down_to ** (number / count) for number in range(1, count + 1))


def check_ladder(path: Path, ladder: LadderSection | None) -> None:
    """Check the values of the section, if there is one.

    Raises:
        RecipeError: if one is out of range.
    """
    if ladder is None:
        return
    if not (math.isfinite(ladder.ratio) and ladder.ratio >= 1.05):
        raise RecipeError(
            f"[ladder] ratio in {path} is out of range",
            got=ladder.ratio,
            expected="1.05 or more: what is hardly faster is no rung of its own",
        )
    if ladder.max_drop is not None and not (math.isfinite(ladder.max_drop) and ladder.max_drop > 0):
        raise RecipeError(
            f"[ladder] max_drop in {path} is out of range",
            got=ladder.max_drop,
            expected="more than 0 (0.1 is ten points)",
        )
    if not 0.01 <= ladder.down_to <= 1 / ladder.ratio:
        raise RecipeError(
            f"[ladder] down_to in {path} is out of range",
            got=ladder.down_to,
            expected=f"from 0.01 to {1 / ladder.ratio:.3g}, the time of one rung that is {ladder.ratio:g} times faster",
        )
