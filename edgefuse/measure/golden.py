"""Run the golden vectors of a bundle through its files on this device."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from edgefuse import registry
from edgefuse.bundle.manifest import Candidate, GoldenCase, GoldenTensor
from edgefuse.bundle.reader import Bundle
from edgefuse.errors import BackendError, BundleError, InputError
from edgefuse.measure.agreement import Outputs, agreement
from edgefuse.progress import Progress, silent
from edgefuse.runtime.backends.backend import Array, Backend, Session, SessionOptions


@dataclass(frozen=True)
class GoldenResult:
    """How one file did on the golden vectors of its stage.

    Attributes:
        max_abs_error: infinite where the file could not be run or gave unusable numbers.
        snr_db: infinite where nothing differs.
        tolerance: what was asked for, in words.
        ok: whether the tolerance holds.
        reason: why it is not ok; empty when it is.
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
        bundle: an open bundle.
        options: how files are opened.
        progress: called after each file.

    Raises:
        BundleError: if a file is damaged, or there is no golden vector to check against.
        MissingExtraError: if the runtime is not installed.
    """
    runtime: Backend = registry.create("backends", bundle.manifest.backend)
    if not bundle.manifest.golden:
        raise BundleError("this bundle holds no golden vectors", fix="compile it again")
    results: list[GoldenResult] = []
    candidates = bundle.manifest.candidates
    for candidate in candidates:
        results.append(_check_candidate(bundle, candidate, runtime, options or SessionOptions()))
        progress(len(results), len(candidates), "verify files")
    return tuple(results)


def read_tensor(bundle: Bundle, tensor: GoldenTensor) -> Array:
    """Return a golden tensor from its file.

    Raises:
        BundleError: if the file's size does not fit the shape.
    """
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


def _check_candidate(bundle: Bundle, candidate: Candidate, backend: Backend, options: SessionOptions) -> GoldenResult:
    cases = [case for case in bundle.manifest.golden if case.stage == candidate.stage]
    try:
        session = backend.open(bundle.read(candidate.file), candidate.inputs, candidate.outputs, options)
        found = agreement(_answers(bundle, cases, session), candidate.tolerance)
    except (BackendError, InputError) as error:
        return _result(candidate, cases, math.inf, -math.inf, str(error))
    reason = found.reason if cases else "its stage has no golden vectors"
    return _result(candidate, cases, found.max_abs_error, found.snr_db, reason)


def _answers(bundle: Bundle, cases: list[GoldenCase], session: Session) -> Iterator[tuple[Outputs, Outputs]]:
    for case in cases:
        feeds = {tensor.port: read_tensor(bundle, tensor) for tensor in case.inputs}
        yield {tensor.port: read_tensor(bundle, tensor) for tensor in case.outputs}, session.run(feeds)


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
