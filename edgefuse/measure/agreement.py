"""How well the answers of a file agree with a reference, and whether that is good enough."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from edgefuse.bundle.manifest import Tolerance
from edgefuse.runtime.backends.backend import Array

Outputs: TypeAlias = Mapping[str, Array]
"""Port name to array."""


@dataclass(frozen=True)
class Agreement:
    """How well answers agree with a reference, over all outputs of all cases.

    Attributes:
        ok: whether the tolerance holds.
        max_abs_error: the largest |error|; infinite where an answer is unusable.
        snr_db: 10 log10 of the reference's energy over the error's, all cases together; infinite when equal.
        reason: why it is not ok, as the middle of a sentence; empty when it is.
    """

    ok: bool
    max_abs_error: float
    snr_db: float
    reason: str = ""


def agreement(cases: Iterable[tuple[Outputs, Outputs]], tolerance: Tolerance) -> Agreement:
    """Judge answers against references.

    Args:
        cases: (reference, answer) pairs, each under port names.
        tolerance: |error| <= absolute + relative * max|y| for every output of every case or, where `min_snr_db` is
            given, a signal-to-noise ratio of at least that.
    """
    largest, signal, noise, breach = 0.0, 0.0, 0.0, ""
    for reference, answer in cases:
        for port, expected in reference.items():
            actual = answer.get(port)
            if actual is None or actual.shape != expected.shape or not np.isfinite(actual).all():
                return Agreement(False, math.inf, -math.inf, _unusable(port, expected, actual))
            error = np.subtract(actual, expected, dtype=np.float64)
            worst = float(np.abs(error).max(initial=0.0))
            largest = max(largest, worst)
            signal += float(np.square(expected, dtype=np.float64).sum())
            noise += float(np.square(error).sum())
            breach = breach or _excess(port, worst, expected, tolerance)
    snr_db = signal_to_noise_db(signal, noise)
    if tolerance.min_snr_db is not None:
        kept = snr_db >= tolerance.min_snr_db
        breach = "" if kept else f"a signal-to-noise ratio of {snr_db:.1f} dB, below {tolerance.min_snr_db:.1f} dB"
    return Agreement(not breach, largest, snr_db, breach)


def signal_to_noise_db(signal: float, noise: float) -> float:
    """Return 10 log10 of the energy of a signal over that of its error: infinite without an error."""
    if noise == 0.0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0.0 else -math.inf


def _excess(port: str, worst: float, expected: Array, tolerance: Tolerance) -> str:
    allowed = tolerance.absolute + tolerance.relative * float(np.abs(expected).max(initial=0.0))
    return "" if worst <= allowed else f"output '{port}' is off by {worst:.3g}, more than {allowed:.3g}"


def _unusable(port: str, expected: Array, actual: Array | None) -> str:
    if actual is None:
        return f"output '{port}' is missing"
    if actual.shape != expected.shape:
        return f"output '{port}' has the shape {list(actual.shape)} instead of {list(expected.shape)}"
    bad = int(actual.size - np.isfinite(actual).sum())
    return f"output '{port}' holds {bad} numbers that are NaN or infinite"
