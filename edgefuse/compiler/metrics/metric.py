"""A metric: a row per item, one figure of all rows, and what a candidate loses of it against a reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from edgefuse.bundle.spec import ArrayOutput, ClassOutput, Output
from edgefuse.errors import MeasureError
from edgefuse.measure.metrics import is_share
from edgefuse.measure.statistics import Z95, Drop, Floats, draws, paired_drop

Array: TypeAlias = npt.NDArray[Any]

Rows: TypeAlias = tuple[Array, ...]
"""What a metric keeps of each item: arrays [items, ...]. The first has a score per item where the figure is a mean."""

Against: TypeAlias = Literal["targets", "index", "text", "pair", "reference"]
"""What answers are held against: targets as the kind of output has them, the index of a group, text, the answers of
another output, or those of the reference, where nothing is labelled."""

_RESAMPLES = 200
"""Enough for a standard error (Efron and Tibshirani, An Introduction to the Bootstrap, section 6.4)."""


@dataclass(frozen=True)
class Asked:
    """What a metric is asked of: an output, with the `k` of a name such as `recall@10`."""

    output: Output
    k: int = 1


@dataclass(frozen=True)
class Metric:
    """A metric of one output of a model.

    Attributes:
        rows_of: maps outputs [n, ...], targets [n, ...] and what is asked to rows, one per item.
        figure_of: maps rows to the figure; without it, it is the mean of the first row, a score per item.
        lower_is_better: of the figure: it is an error.
        against: what the answers are held against.
        name: as a spec writes it.
        asked: the output, and `k`.
    """

    rows_of: Callable[[Array, Array, Asked], Rows]
    figure_of: Callable[..., float] | None = None
    lower_is_better: bool = False
    against: Against = "targets"
    name: str = ""
    asked: Asked = Asked(ArrayOutput(shape=(1,)))

    @property
    def needs_targets(self) -> bool:
        """Whether samples must have targets for it: others hold answers against other answers."""
        return self.against not in ("pair", "reference")

    @property
    def share(self) -> bool:
        """Whether it goes from 0 to 1, so that differences are points; others have a unit of their own."""
        return is_share(self.name)

    @property
    def tells_right_from_wrong(self) -> bool:
        """Whether it is the share of items whose class is right."""
        return self.name == "accuracy" and isinstance(self.asked.output, ClassOutput)

    @property
    def finds_its_like(self) -> bool:
        """Whether it is the share of items whose own answer of another output is among the `k` nearest to theirs."""
        return self.name.startswith("recall@") and self.against == "pair"

    def rows(self, outputs: Array, targets: Array) -> Rows:
        """Return what the figure is made of, for each item; of retrieval, for each that there is anything to find for.

        Args:
            outputs: of the model, [n, ...].
            targets: of the same items, as `against` says, [n, ...].

        Raises:
            MeasureError: if shapes do not fit, an output is NaN or infinite, or a target is impossible.
        """
        check_items(outputs, targets)
        return self.rows_of(outputs, targets, self.asked)

    def figure(self, rows: Rows) -> float:
        """Return the metric of some rows, in its own sign and unit."""
        return float(rows[0].mean()) if self.figure_of is None else float(self.figure_of(*rows))

    def aggregate(self, outputs: Array, targets: Array) -> float:
        """Return the metric over all items; arguments and errors as those of `rows`."""
        return self.figure(self.rows(outputs, targets))

    def lost(self, reference: float, candidate: float) -> float:
        """Return what a candidate lost: positive is worse, whether the metric is an error or not."""
        return candidate - reference if self.lower_is_better else reference - candidate

    def drop(self, reference: Rows, candidate: Rows, groups: Array | None = None) -> Drop:
        """Return what a candidate lost on the same items, with its 95 % interval.

        Of scores per item it is that of `paired_drop`; of a figure over all items, it is the paired bootstrap's: both
        are resampled together, and the interval is normal, with the standard error of the resampled differences.

        Args:
            reference: rows of the reference.
            candidate: rows of the candidate, of the same items.
            groups: int [items]: items of one group count as one draw. Each is its own if None, or if there are rows of
                some items alone.
        """
        groups = groups if groups is not None and len(groups) == len(reference[0]) else None
        if self.figure_of is None:
            sign = -1.0 if self.lower_is_better else 1.0
            return paired_drop(sign * _floats(reference[0]), sign * _floats(candidate[0]), groups)
        drop = self.lost(self.figure(reference), self.figure(candidate))
        if all(np.array_equal(one, other) for one, other in zip(reference, candidate, strict=True)):
            return Drop(drop, drop, drop)
        losses = []
        for draw in draws(len(reference[0]), groups, _RESAMPLES, np.random.default_rng(0)):
            one, other = (self.figure(tuple(row[draw] for row in rows)) for rows in (reference, candidate))
            losses.append(self.lost(one, other))
        known = np.array(losses)[np.isfinite(losses)]  # a draw may lack what the figure needs
        width = Z95 * float(known.std(ddof=1)) if len(known) > 1 else 0.0
        return Drop(drop, drop - width, drop + width)


def check_items(outputs: Array, targets: Array) -> None:
    """Refuse outputs that are not finite, or not of the same items as their targets.

    Raises:
        MeasureError: if that is so.
    """
    if outputs.ndim < 2 or not len(outputs) or len(outputs) != len(targets):
        raise MeasureError(
            "outputs and targets do not go together",
            got=f"outputs {outputs.shape} and targets {targets.shape}",
            expected="[n, ...] and [n, ...] of the same items, at least one",
        )
    bad = np.flatnonzero(~np.isfinite(outputs.reshape(len(outputs), -1)).all(axis=1))
    if len(bad):
        raise MeasureError(
            f"the outputs of {len(bad)} of {len(outputs)} items are NaN or infinite",
            got=f"item {bad[0]}",
            expected="finite numbers",
        )


def _floats(scores: Array) -> Floats:
    return np.asarray(scores, np.float64)
