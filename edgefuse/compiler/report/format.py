"""How figures of a report are spelled."""

from __future__ import annotations

import math
from collections.abc import Mapping

from markupsafe import Markup, escape

from edgefuse.compiler.report.schema import Constraint
from edgefuse.measure.metrics import is_share

_DIGITS = 4


def reference_name(runtime: str) -> str:
    """Return what the reference is called, of its runtime in full: `torch`, or `the file` for an ONNX file."""
    return "the file" if runtime.startswith("onnxruntime") else "torch"


def milliseconds(value: float) -> str:
    """Return milliseconds with three significant digits and at least two decimals: `0.684`, `12.31`."""
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}"


def took(value: float | None, unit: str) -> str:
    """Return a time or a cost as text: `0.684 ms`, or `cost 0.684` where it was counted; a dash for nothing."""
    if value is None:
        return "–"
    return f"{milliseconds(value)} ms" if unit == "ms" else f"cost {milliseconds(value)}"


def size(value: float) -> str:
    """Return bytes in decimal units: `822 kB`, `7.92 MB`."""
    return f"{value / 1e6:.2f} MB" if value >= 1e6 else f"{value / 1e3:.0f} kB" if value >= 1e3 else f"{value:.0f} B"


def multiplications(value: float) -> str:
    """Return multiply-accumulates: `38.2 M`, `1.49 G`."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g} {name}"
    return f"{value:.0f}"


def decibels(value: float) -> str:
    """Return a signal-to-noise ratio; without any noise it is `exact`."""
    return "exact" if math.isinf(value) and value > 0 else f"{value:.1f} dB"


def signed(value: float, digits: int = 2) -> str:
    """Return a number with a true minus sign, and never a negative zero."""
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        return text.lstrip("-")
    return text.replace("-", "−")


def number(value: float) -> str:
    """Return a figure of any size with four significant digits and a true minus sign: `0.0312`, `−1240`, `3.1e-07`."""
    digits = max(_DIGITS - 1 - math.floor(math.log10(abs(value))), 0) if value else 0
    text = f"{value:.{digits}f}" if 1e-5 <= abs(value) < 1e9 or not value else f"{value:.{_DIGITS - 1}g}"
    return text.replace("-", "−", 1) if value < 0 else text


def breakable(name: str) -> Markup:
    """Escape an identifier and let it wrap after its separators."""
    text = str(escape(name))
    for separator in "_.+":
        text = text.replace(separator, separator + "<wbr>")
    return Markup(text)


def tolerance(value: Mapping[str, float | None]) -> str:
    """Return a tolerance as a short sentence."""
    if (snr := value.get("min_snr_db")) is not None:
        return f"≥ {snr:g} dB"
    return f"≤ {value.get('absolute') or 0:.0e} + {value.get('relative') or 0:.0e}·max|y|"


def amount(value: float, unit: str) -> str:
    """Return a value of a constraint with its unit: `1.40 points`, `0.684 ms`, `cost 0.684`, `7.92 MB`."""
    if unit in ("ms", "cost"):
        return took(value, unit)
    if unit == "bytes":
        return size(value)
    return f"{signed(100 * value)} points" if is_share(unit) else f"{number(value)} {unit}"


def verdict(constraint: Constraint) -> str:
    """Say whether a limit was held: `drop in audio: 1.40 points, 0.40 points over the limit of 1.00 points`."""
    found, limit = amount(constraint.value, constraint.unit), amount(constraint.limit, constraint.unit)
    if constraint.excess > 0:
        return f"{constraint.what}: {found}, {amount(constraint.excess, constraint.unit)} over the limit of {limit}"
    return f"{constraint.what}: {found}, within the limit of {limit}"
