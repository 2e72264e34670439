"""How well the answers of a file agree with a reference, and whether that is good enough; golden vectors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edgefuse.bundle.manifest import Candidate, GoldenCase, GoldenTensor, Tolerance
from edgefuse.bundle.reader import Bundle
from edgefuse.errors import BackendError, BundleError, InputError
from edgefuse.progress import Progress, silent
from edgefuse.runtime.backends.backend import Array, Session, SessionOptions
from edgefuse.runtime.backends.choice import Backends

Outputs: TypeAlias = Mapping[str, Array]
"""Port name to array."""


@dataclass(frozen=True)
class Agreement:
    """How well answers agree with a reference, over all outputs of all cases.

    Attributes:
        ok: whether the tolerance holds.
        max_abs_error: the largest |error|; infinite where an answer is unusable.
        snr_db: 10 log10 of the reference's energy over the error's, all cases together; infinite when equal.
        lowest_db: the same of the worst output by itself, of those that are beyond the tolerance; `snr_db` if none is.
        reason: why it is not ok, as the middle of a sentence; empty when it is.
    """

    ok: bool
    max_abs_error: float
    snr_db: float
    lowest_db: float
    reason: str = ""


def agreement(cases: Iterable[tuple[Outputs, Outputs]], tolerance: Tolerance) -> Agreement:
    """Judge answers against references, given as pairs under port names.

    The tolerance: |error| <= absolute + relative * max|y| for every output of every case or, where `min_snr_db` is
    given, a signal-to-noise ratio of at least that.
    """
    largest, breach = 0.0, ""
    energies: dict[str, _Energy] = {}
    for reference, answer in cases:
        for port, expected in reference.items():
            actual = answer.get(port)
            if actual is None or actual.shape != expected.shape or not np.isfinite(actual).all():
                return Agreement(False, math.inf, -math.inf, -math.inf, _unusable(port, expected, actual))
            error = np.subtract(actual, expected, dtype=np.float64)
            worst = float(np.abs(error).max(initial=0.0))
            largest = max(largest, worst)
            excess = _excess(port, worst, expected, tolerance)
            energies.setdefault(port, _Energy()).add(expected, error, beyond=bool(excess))
            breach = breach or excess
    every = energies.values()
    snr_db = signal_to_noise_db(sum(one.signal for one in every), sum(one.noise for one in every))
    lowest_db = min((signal_to_noise_db(one.signal, one.noise) for one in every if one.beyond), default=snr_db)
    if tolerance.min_snr_db is not None:
        kept = snr_db >= tolerance.min_snr_db
        breach = "" if kept else f"a signal-to-noise ratio of {snr_db:.1f} dB, below {tolerance.min_snr_db:.1f} dB"
    return Agreement(not breach, largest, snr_db, lowest_db, breach)


@dataclass
class _Energy:
    """The energies of an output and of its error, and whether any case was beyond the tolerance."""

    signal: float = 0.0
    noise: float = 0.0
    beyond: bool = False

    def add(self, expected: Array, error: npt.NDArray[np.float64], *, beyond: bool) -> None:
        self.signal += float(np.square(expected, dtype=np.float64).sum())
        self.noise += float(np.square(error).sum())
        self.beyond |= beyond


def at_true_size(answers: Outputs, reference: Outputs) -> dict[str, Array]:
    """Return answers without what a file of fixed shapes gives behind the true size of its padded inputs.

    Args:
        answers: under port names.
        reference: the same at the true sizes.
    """
    return {port: cropped(answer, reference[port].shape) for port, answer in answers.items() if port in reference}


def cropped(value: npt.NDArray[np.generic], shape: tuple[int, ...]) -> Array:
    """Return the first corner of a value that has a shape; the value itself if it is not larger than that."""
    if value.ndim != len(shape) or any(size < wanted for size, wanted in zip(value.shape, shape, strict=True)):
        return value
    return value[tuple(slice(size) for size in shape)]


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


@dataclass(frozen=True)
class GoldenResult:
    """How one file did on the golden vectors of its stage.

    `max_abs_error` is infinite where the file could not be run or gave unusable numbers, `snr_db` where nothing
    differs; `tolerance` is what was asked for, `reason` why it is not `ok`, in words.
    """

    target: str
    stage: str
    candidate: str
    cases: int
    max_abs_error: float
    snr_db: float
    tolerance: str
    ok: bool
    reason: str = ""


def check(
    bundle: Bundle, options: SessionOptions | None = None, *, progress: Progress = silent
) -> tuple[GoldenResult, ...]:
    """Check every candidate's file against torch fp32; nothing is changed.

    Args:
        bundle: to check.
        options: of the sessions; one thread if None.
        progress: is told how many candidates are done.

    Raises:
        BundleError: if a file is damaged, or there is no golden vector to check against.
        MissingExtraError: if the runtime is not installed.
    """
    backends = Backends(bundle.manifest)
    if not bundle.manifest.golden:
        raise BundleError("this bundle holds no golden vectors", fix="compile it again")
    results: list[GoldenResult] = []
    candidates = bundle.manifest.candidates
    for candidate in candidates:
        results.append(check_candidate(bundle, candidate, backends, options or SessionOptions()))
        progress(len(results), len(candidates), "verify files")
    return tuple(results)


def read_tensor(bundle: Bundle, tensor: GoldenTensor) -> Array:
    """Return a golden tensor from its file; `BundleError` if the file's size does not fit the shape."""
    data = bundle.read(tensor.file)
    dtype = np.dtype(tensor.dtype).newbyteorder("<")
    expected = math.prod(tensor.shape) * dtype.itemsize
    if len(data) != expected:
        raise BundleError(
            f"the golden tensor '{tensor.file}' has the wrong size",
            got=f"{len(data)} bytes",
            expected=f"{expected} for {tensor.dtype} {list(tensor.shape)}",
        )
    return np.frombuffer(data, dtype).reshape(tensor.shape).astype(tensor.dtype)


def check_candidate(bundle: Bundle, candidate: Candidate, backends: Backends, options: SessionOptions) -> GoldenResult:
    """Check one candidate's file; what the runtime refuses is the reason why it is not `ok`.

    Args:
        bundle: that holds it.
        candidate: to check.
        backends: of the bundle.
        options: of the session.
    """
    pruning = candidate.pruning.id if candidate.pruning else ""
    cases = [c for c in bundle.manifest.golden if (c.stage, c.pruning) == (candidate.stage, pruning)]
    try:
        session = backends.open(candidate, bundle.read(candidate.file), options)
        found = agreement(_answers(bundle, cases, session), candidate.tolerance)
    except (BackendError, InputError) as error:
        return _result(candidate, cases, math.inf, -math.inf, str(error))
    reason = found.reason if cases else "its stage has no golden vectors"
    return _result(candidate, cases, found.max_abs_error, found.snr_db, reason)


def _answers(bundle: Bundle, cases: list[GoldenCase], session: Session) -> Iterator[tuple[Outputs, Outputs]]:
    for case in cases:
        feeds = {tensor.port: read_tensor(bundle, tensor) for tensor in case.inputs}
        expected = {tensor.port: read_tensor(bundle, tensor) for tensor in case.outputs}
        yield expected, at_true_size(session.run(feeds), expected)


def _result(
    candidate: Candidate, cases: list[GoldenCase], max_abs_error: float, snr_db: float, reason: str
) -> GoldenResult:
    kept = candidate.tolerance
    asked = f"|e| <= {kept.absolute:g} + {kept.relative:g} max|y|"
    return GoldenResult(
        target=candidate.target,
        stage=candidate.stage,
        candidate=candidate.id,
        cases=len(cases),
        max_abs_error=max_abs_error,
        snr_db=snr_db,
        tolerance=asked if kept.min_snr_db is None else f">= {kept.min_snr_db:g} dB",
        ok=not reason,
        reason=reason,
    )
