"""What the records of `report.json` share: their base, intervals and ratios."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

Interval: TypeAlias = tuple[float, float]


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """The base of everything in a report."""


class Gain(Part, frozen=True, kw_only=True):
    """A ratio of two paired measurements with its 95 % interval.

    It is `marked` where the machine was busy: the interval is wider for that, and cannot be trusted all the same.
    """

    ratio: float
    ci95: Interval | None = None
    marked: bool = False

    @classmethod
    def of(cls, ratio: float, ci95: Interval, marked: bool = False) -> Gain:
        """Return a ratio; one that is exact, since it was counted, has no interval.

        Args:
            ratio: how many times better.
            ci95: its 95 % interval.
            marked: whether the machine was busy.
        """
        return cls(ratio=ratio, ci95=ci95 if ci95[0] < ci95[1] else None, marked=marked)
