"""Where the operators of a bundle's files really run: the share that runs where it was asked to (decision 055).

A runtime falls back in silence. ONNX Runtime leaves an operator that was quantized as a float kernel behind a
DequantizeLinear if no int8 kernel takes it, or hands it to another provider; LiteRT leaves what XNNPACK does not take
to its own, slower kernels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgefuse.bundle.manifest import Candidate
from edgefuse.bundle.reader import Bundle
from edgefuse.errors import BackendError, CheckError, InputError
from edgefuse.measure.agreement import read_tensor
from edgefuse.progress import Progress, silent
from edgefuse.runtime.backends.backend import Array, Operator, Placing, SessionOptions
from edgefuse.runtime.backends.choice import Backends


@dataclass(frozen=True)
class Placement:
    """How much of one file runs where it was asked to.

    Attributes:
        operators: how many the runtime runs.
        share: the fraction of them that runs where asked; None if the runtime does not tell, which `untold` explains.
        mac_share: the same, weighted by multiplications; None where there are none.
        elsewhere: what does not, in words: "2 x Gemm (float after DequantizeLinear)".
    """

    stage: str
    candidate: str
    operators: int = 0
    share: float | None = None
    mac_share: float | None = None
    elsewhere: tuple[str, ...] = ()
    untold: str = ""


def measure(
    bundle: Bundle,
    candidates: Iterable[str] | None = None,
    options: SessionOptions | None = None,
    *,
    progress: Progress = silent,
) -> tuple[Placement, ...]:
    """Open candidates (by id; all if None) once more, run them on their golden inputs, and see what runs where.

    Args:
        bundle: that holds them.
        candidates: by id; all if None.
        options: of the sessions; one thread if None.
        progress: is told how many are done.

    Raises:
        BundleError: if a file is damaged.
        MissingExtraError: if the runtime is not installed.
    """
    wanted = {*candidates} if candidates is not None else None
    chosen = [c for c in bundle.manifest.candidates if wanted is None or c.id in wanted]
    backends, found = Backends(bundle.manifest), list[Placement]()
    for candidate in chosen:
        found.append(_measured(bundle, candidate, backends, options or SessionOptions()))
        progress(len(found), len(chosen), "see what runs where")
    return tuple(found)


def summary(stage: str, candidate: str, operators: Sequence[Operator]) -> Placement:
    """Sum up the operators of one file.

    Args:
        stage: its name.
        candidate: its id.
        operators: of its file.
    """
    away = [operator for operator in operators if operator.elsewhere]
    macs = sum(operator.macs for operator in operators)
    counts = Counter((operator.kind, operator.elsewhere) for operator in away)
    return Placement(
        stage=stage,
        candidate=candidate,
        operators=len(operators),
        share=1 - len(away) / len(operators) if operators else 1.0,
        mac_share=1 - sum(operator.macs for operator in away) / macs if macs else None,
        elsewhere=tuple(f"{count} x {kind} ({where})" for (kind, where), count in sorted(counts.items())),
    )


def spelled(placement: Placement) -> str:
    """Return a share in words: `95.3 %, of the MACs 100.0 %`."""
    if placement.share is None:
        return f"not told: {placement.untold}"
    parts = [f"{100 * placement.share:.1f} %"]
    if placement.share < 1 and placement.mac_share is not None:
        parts.append(f"of the MACs {100 * placement.mac_share:.1f} %")
    return ", ".join(parts)


def require(placements: Sequence[Placement], minimum: float) -> None:
    """Check that every file's share is known and at least `minimum` (a fraction).

    Raises:
        CheckError: if one is not, which names the stage, its share and the operators, or if there is none.
    """
    if not placements:
        raise CheckError("no placement was measured", fix="leave out --min-placement, or --backend")
    for placement in placements:
        what = f"the placement of stage '{placement.stage}' ({placement.candidate})"
        if placement.share is None:
            raise CheckError(f"{what} cannot be checked", got=placement.untold, fix="leave out --min-placement")
        if placement.share < minimum:
            raise CheckError(
                f"{what} is too low",
                got=f"{placement.share:.3f} of {placement.operators} operators where asked, not "
                + ", ".join(placement.elsewhere),
                expected=f"at least {minimum:g}",
                fix="leave these operators out of quantization, or take another scheme or target for this stage",
            )


def _measured(bundle: Bundle, candidate: Candidate, backends: Backends, options: SessionOptions) -> Placement:
    backend = backends.of(candidate)
    if not isinstance(backend, Placing):
        return _untold(candidate, f"the backend '{backend.name}' does not tell what runs where")
    feeds = _golden(bundle, candidate)
    if feeds is None:
        return _untold(candidate, "there are no golden inputs to run it on")
    try:
        data = bundle.read(candidate.file)
        operators = backend.operators(data, candidate.inputs, candidate.outputs, feeds, options)
    except (BackendError, InputError) as error:
        return _untold(candidate, str(error))
    return summary(candidate.stage, candidate.id, operators)


def _untold(candidate: Candidate, why: str) -> Placement:
    return Placement(stage=candidate.stage, candidate=candidate.id, untold=why)


def _golden(bundle: Bundle, candidate: Candidate) -> dict[str, Array] | None:
    pruning = candidate.pruning.id if candidate.pruning else ""
    for case in bundle.manifest.golden:
        if (case.stage, case.pruning) == (candidate.stage, pruning):
            return {tensor.port: read_tensor(bundle, tensor) for tensor in case.inputs}
    return None
