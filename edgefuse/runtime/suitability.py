"""Whether the int8 arithmetic of a bundle is exact on a CPU (decision 055).

ONNX Runtime multiplies uint8 activations by int8 weights with VPMADDUBSW on x86 CPUs without VNNI. The instruction adds
two products in 16 bits and clips the sum: 2 * 255 * 127 does not fit. That concerns static activations of sign `u8`
and all that are quantized per run, which DynamicQuantizeLinear makes uint8. Signed ones, Arm and LiteRT are exact.
"""

from __future__ import annotations

from edgefuse.bundle.manifest import Candidate, Manifest, Rung
from edgefuse.runtime.processor import Processor

VNNI = ("amx_int8", "avx512_vnni", "avx_vnni", "avx_vnni_int8")
"""CPU features each of which adds up products of int8 in 32 bits."""


def saturates(candidate: Candidate, cpu: Processor) -> bool:
    """Return whether a CPU clips sums of this candidate's int8 products; False where its features are not known."""
    scheme = candidate.scheme
    unsigned = scheme.activation == "u8" or scheme.name == "dynamic_wi8_af32"
    exact = cpu.architecture != "x86_64" or cpu.features is None or cpu.has(*VNNI)
    return candidate.target == "onnx" and unsigned and not exact


def reason(cpu: Processor) -> str:
    """Return why a candidate that saturates is not to be trusted, as the middle of a sentence."""
    return f"sums of uint8 x int8 are clipped to 16 bits, since this CPU ({cpu.name}) has no VNNI"


def concern(manifest: Manifest, rung: Rung, cpu: Processor) -> str | None:
    """Return in words why a rung is inexact on a CPU, and a remedy; None if it is exact.

    Args:
        manifest: of the bundle.
        rung: of the bundle.
        cpu: of this machine.
    """
    stages = _saturating(manifest, rung, cpu)
    if not stages:
        return None
    exact = next((other.name for other in manifest.rungs if not _saturating(manifest, other, cpu)), None)
    fix = (
        f"open the rung '{exact}', which is exact here"
        if exact
        else "compile for this CPU with s8 activations, or use a TFLite bundle, whose int8 is exact"
    )
    return f"the rung '{rung.name}' loses accuracy here: in {', '.join(stages)} {reason(cpu)}. Fix: {fix}."


def _saturating(manifest: Manifest, rung: Rung, cpu: Processor) -> list[str]:
    """Return the stages of a rung that saturate."""
    return [stage for stage, name in sorted(rung.candidates.items()) if saturates(manifest.candidate(name), cpu)]
