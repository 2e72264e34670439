"""Compare a lowered file with torch: the largest error, the signal-to-noise ratio, and a verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgefuse.bundle.manifest import Tolerance
from edgefuse.errors import ExportError
from edgefuse.export.examples import run_torch
from edgefuse.export.stage import Array, Feeds, TorchStage
from edgefuse.runtime.backends.backend import Session


@dataclass(frozen=True)
class Agreement:
    """How well a file's answers agree with torch's.

    Attributes:
        ok: whether the tolerance holds.
        max_abs_error: the largest |error| over all outputs; infinite where a number is not finite.
        snr_db: 10 log10 of the reference's energy over the error's, all outputs taken together; infinite when equal.
        reason: why it is not ok, as the middle of a sentence; empty when it is.
    """

    ok: bool
    max_abs_error: float
    snr_db: float
    reason: str = ""


def verify(stage: TorchStage, session: Session, feeds: Feeds, tolerance: Tolerance) -> Agreement:
    """Run torch and a file of any target on the same feeds and compare.

    Args:
        stage: the stage in torch.
        session: its file, opened by a backend.
        feeds: arrays under port names.
        tolerance: what to keep.
    """
    return compare(run_torch(stage, feeds), session.run(feeds), tolerance)


def compare(reference: Mapping[str, Array], answer: Mapping[str, Array], tolerance: Tolerance) -> Agreement:
    """Compare outputs under port names with a reference.

    Args:
        reference: what torch fp32 computed.
        answer: what the file computed.
        tolerance: |error| <= absolute + relative * max|y| for every output or, where `min_snr_db` is given, a
            signal-to-noise ratio of at least that.

    Raises:
        ExportError: if the outputs have other names.
    """
    if set(reference) != set(answer):
        raise ExportError(
            "the file has other outputs than the stage",
            got=", ".join(sorted(answer)),
            expected=", ".join(sorted(reference)),
        )
    for name, expected in reference.items():
        reason = _unusable(name, expected, answer[name])
        if reason:
            return Agreement(ok=False, max_abs_error=math.inf, snr_db=-math.inf, reason=reason)
    errors = {name: _error(expected, answer[name]) for name, expected in reference.items()}
    largest = max((float(np.abs(error).max(initial=0.0)) for error in errors.values()), default=0.0)
    snr_db = signal_to_noise_db(reference, answer)
    reason = _breach(reference, errors, snr_db, tolerance)
    return Agreement(ok=not reason, max_abs_error=largest, snr_db=snr_db, reason=reason)


def signal_to_noise_db(reference: Mapping[str, Array], answer: Mapping[str, Array]) -> float:
    """Return 10 log10 of the reference's energy over the error's: infinite without an error."""
    signal = sum(float(np.square(value.astype(np.float64)).sum()) for value in reference.values())
    noise = sum(float(np.square(_error(value, answer[name])).sum()) for name, value in reference.items())
    if noise == 0.0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0.0 else -math.inf


def _unusable(name: str, expected: Array, value: Array) -> str:
    if value.shape != expected.shape:
        return f"output '{name}' has the shape {list(value.shape)} instead of {list(expected.shape)}"
    bad = int(np.size(value) - np.isfinite(value).sum())
    return f"output '{name}' holds {bad} numbers that are NaN or infinite" if bad else ""


def _breach(
    reference: Mapping[str, Array], errors: Mapping[str, npt.NDArray[np.float64]], snr_db: float, tolerance: Tolerance
) -> str:
    """Say which part of the tolerance is broken; nothing if it holds."""
    if tolerance.min_snr_db is not None:
        kept = snr_db >= tolerance.min_snr_db
        return "" if kept else f"a signal-to-noise ratio of {snr_db:.1f} dB, below {tolerance.min_snr_db:.1f} dB"
    for name, error in errors.items():
        worst = float(np.abs(error).max(initial=0.0))
        allowed = tolerance.absolute + tolerance.relative * float(np.abs(reference[name]).max(initial=0.0))
        if not worst <= allowed:
            return f"output '{name}' is off by {worst:.3g}, more than {allowed:.3g}"
    return ""


def _error(expected: Array, value: Array) -> npt.NDArray[np.float64]:
    return np.subtract(value, expected, dtype=np.float64)
