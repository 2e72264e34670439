"""How figures are spelled."""

from __future__ import annotations

import pytest

from edgefuse.compiler.report import format as formats
from edgefuse.compiler.report.schema import Constraint


def limit(unit: str, value: float, maximum: float) -> Constraint:
    excess = max(0.0, value - maximum)
    return Constraint(rung="fastest", what="it", limit=maximum, value=value, unit=unit, excess=excess)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (formats.signed(-0.001), "0.00"),
        (formats.signed(-0.356), "−0.36"),
        (formats.size(821_600), "822 kB"),
        (formats.size(7_920_000), "7.92 MB"),
        (formats.size(12), "12 B"),
        (formats.milliseconds(0.0214), "0.021"),
        (formats.multiplications(38_168_576), "38.2 M"),
        (formats.multiplications(1.494e9), "1.49 G"),
        (formats.multiplications(12), "12"),
        (formats.decibels(float("inf")), "exact"),
        (formats.tolerance({"absolute": 1e-4, "relative": 1e-4, "min_snr_db": None}), "≤ 1e-04 + 1e-04·max|y|"),
        (formats.tolerance({"min_snr_db": 15.0}), "≥ 15 dB"),
        (str(formats.breakable("a_<b>")), "a_<wbr>&lt;b&gt;"),
        (formats.verdict(limit("ms", 1.5, 1.0)), "it: 1.50 ms, 0.500 ms over the limit of 1.00 ms"),
        (formats.verdict(limit("bytes", 2e6, 3e6)), "it: 2.00 MB, within the limit of 3.00 MB"),
        (formats.verdict(limit("mse", 0.5, 0.2)), "it: 0.5000 mse, 0.3000 mse over the limit of 0.2000 mse"),
    ],
)
def test_figures_read_well(shown: str, expected: str) -> None:
    assert shown == expected
