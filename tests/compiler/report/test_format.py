"""How figures are spelled."""

from __future__ import annotations

import pytest

from edgefuse.compiler import report_format
from edgefuse.compiler.report_schema import Constraint


def limit(unit: str, value: float, maximum: float) -> Constraint:
    excess = max(0.0, value - maximum)
    return Constraint(rung="fastest", what="it", limit=maximum, value=value, unit=unit, excess=excess)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (report_format.signed(-0.001), "0.00"),
        (report_format.signed(-0.356), "−0.36"),
        (report_format.size(821_600), "822 kB"),
        (report_format.size(7_920_000), "7.92 MB"),
        (report_format.size(12), "12 B"),
        (report_format.milliseconds(0.0214), "0.021"),
        (report_format.multiplications(38_168_576), "38.2 M"),
        (report_format.multiplications(1.494e9), "1.49 G"),
        (report_format.multiplications(12), "12"),
        (report_format.decibels(float("inf")), "exact"),
        (report_format.tolerance({"absolute": 1e-4, "relative": 1e-4, "min_snr_db": None}), "≤ 1e-04 + 1e-04·max|y|"),
        (report_format.tolerance({"min_snr_db": 15.0}), "≥ 15 dB"),
        (str(report_format.breakable("a_<b>")), "a_<wbr>&lt;b&gt;"),
        (report_format.verdict(limit("ms", 1.5, 1.0)), "it: 1.50 ms, 0.500 ms over the limit of 1.00 ms"),
        (report_format.verdict(limit("bytes", 2e6, 3e6)), "it: 2.00 MB, within the limit of 3.00 MB"),
        (report_format.verdict(limit("mse", 0.5, 0.2)), "it: 0.5000 mse, 0.3000 mse over the limit of 0.2000 mse"),
    ],
)
def test_figures_read_well(shown: str, expected: str) -> None:
    assert shown == expected
