"""The geometry of the recovery curves: mean accuracy over the epochs, one small picture per recovery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgefuse.compiler.report.charts import Axis, Tick
from edgefuse.compiler.report.schema import RecoveryPoint, RecoveryReport

WIDTH, HEIGHT = 300.0, 150.0
LEFT, RIGHT, TOP, BOTTOM = 44.0, 12.0, 12.0, 26.0


@dataclass(frozen=True)
class Curve:
    """One recovery.

    Attributes:
        line: corners in view units, by epoch.
        best: the corner of the best epoch, whose weights were kept.
        kept: that epoch.
    """

    recovery: RecoveryReport
    line: tuple[tuple[float, float], ...]
    best: tuple[float, float]
    kept: RecoveryPoint
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


def curves(recoveries: Sequence[RecoveryReport]) -> list[Curve]:
    """Lay out all recoveries that have a point, on one scale of accuracy, so that they can be compared."""
    drawn = [recovery for recovery in recoveries if recovery.points]
    heights = [point.accuracy for recovery in drawn for point in recovery.points]
    if not heights:
        return []
    margin = 0.08 * (max(heights) - min(heights)) or 0.01
    y = Axis(min(heights) - margin, max(heights) + margin, HEIGHT - BOTTOM, TOP)
    return [_curve(recovery, y) for recovery in drawn]


def _curve(recovery: RecoveryReport, y: Axis) -> Curve:
    points = recovery.points
    x = Axis(points[0].epoch, max(points[-1].epoch, points[0].epoch + 1), LEFT, WIDTH - RIGHT)
    kept = max(points, key=lambda point: (point.accuracy, -point.loss))
    return Curve(
        recovery=recovery,
        line=tuple((x(point.epoch), y(point.accuracy)) for point in points),
        best=(x(kept.epoch), y(kept.accuracy)),
        kept=kept,
        x_ticks=tuple(tick for tick in x.ticks(4) if tick.value == int(tick.value)),
        y_ticks=y.ticks(4),
    )
