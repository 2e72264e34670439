"""Whether the int8 arithmetic of a bundle is exact on a CPU, as its backends say (decision 055)."""

from __future__ import annotations

from edgefuse.bundle.manifest import Candidate, Manifest, Rung
from edgefuse.errors import BackendError, MissingExtraError
from edgefuse.runtime.backends.backend import Saturating
from edgefuse.runtime.backends.choice import Backends
from edgefuse.runtime.processor import Processor


def saturates(candidate: Candidate, backends: Backends, cpu: Processor) -> bool:
    """Return whether a CPU clips sums of this candidate's int8 products; False where its features are not known.

    Args:
        candidate: of a bundle.
        backends: of the bundle.
        cpu: that runs it.
    """
    backend = backends.of(candidate)
    return isinstance(backend, Saturating) and backend.saturates(candidate.scheme, cpu)


def reason(cpu: Processor) -> str:
    """Return why a candidate that saturates is not to be trusted, as the middle of a sentence."""
    return f"sums of uint8 x int8 are clipped to 16 bits, since this CPU ({cpu.name}) has no VNNI"


def concern(manifest: Manifest, rung: Rung, backends: Backends, cpu: Processor) -> str | None:
    """Return in words why a rung is inexact on a CPU, and a remedy; None if it is exact.

    A rung that cannot be opened here, such as one whose runtime is not installed, is no remedy.

    Args:
        manifest: of the bundle.
        rung: of the bundle.
        backends: of the bundle.
        cpu: of this machine.

    Raises:
        MissingExtraError: if a runtime of this rung is not installed.
        BackendError: if there is no backend for one of its files.
    """

    def saturating(rung: Rung) -> list[str]:
        chosen = sorted(rung.candidates.items())
        return [stage for stage, name in chosen if saturates(manifest.candidate(name), backends, cpu)]

    def exact_here(other: Rung) -> bool:
        try:
            return not saturating(other)
        except (MissingExtraError, BackendError):
            return False

    if not (stages := saturating(rung)):
        return None
    exact = next((other.name for other in manifest.rungs if exact_here(other)), None)
    fix = (
        f"open the rung '{exact}', which is exact here"
        if exact
        else "compile for this CPU with s8 activations, or for a target that 'edgefuse doctor' calls exact"
    )
    return f"the rung '{rung.name}' loses accuracy here: in {', '.join(stages)} {reason(cpu)}. Fix: {fix}."
